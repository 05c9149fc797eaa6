"""The CTC loss on a CUDA device: the bodies of the operator's tests there, then what only a device
has. Skipped where there is none; what holds without one is in test_ctc_kernels.py.

    compute-sanitizer --tool memcheck python -m pytest -q tests/test_ctc_cuda.py
    compute-sanitizer --tool racecheck python -m pytest -q tests/test_ctc_cuda.py -k "not bits"
"""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_ctc
import test_ctc_terms
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import ctcspeech
from ctcspeech import CTCLoss, _core, ctc, ctc_loss
from ctcspeech.ctc import cuda as _ctc_cuda
from ctcspeech.ctc.problem import Options
from ctcspeech.ctc.tensors import prepare

READY = torch.cuda.is_available() and ctcspeech.cuda_built()
needs_device = pytest.mark.skipif(not READY, reason="no CUDA device or build")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

# ---- the operator's tests: tensors move to the device before the call, results back --------------

NOT_HERE = {
    "test_same_bits_for_threads_and_order",  # counts CPU threads
    "test_layouts_agree",  # the same bits through other lengths' types: below
}
for _module in (test_ctc, test_ctc_terms) if READY else ():
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in NOT_HERE:
            globals()[_name.replace("test_", "test_operator_", 1)] = _test


def moved(value):
    return value.cuda() if isinstance(value, torch.Tensor) else value


def on_device(function):
    def call(*args, **options):
        return function(*map(moved, args), **options).cpu()

    return call


def numpy_on_device(logits, targets, input_lengths, target_lengths, *args, **options):
    x = torch.from_numpy(np.ascontiguousarray(logits)).cuda().requires_grad_()
    lengths = [
        torch.as_tensor(n).cuda() if np.ndim(n) else int(n) for n in (input_lengths, target_lengths)
    ]
    loss = ctc_loss(x, torch.from_numpy(np.asarray(targets)).cuda(), *lengths, *args, **options)
    loss.sum().backward()
    return loss.detach().cpu().numpy(), x.grad.cpu().numpy()


class ModuleOnDevice(CTCLoss):
    def forward(self, *args):
        return super().forward(*map(moved, args)).cpu()

    def _get_name(self):
        return "CTCLoss"


@pytest.fixture(autouse=True)
def device(monkeypatch, request):
    if request.node.name.startswith("test_operator_"):
        for module in (test_ctc, test_ctc_terms):
            monkeypatch.setattr(module, "ctc_loss", on_device(ctc_loss))
        monkeypatch.setattr(test_ctc, "CTCLoss", ModuleOnDevice)
        monkeypatch.setattr(ctc, "loss_and_grad", numpy_on_device)


# ---- builds --------------------------------------------------------------------------------------


def test_a_build_without_kernels_says_what_to_do(monkeypatch):
    monkeypatch.setattr(_ctc_cuda, "_core", SimpleNamespace(cuda_built=lambda: False))
    with pytest.raises(ValueError, match="holds no CUDA kernels: install it again where nvcc"):
        _ctc_cuda.check_built(torch.zeros(5, 1, 3))


def test_other_devices_are_refused():
    logits = torch.empty(5, 1, 3, device="meta")
    with pytest.raises(ValueError, match="CPU or a CUDA device, got meta"):
        ctc_loss(logits, torch.tensor([[1]]), 5, 1)
    with pytest.raises(TypeError, match="logits must be on the CPU, got meta: pass logits.cpu()"):
        ctc.posteriors(logits, torch.tensor([[1]]), 5, 1)


def device_code(library):
    """(kind, architecture) of each piece of device code in a library: a fat binary is a header
    (magic, version, its own size, the size of what follows) and entries (kind, version, size of the
    header, size of what follows, ..., architecture at byte 28)."""
    found, at = set(), library.find(b"\x50\xed\x55\xba")
    while at >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", library, at)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", library, entry)
            found.add((kind, struct.unpack_from("<I", library, entry + 28)[0]))
            entry += header + size
        at = library.find(b"\x50\xed\x55\xba", end)
    return found


@pytest.mark.skipif(not ctcspeech.cuda_built(), reason="built without CUDA")
def test_every_architecture_is_in_the_build():
    promised = [int(a) for a in _core.cuda_architectures().split()]
    assert promised
    ptx, cubin = 1, 2
    built = device_code(Path(_core.__file__).read_bytes())
    assert built == {(cubin, a) for a in promised} | {(ptx, promised[-1])}
    if nvcc := shutil.which("nvcc"):
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        wanted = {a for a in (75, 80, 86, 89, 90, 100, 120) if f"compute_{a}\n" in known}
        assert set(promised) == wanted


def test_import_asks_for_no_driver():
    """The core imports, and computes on the CPU, whatever devices there are or are not."""
    code = (
        "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "import numpy as np\n"
        "from ctcspeech import _core, ctc, cuda_built\n"
        "loss, _ = ctc.loss_and_grad(np.zeros((2, 1, 2), np.float32), np.array([[1]]), 2, 1)\n"
        "maps = open('/proc/self/maps').read() if os.path.exists('/proc/self/maps') else ''\n"
        "import torch\n"
        "print(loss, cuda_built(), 'libcuda.so' in maps)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loss, built, driver = done.stdout.split()
    assert float(loss) == pytest.approx(-np.log(3 / 4)) and driver == "False"
    assert built == str(ctcspeech.cuda_built())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.skipif(not ctcspeech.cuda_built(), reason="built without CUDA")
def test_without_a_device_the_core_reports_the_runtimes_error():
    problem = prepare(torch.zeros(5, 1, 3), torch.tensor([[1]]), 5, 1, False, Options(0, None, 0.0))
    output = problem.output(None, None, None, 0, False)
    with pytest.raises(RuntimeError, match="the CTC kernels failed: .*(driver|device)"):
        _core.ctc_cuda_workspace(problem.input(), output, 0, 0)
    with pytest.raises(RuntimeError, match="the CTC kernels failed: "):
        _core.ctc_cuda_loss(problem.input(), output, 0, 0, 0, 0, 0)


@pytest.mark.skipif(not ctcspeech.cuda_built(), reason="built without CUDA")
def test_tracing_needs_no_device():
    """Fake tensors, as torch.compile and torch.export use: results are on the logits' device."""
    with FakeTensorMode():
        x = torch.empty(20, 3, 6, device="cuda", requires_grad=True)
        y = torch.ones(3, 4, dtype=torch.int64, device="cuda")
        frames, labels = (torch.full((3,), n, device="cuda") for n in (20, 4))
        for args in ((y, frames, labels), (y, 20, 4), (y.cpu(), frames.cpu(), labels.cpu())):
            for options in ({}, {"reduction": "none"}, {"label_smoothing": 0.1}):
                loss = ctc_loss(x, *args, **options)
                assert loss.device == x.device and loss.requires_grad
                assert loss.shape == ((3,) if "reduction" in options else ())
        with pytest.raises(ValueError, match="input_lengths must be between 0 and 20, got 21"):
            ctc_loss(x, y, 21, 4)
        rest = (y, frames, labels, 0, False, None, 0.0)
        gradient = torch.ops.ctcspeech.ctc_loss_backward(labels.float(), x.detach(), x, *rest)
        assert gradient.device == x.device and gradient.shape == x.shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_benchmark_refuses_without_a_device():
    script = Path(__file__).parent.parent / "benchmarks" / "ctc_loss.py"
    done = subprocess.run(
        [sys.executable, str(script), "--device", "cuda"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(script.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no CUDA device here" in done.stderr or "no CUDA kernels" in done.stderr


# ---- on the device -------------------------------------------------------------------------------


def batch(T=60, N=5, C=11, L=12, dtype=torch.float32, seed=0):
    """Everything on the device."""
    return [a.cuda() for a in test_ctc.batch(T, N, C, L, dtype, seed)]


def loss_and_gradient(logits, *args, **options):
    x = logits.detach().clone().requires_grad_()
    loss = ctc_loss(x, *args, **options)
    loss.sum().backward()
    return loss.detach(), x.grad


@needs_device
@pytest.mark.parametrize("shape", [(150, 8, 29, 40), (60, 3, 1030, 20), (3000, 1, 7, 1400)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_equals_the_cpu(shape, dtype):
    args = test_ctc.batch(*shape, dtype=dtype)
    loss, gradient = loss_and_gradient(*(a.cuda() for a in args), reduction="none")
    wanted, wanted_gradient = loss_and_gradient(*args, reduction="none")
    torch.testing.assert_close(loss.cpu(), wanted, rtol=1e-6, atol=1e-5)
    rtol = 1e-2 if dtype.itemsize == 2 else 0
    torch.testing.assert_close(gradient.cpu(), wanted_gradient, atol=4e-6, rtol=rtol)


@needs_device
def test_layouts_agree():
    logits, targets, frames, labels = batch()
    wanted = loss_and_gradient(logits, targets, frames, labels)
    rows = torch.cat([t[:n] for t, n in zip(targets, labels, strict=True)])
    for variant in [
        (logits, rows, frames, labels),
        (logits, rows.cpu(), frames.cpu(), labels.cpu()),
        (logits, targets.int(), frames.int(), labels.tolist()),
        (logits, targets.cpu().pin_memory(), frames, labels.cpu().pin_memory()),
        (logits.permute(2, 0, 1).contiguous().permute(1, 2, 0), targets, frames, labels),
    ]:
        for one, other in zip(wanted, loss_and_gradient(*variant), strict=True):
            assert torch.equal(one, other)


@needs_device
def test_same_bits_in_a_hundred_runs():
    args = batch(200, 16, 29, 40)
    loss, gradient = loss_and_gradient(*args, reduction="none")
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(100):
            again, its_gradient = loss_and_gradient(*args, reduction="none")
            assert torch.equal(loss, again) and torch.equal(gradient, its_gradient)
    finally:
        torch.use_deterministic_algorithms(False)


@needs_device
def test_nothing_waits_for_the_device():
    args = batch()
    x = args[0].requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ctc_loss(x, *args[1:]).backward()
        ctc_loss(x, args[1], 60, 12, label_smoothing=0.1, zero_infinity=True).backward()
        (ctc_loss(x, *args[1:], reduction="none") * 3).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_device
def test_any_stream():
    args = batch()
    wanted = loss_and_gradient(*args)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for stream in streams:
        with torch.cuda.stream(stream):
            busy = torch.randn(2000, 2000, device="cuda")
            for _ in range(5):
                busy = busy @ busy
            results.append(loss_and_gradient(*args))
    torch.cuda.synchronize()
    for result in results:
        assert all(map(torch.equal, wanted, result))


@needs_device
def test_graph_capture():
    logits, *rest = batch()
    x = logits.clone().requires_grad_()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        loss_and_gradient(x, *rest)
    torch.cuda.synchronize()
    x.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = ctc_loss(x, *rest) * 0.5
        (gradient,) = torch.autograd.grad(loss, x)
    for seed in range(3):
        with torch.no_grad():
            x.copy_(batch(seed=seed)[0])
        graph.replay()
        wanted, wanted_gradient = loss_and_gradient(x, *rest)
        torch.testing.assert_close(loss, wanted * 0.5)
        torch.testing.assert_close(gradient, wanted_gradient * 0.5)


@needs_device
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_another_device_than_the_current():
    args = batch()
    wanted = loss_and_gradient(*args)
    other = loss_and_gradient(*(a.to("cuda:1") for a in args))
    assert torch.cuda.current_device() == 0
    assert all(torch.equal(a, b.to("cuda:0")) for a, b in zip(wanted, other, strict=True))
    with pytest.raises(ValueError, match="targets are on cuda:1, but logits on cuda:0"):
        ctc_loss(args[0], args[1].to("cuda:1"), *args[2:])


@needs_device
def test_wrong_values():
    logits, targets, frames, labels = batch()
    clean, _ = loss_and_gradient(logits, targets, frames, labels, reduction="none")
    targets[1, 0], labels[1] = 99, 12
    loss, gradient = loss_and_gradient(logits, targets, frames, labels, reduction="none")
    assert loss[1].isnan() and gradient[: frames[1], 1].isnan().all()
    keep = [0, 2, 3, 4]
    assert torch.equal(loss[keep], clean[keep])
    with pytest.raises(ValueError, match=r"targets\[1, 0\] must be in \[0, 11\), got 99"):
        ctc_loss(logits, targets.cpu(), frames.cpu(), labels.cpu())
    with pytest.raises(ValueError, match=r"input_lengths\[4\] must be between 0 and the 60"):
        ctc_loss(logits, targets, [60, 60, 60, 60, 61], labels)
    with pytest.raises(ValueError, match="input_lengths must be between 0 and 60, got 61"):
        ctc_loss(logits, targets, 61, labels)


@needs_device
def test_factor_of_a_gradient_scaler():
    logits, *rest = batch(dtype=torch.bfloat16)
    x, y = logits.clone().requires_grad_(), logits.float().requires_grad_()
    (ctc_loss(x, *rest) * 1024.0).backward()
    (ctc_loss(y, *rest) * 1024.0).backward()
    torch.testing.assert_close(x.grad, y.grad.bfloat16(), atol=1e-2, rtol=2e-2)


@needs_device
def test_inside_torch():
    logits, *rest = batch()
    options = (0, False, False, None, 0.0, True)
    x = logits.clone().requires_grad_()
    torch.library.opcheck(torch.ops.ctcspeech.ctc_loss.default, (x, *rest, *options))

    def function(x, *args):
        return ctc_loss((x * 2).log_softmax(2), *args, zero_infinity=True)

    wanted, compiled = function(x, *rest), torch.compile(function, fullgraph=True,
                                                         backend="aot_eager")(x, *rest)  # fmt: skip
    torch.testing.assert_close(wanted, compiled)
    a, b = torch.autograd.grad(wanted, x)[0], torch.autograd.grad(compiled, x)[0]
    torch.testing.assert_close(a, b)

    class Model(torch.nn.Module):
        def forward(self, x, *args):
            return ctc_loss(x, *args)

    program = torch.export.export(Model(), (logits, *rest))
    torch.testing.assert_close(program.module()(logits, *rest), ctc_loss(logits, *rest))
    linear = torch.nn.Linear(11, 11).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = ctc_loss(linear(logits), *rest)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(linear.weight.grad).all()


@needs_device
def test_log_probs_through_torch():
    logits, *rest = batch(dtype=torch.float64)
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ctc_loss(x, *rest).backward()
    F.ctc_loss(y.log_softmax(2), *rest).backward()
    torch.testing.assert_close(x.grad, y.grad)
