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
    from ctcspeech._ctc_arguments import forced_isa

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
    return rows


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
