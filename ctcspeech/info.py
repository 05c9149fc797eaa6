"""What this installation holds and what this machine offers: for bug reports, to choose a device.

python -m ctcspeech.info
"""

import importlib.metadata
import platform
import sys

from ctcspeech import __version__, cuda_built

__all__ = ["report"]

_PACKAGES = ("torch", "numpy", "soundfile", "soxr", "pydantic", "safetensors")
_OPTIONAL = ("sentencepiece", "optuna", "matplotlib", "torchaudio", "pyctcdecode", "kenlm")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _native() -> list[tuple[str, str]]:
    from ctcspeech import _core
    from ctcspeech.ctc.arguments import forced_isa

    available = _core.available_isas()
    built = "no"
    if cuda_built():
        architectures = _core.cuda_architectures().split()
        built = (
            ", ".join(f"sm_{a}" for a in architectures) + f"; PTX of compute_{architectures[-1]}"
        )
    return [
        ("native core", _core.__file__ or "?"),
        ("instruction sets", f"{', '.join(available)}; in use: {forced_isa() or available[-1]}"),
        ("CUDA kernels", built),
    ]


def _devices() -> list[tuple[str, str]]:
    import torch

    rows = [
        ("torch threads", str(torch.get_num_threads())),
        ("torch's CUDA", torch.version.cuda or "no"),
    ]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        rows.append(("CUDA devices", "none"))
    for i in range(count):
        p = torch.cuda.get_device_properties(i)
        size = p.total_memory / 2**30
        rows.append((f"cuda:{i}", f"{p.name}, sm_{p.major}{p.minor}, {size:.0f} GiB"))
        if cuda_built():
            rows.append((f"loss on cuda:{i}", _agreement(f"cuda:{i}")))
    return rows


def _agreement(device: str) -> str:
    """Whether a device gives the CPU's CTC loss and gradient, on a small problem."""
    import torch

    from ctcspeech.ctc.loss import ctc_loss

    results = []
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(120, 4, 29, generator=generator)
    targets = torch.randint(1, 29, (4, 30), generator=generator)
    frames, labels = torch.tensor([120, 100, 80, 60]), torch.tensor([30, 20, 1, 0])
    try:
        for place in ("cpu", device):
            x = logits.to(place).requires_grad_()
            y, lengths = targets.to(place), frames.to(place)
            loss = ctc_loss(x, y, lengths, labels.to(place), reduction="sum")
            loss.backward()
            assert x.grad is not None
            results.append((loss.item(), x.grad.cpu()))
    except RuntimeError as error:
        return f"FAILS: {error}"
    (loss_here, gradient_here), (loss_there, gradient_there) = results
    off = abs(loss_there / loss_here - 1), (gradient_there - gradient_here).abs().max().item()
    verdict = "as on the CPU" if off[0] < 1e-5 and off[1] < 1e-5 else "WRONG"
    return f"{verdict} (relative difference {off[0]:.0e}, gradient {off[1]:.0e})"


def report() -> str:
    """The lines that `python -m ctcspeech.info` prints."""
    rows = [
        ("ctcspeech", __version__),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        *_native(),
        *((name, _version(name) or "not installed") for name in _PACKAGES),
        *_devices(),
        *((name, _version(name) or "not installed (optional)") for name in _OPTIONAL),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    print(report())
