"""The CTC loss and its gradient on a CUDA device against torch's kernels, cuDNN's and a Triton one.

    python benchmarks/ctc_loss.py --device cuda
    python benchmarks/ctc_loss.py --device cuda --sizes 0 1 --markdown results.md

Same work in one process: log-softmax, loss and gradient with respect to the logits, dispatch from
Python included. Results are compared with torch's in float64 before anything is timed; the time is
taken by events around each call, after a warm-up, cold caches not enforced. Peers: torch's native
kernel; cuDNN's through torch, where it takes the input; FlagGems' Triton kernel, where installed.
"""

import statistics
import sys

import machine
import torch
import torch.nn.functional as F

import ctcspeech

SIZES = [  # T, N, C, L
    (150, 32, 29, 40),
    (400, 16, 29, 80),
    (1000, 16, 29, 150),
    (1500, 32, 29, 200),
    (5000, 2, 29, 700),
    (400, 16, 1024, 40),
    (1000, 8, 5000, 60),
    (1500, 256, 29, 200),
    (300, 64, 32000, 60),
]


class Problem:
    def __init__(self, shape, dtype, ragged):
        T, N, C, L = self.shape = shape
        g = torch.Generator("cuda").manual_seed(0)
        self.x = torch.randn(T, N, C, generator=g, device="cuda").to(dtype).requires_grad_()
        self.y = torch.randint(1, C, (N, L), generator=g, device="cuda")
        self.frames = torch.full((N,), T, device="cuda")
        self.labels = torch.full((N,), L, device="cuda")
        if ragged:
            self.frames = torch.linspace(T // 2, T, N, device="cuda").long()
            self.labels = torch.linspace(L // 3, L, N, device="cuda").long()
        keep = (torch.arange(L, device="cuda") < self.labels[:, None]).flatten()
        self.joined = self.y.flatten()[keep].int().cpu()  # as cuDNN wants it
        self.host_frames, self.host_labels = self.frames.int().cpu(), self.labels.int().cpu()

    def run(self, loss):
        self.x.grad = None
        value = loss()
        value.backward()
        return value

    def ours(self):
        return self.run(
            lambda: ctcspeech.ctc_loss(self.x, self.y, self.frames, self.labels, reduction="sum")
        )

    def alone(self):
        with torch.no_grad():
            return ctcspeech.ctc_loss(self.x, self.y, self.frames, self.labels, reduction="sum")

    def native(self):
        def loss():
            y = self.x.float().log_softmax(2)
            return F.ctc_loss(y, self.y, self.frames, self.labels, reduction="sum")

        with torch.backends.cudnn.flags(enabled=False):
            return self.run(loss)

    def cudnn(self):
        def loss():
            y = self.x.float().log_softmax(2)
            return F.ctc_loss(y, self.joined, self.host_frames, self.host_labels, reduction="sum")

        return self.run(loss)

    def cudnn_takes_it(self):
        T, _, _, L = self.shape
        return (
            L < 256 and bool((self.host_frames == T).all()) and torch.backends.cudnn.is_available()
        )

    def triton(self):
        import flag_gems

        with flag_gems.use_gems():
            return self.native()


def triton_installed():
    try:
        import flag_gems
    except ImportError:
        return False
    return hasattr(flag_gems, "ctc_loss")


def timed(call, seconds=1.0):
    """Median milliseconds between events around a call, and half the interquartile range."""
    for _ in range(3):
        call()
    times = []
    while len(times) < 10 or (sum(times) < seconds * 1e3 and len(times) < 300):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, (high - low) / 2


def copy_bandwidth():
    """Bytes read and written a second by a copy of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds, _ = timed(lambda: target.copy_(source))
    return 2 * source.numel() / (milliseconds / 1e3)


def peak_memory(call, problem):
    """Bytes taken beyond what there was before, less the gradient."""
    problem.x.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    gradient = problem.x.numel() * problem.x.element_size()
    return torch.cuda.max_memory_allocated() - before - gradient


def check(problem):
    """The largest error of our gradient; raises where loss or gradient is wrong."""
    x = problem.x.detach().double().requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):
        loss = F.ctc_loss(
            x.log_softmax(2), problem.y, problem.frames, problem.labels, reduction="sum"
        )
        loss.backward()
    value = problem.ours()
    error = (problem.x.grad.double() - x.grad).abs().max().item()
    allowed = 3e-6 if problem.x.dtype == torch.float32 else 4e-3
    assert error < allowed, f"gradient error {error}"
    for one in (value, problem.alone()):
        assert abs(one.item() / loss.item() - 1) < 1e-6, "loss"
    return error


def row(shape, dtype, ragged, bandwidth):
    problem = Problem(shape, dtype, ragged)
    error = check(problem)
    ours, spread = timed(problem.ours)
    alone, _ = timed(problem.alone)
    native, native_spread = timed(problem.native)
    cells = [", ".join(map(str, shape)), str(dtype).split(".")[1], "ragged" if ragged else "full"]
    cells += [f"{ours:.3f} ± {spread:.3f}", f"{alone:.3f}"]
    cells += [f"{native:.3f} ± {native_spread:.3f}", f"{native / ours:.1f}x"]
    for call, possible in (
        (problem.cudnn, problem.cudnn_takes_it()),
        (problem.triton, triton_installed()),
    ):
        if possible:
            theirs, _ = timed(call)
            cells += [f"{theirs:.3f}", f"{theirs / ours:.1f}x"]
        else:
            cells += ["", ""]
    moved = 2 * problem.x.numel() * problem.x.element_size()
    cells.append(f"{moved / (ours / 1e3) / bandwidth:.0%}")
    mine, theirs = peak_memory(problem.ours, problem), peak_memory(problem.native, problem)
    cells += [f"{mine / 2**20:.1f}", f"{theirs / 2**20:.1f}", f"{error:.1e}"]
    print("  ".join(cells), flush=True)
    return cells


HEAD = [
    "T, N, C, L", "type", "lengths", "ctcspeech ms", "loss alone ms", "torch native ms", "",
    "cuDNN ms", "", "Triton ms", "", "of copy bandwidth", "peak MiB", "torch's", "gradient error",
]  # fmt: skip


def main(sizes, markdown):
    if not ctcspeech.cuda_built():
        sys.exit("this build of ctcspeech holds no CUDA kernels: build it where nvcc is found")
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here: nothing was measured")
    bandwidth = copy_bandwidth()
    name = torch.cuda.get_device_name()
    where = (
        f"{name}, copy {bandwidth / 1e9:.0f} GB/s; {machine.describe()}; torch {torch.__version__}"
    )
    print(where)
    chosen = [SIZES[i] for i in (sizes if sizes is not None else range(len(SIZES)))]
    rows = [row(s, torch.float32, ragged, bandwidth) for ragged in (False, True) for s in chosen]
    rows += [row(s, torch.bfloat16, False, bandwidth) for s in chosen if s[2] >= 1024]
    if markdown:
        lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
        text = f"""# The CTC loss on the GPU

    {" ".join(["python", *sys.argv])}

{where}. Loss and gradient with respect to the logits, medians between events with half the
interquartile range. Bandwidth: each logit read once and each gradient written once. Peak memory:
beyond logits and gradient.

{chr(10).join(lines)}
"""
        with open(markdown, "w") as f:
            f.write(text)
