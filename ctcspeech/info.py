"""What this installation holds, what this machine offers, and what is wrong with either: for bug
reports, to choose a device, to find what is missing.

ctcspeech doctor, or python -m ctcspeech.info
"""

import importlib
import importlib.metadata
import importlib.util
import locale
import os
import platform
import shutil
import sys

from ctcspeech import __version__, cuda_built
from ctcspeech.extras import EXTRAS

__all__ = ["facts", "problems", "report"]

_PACKAGES = "numpy soundfile soxr onnxruntime pydantic rapidfuzz typer rich".split()


def _version(package: str) -> str | None:
    """Of what is imported, or fetched, by this name."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        by_import = importlib.metadata.packages_distributions().get(package)
        return importlib.metadata.version(by_import[0]) if by_import else None


def _native() -> list[tuple[str, str]]:
    from ctcspeech import _core
    from ctcspeech.ctc.core import forced_isa

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
    if importlib.util.find_spec("torch") is None:
        return [("torch", "not installed")]
    import torch

    rows = [
        ("torch", torch.__version__),
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


def _extras() -> list[tuple[str, str]]:
    rows = []
    for extra, (packages, purpose) in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        have = ", ".join(f"{n} {_version(n) or '?'}" for n in packages if n not in missing)
        lack = f"no {', '.join(missing)}: {purpose}" if missing else ""
        rows.append((f"[{extra}]", "; ".join(part for part in (have, lack) if part)))
    return rows


def _libsndfile() -> str:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library that it wraps is missing
        return f"FAILS: {error}"
    formats = soundfile.available_formats()
    return f"{soundfile.__libsndfile_version__}; mp3: {'yes' if 'MP3' in formats else 'no'}"


def facts() -> list[tuple[str, str]]:
    """Name and value of everything that a bug report should tell; no path but the core's."""
    return [
        ("ctcspeech", __version__),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("C library", " ".join(platform.libc_ver()).strip() or "?"),
        ("processors", str(_usable_processors())),
        *_native(),
        *((name, _version(name) or "not installed") for name in _PACKAGES),
        ("libsndfile", _libsndfile()),
        *_devices(),
        *_extras(),
        *((name, os.environ[name]) for name in sorted(os.environ) if name.startswith("CTCSPEECH_")),
    ]


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def problems(rows: list[tuple[str, str]]) -> list[str]:
    """What is wrong, each with its remedy; an empty list where all is well.

    rows: what `facts` gave. What is merely not installed is no problem: `facts` tells it.
    """
    found = []
    for name, value in rows:
        if "FAILS" in value or "WRONG" in value:
            found.append(f"{name}: {value}")
        elif name in _PACKAGES and value == "not installed":
            found.append(f"{name} is not installed: pip install ctcspeech brings it")
    if importlib.util.find_spec("torch") is not None:
        found += _torch_problems()
    if locale.getpreferredencoding(False).lower().replace("-", "") not in ("utf8", "cp65001"):
        encoding = locale.getpreferredencoding(False)
        found.append(
            f"the locale's encoding is {encoding}: set LANG=C.UTF-8 for texts of any script"
        )
    if os.environ.get("CTCSPEECH_ISA"):
        isa = os.environ["CTCSPEECH_ISA"]
        found.append(f"CTCSPEECH_ISA={isa} forces an instruction set: unset it for full speed")
    return found


def _torch_problems() -> list[str]:
    import torch

    found = []
    if torch.cuda.is_available() and not cuda_built():
        found.append(
            "there is a CUDA device, but the core was built without CUDA: the loss is computed on "
            "the CPU; install nvcc and build again with CTCSPEECH_CUDA=1"
        )
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        found.append(
            "nvidia-smi is there, but torch sees no CUDA device: install a CUDA build of it"
        )
    if importlib.util.find_spec("torchaudio") is not None:
        try:
            importlib.import_module("torchaudio")
        except (ImportError, OSError) as error:  # a torchaudio for another torch
            first = str(error).splitlines()[0]
            found.append(f"torchaudio cannot be imported next to this torch ({first}): remove it")
    return found


def report() -> str:
    """The lines that `ctcspeech doctor` prints."""
    rows = facts()
    width = max(len(name) for name, _ in rows)
    verdict = [f"WRONG: {problem}" for problem in problems(rows)] or ["nothing is wrong"]
    return "\n".join([*(f"{name:{width}}  {value}" for name, value in rows), "", *verdict])


if __name__ == "__main__":
    print(report())
