"""The CTC loss and its gradient against torch and jitted optax, on the CPU.

    python benchmarks/ctc_loss.py                     the whole table (about ten minutes)
    python benchmarks/ctc_loss.py --sizes 0 1 --markdown benchmarks/results/ctc_loss.md
    python benchmarks/ctc_loss.py --device cuda       on a GPU: see ctc_loss_cuda.py

Same work in one process: log-softmax, loss and gradient with respect to the logits, dispatch from
Python included. Results are compared before anything is timed. One thread is timed by the thread's
own CPU time, which other processes on the machine change least; two threads by the clock.
"""

import argparse
import os
import platform
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import ctcspeech  # noqa: E402
from ctcspeech import _core  # noqa: E402

SIZES = [  # T, N, C, L
    (150, 32, 29, 40),
    (400, 16, 29, 80),
    (1000, 16, 29, 150),
    (1500, 32, 29, 200),
    (5000, 2, 29, 700),
    (400, 16, 1024, 40),
    (1000, 8, 5000, 60),
]


class Problem:
    def __init__(self, T, N, C, L, ragged):
        g = torch.Generator().manual_seed(0)
        self.shape = (T, N, C, L)
        self.x = torch.randn(T, N, C, generator=g)
        self.y = torch.randint(1, C, (N, L), generator=g)
        self.frames = torch.full((N,), T)
        self.labels = torch.full((N,), L)
        if ragged:
            self.frames = torch.linspace(T // 2, T, N).long()
            self.labels = torch.linspace(L // 3, L, N).long()
        self.leaf = self.x.clone().requires_grad_()

    def ours(self):
        self.leaf.grad = None
        loss = ctcspeech.ctc_loss(self.leaf, self.y, self.frames, self.labels, reduction="sum")
        loss.backward()
        return loss

    def ours_alone(self):
        with torch.no_grad():
            return ctcspeech.ctc_loss(self.x, self.y, self.frames, self.labels, reduction="sum")

    def torchs(self):
        self.leaf.grad = None
        loss = F.ctc_loss(
            self.leaf.log_softmax(2), self.y, self.frames, self.labels, reduction="sum"
        )
        loss.backward()
        return loss

    def torchs_alone(self):
        with torch.no_grad():
            return F.ctc_loss(
                self.x.log_softmax(2), self.y, self.frames, self.labels, reduction="sum"
            )


def optax_call(problem):
    """Jitted loss and gradient of optax, or None where it is not installed."""
    try:
        import jax
        import jax.numpy as jnp
        import optax
    except ImportError:
        return None
    T, N, _, L = problem.shape
    frames, labels = problem.frames.numpy(), problem.labels.numpy()
    x = jnp.asarray(problem.x.transpose(0, 1).numpy())
    no_frame = jnp.asarray((np.arange(T) >= frames[:, None]).astype(np.float32))
    no_label = jnp.asarray((np.arange(L) >= labels[:, None]).astype(np.float32))
    y = jnp.asarray(problem.y.numpy())
    step = jax.jit(jax.value_and_grad(lambda x: optax.ctc_loss(x, no_frame, y, no_label).sum()))

    def call():
        loss, gradient = step(x)
        gradient.block_until_ready()
        return loss, gradient

    return call


def timed(call, clock, seconds=1.0, least=5, most=60):
    """Median and the quarter-to-three-quarter spread in milliseconds."""
    call()
    times, start = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - start < seconds and len(times) < most):
        begin = clock()
        call()
        times.append((clock() - begin) * 1e3)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return middle, high - low


def check(problem):
    """Both results against torch in float64; the largest errors of ours and of torch's float32."""
    x = problem.x.double().requires_grad_()
    args = problem.y, problem.frames, problem.labels
    loss = F.ctc_loss(x.log_softmax(2), *args, reduction="sum")
    loss.backward()
    errors = []
    for call in (problem.ours, problem.torchs):
        value = call()
        errors.append((problem.leaf.grad - x.grad).abs().max().item())
        most = 1e-6 if call == problem.ours else 1e-5
        assert abs(value.item() / loss.item() - 1) < most
    assert errors[0] < 3e-6, errors
    alone = problem.ours_alone().item()
    assert abs(alone / loss.item() - 1) < 1e-6
    return errors


def emissions(name, T, C, L, rng):
    """Logits of one utterance: as at random, as of a trained model, as of a wrong transcript."""
    y = rng.integers(1, C, L)
    x = rng.normal(size=(T, C))
    if name in ("trained", "wrong transcript"):
        spoken = y if name == "trained" else rng.integers(1, C, L)
        sure = 10.0 if name == "trained" else 15.0
        x[:, 0] += sure
        for label, t in zip(spoken, np.sort(rng.choice(T // 2, L, replace=False)) * 2, strict=True):
            x[t, 0] -= sure
            x[t, label] += sure
    return x * {"peaky": 20, "extreme": 100}.get(name, 1), y


def family_errors():
    """The largest errors against torch in float64: the loss relative, the gradient absolute."""
    rows = []
    for name in ("random", "trained", "wrong transcript", "peaky", "extreme"):
        for T, L in [(200, 30), (1000, 150), (5000, 700)]:
            x, y = emissions(name, T, 29, L, np.random.default_rng(T))
            leaf = torch.tensor(x[:, None], dtype=torch.float32, requires_grad=True)
            exact = leaf.detach().double().requires_grad_()
            target = torch.tensor(y[None])
            loss = ctcspeech.ctc_loss(leaf, target, T, L, reduction="sum")
            loss.backward()
            length, labels = torch.tensor([T]), torch.tensor([L])
            wanted = F.ctc_loss(exact.log_softmax(2), target, length, labels, reduction="sum")
            wanted.backward()
            off = abs(loss.item() / wanted.item() - 1)
            slope = (leaf.grad - exact.grad).abs().max().item()
            assert off < 1e-6 and slope < 3e-6, (name, T, off, slope)
            rows.append([name, str(T), f"{wanted.item():.4g}", f"{off:.1e}", f"{slope:.1e}"])
            print("  ".join(rows[-1]), flush=True)
    return rows


def table(selected, with_optax):
    rows = []
    for ragged in (False, True):
        for shape in (SIZES[i] for i in selected):
            problem = Problem(*shape, ragged)
            errors = check(problem)
            torch.set_num_threads(1)
            clock = time.thread_time
            ours, spread = timed(problem.ours, clock)
            alone, _ = timed(problem.ours_alone, clock)
            theirs, their_spread = timed(problem.torchs, clock, 3.0, 3)
            theirs_alone, _ = timed(problem.torchs_alone, clock, 2.0, 3)
            cells = [
                ", ".join(map(str, shape)),
                "ragged" if ragged else "full",
                f"{ours:.3f} ± {spread / 2:.3f}",
                f"{theirs:.1f} ± {their_spread / 2:.1f}",
                f"**{theirs / ours:.0f}x**",
                f"{alone:.3f}",
                f"{theirs_alone / alone:.0f}x",
            ]
            peer = optax_call(problem) if with_optax and not ragged else None
            if peer:
                value, gradient = peer()
                assert np.allclose(value, problem.ours().item(), rtol=1e-3)
                mine = problem.leaf.grad.transpose(0, 1).numpy()
                assert np.abs(np.asarray(gradient) - mine).max() < 0.05
                wall, _ = timed(problem.ours, time.perf_counter, 1.0)
                jitted, _ = timed(peer, time.perf_counter, 3.0, 3)
                cells += [f"{jitted:.1f}", f"{jitted / wall:.0f}x"]
            else:
                cells += ["", ""]
            cells += [f"{errors[0]:.1e}", f"{errors[1]:.1e}"]
            rows.append(cells)
            print("  ".join(cells), flush=True)
    return rows


def two_threads(selected):
    """Speed-up of two threads over one by the clock, pairs interleaved."""
    rows = []
    for shape in (SIZES[i] for i in selected):
        problem = Problem(*shape, False)
        one, two = [], []
        for _ in range(30):
            for threads, times in ((1, one), (2, two)):
                torch.set_num_threads(threads)
                begin = time.perf_counter()
                problem.ours()
                times.append((time.perf_counter() - begin) * 1e3)
        torch.set_num_threads(1)
        gain, best = statistics.median(one) / statistics.median(two), min(one) / min(two)
        rows.append([", ".join(map(str, shape)), f"{gain:.2f}x", f"{best:.2f}x"])
        print("  ".join(rows[-1]), flush=True)
    return rows


def small_call():
    """T = 50, N = 1, C = 29, L = 10 in microseconds: ours and torch's, then the losses alone."""
    problem = Problem(50, 1, 29, 10, False)
    calls = (problem.ours, problem.torchs, problem.ours_alone, problem.torchs_alone)
    for call in calls * 50:
        call()
    return [timed(call, time.thread_time, 1.0, 200, 3000)[0] * 1e3 for call in calls]


def machine():
    model = "unknown CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as f:
            model = next((x.split(":")[1].strip() for x in f if x.startswith("model name")), model)
    isas = ", ".join(_core.available_isas())
    return (
        f"{model}, {os.cpu_count()} cores, instruction sets {isas}; {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", type=int, nargs="*", default=None)
    parser.add_argument("--no-optax", action="store_true")
    parser.add_argument("--markdown", help="write the tables to this file")
    options = parser.parse_args()
    if options.device == "cuda":
        import ctc_loss_cuda

        return ctc_loss_cuda.main(options.sizes, options.markdown)
    if options.sizes is None:
        options.sizes = range(len(SIZES))
    torch.set_num_threads(1)
    print(machine())
    rows = table(options.sizes, not options.no_optax)
    threads = two_threads([i for i in options.sizes if SIZES[i][1] >= 8])
    families = family_errors()
    small = small_call()
    print("small call, us: ours, torch, ours alone, torch alone:", [f"{x:.0f}" for x in small])
    if options.markdown:
        head = [
            "T, N, C, L", "lengths", "ctcspeech ms", "torch ms", "", "loss alone ms",
            "against torch", "optax ms", "against optax", "gradient error", "torch's",
        ]  # fmt: skip
        lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
        errors = [f"| {' | '.join(cells)} |" for cells in families]
        pairs = [f"| {' | '.join(cells)} |" for cells in threads]
        text = f"""# The CTC loss on the CPU

    {" ".join(["python", *sys.argv])}

{machine()}. Loss and gradient with respect to the logits, float32, one thread, medians of CPU time
with half the interquartile range; optax by the clock. Gradient error: largest absolute difference
from torch in float64.

{chr(10).join(lines)}

Two threads against one, by the clock (median, best):

| T, N, C, L | median | best |
| --- | --- | --- |
{chr(10).join(pairs)}

Errors against torch in float64 (loss relative, gradient absolute), C = 29:

| emissions | T | loss | loss's error | gradient's error |
| --- | --- | --- | --- | --- |
{chr(10).join(errors)}

A small call (T = 50, N = 1, C = 29, L = 10), microseconds: {small[0]:.0f} with gradient (torch
{small[1]:.0f}), {small[2]:.0f} for the loss alone (torch {small[3]:.0f}).
"""
        with open(options.markdown, "w") as f:
            f.write(text)


if __name__ == "__main__":
    main()
