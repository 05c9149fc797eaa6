"""What benchmarks share: the machine that they ran on, in one line; writing a page of results."""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["describe", "write_page"]


def write_page(path: Path, lines: Sequence[str]) -> None:
    """Writes a page of results, and prints it."""
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text, end="")


def describe() -> str:
    """Processor, cores, and the widest instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    widest = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "baseline")
    family = (
        f" (family {fields['cpu family']}, model {fields['model']})" if "model" in fields else ""
    )
    return f"{fields.get('model name', 'unknown')}{family}, {os.cpu_count()} cores, {widest}"
