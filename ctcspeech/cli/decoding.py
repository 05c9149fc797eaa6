"""What `transcribe` and `evaluate` have in common: recogniser and decoder from their options."""

import ctypes
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ctcspeech.transcribe import Decoder, Recognizer

__all__ = ["DecoderName", "load_recognizer", "make_decoder", "memory_trimmer"]


class DecoderName(str, Enum):
    greedy = "greedy"


def memory_trimmer() -> Callable[[], None]:
    """A function that gives freed memory back to the system, where the C library is glibc.

    What glibc keeps between batches of changing size would add up over hours of work.
    """
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            return lambda: library.malloc_trim(0)
    return lambda: None


def load_recognizer(model: Path, device: str, threads: int | None) -> "Recognizer":
    """The recogniser; a device that there is not is wrong usage."""
    import torch

    from ctcspeech.transcribe import Recognizer

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        reason = str(error).strip().split("\n")[0]
        raise typer.BadParameter(f"--device {device}: {reason}") from error
    return Recognizer.from_checkpoint(model, device, threads)


def make_decoder(name: DecoderName, recognizer: "Recognizer") -> "Decoder":
    return {DecoderName.greedy: recognizer.greedy_decoder}[name]()
