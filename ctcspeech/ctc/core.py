"""One call of the native core's loss: the instruction set, the numbers, the threads, the memory."""

import os
import sys
from typing import Any

import numpy as np

from ctcspeech import _core
from ctcspeech.ctc.problem import Problem, raise_error

__all__ = [
    "ARITHMETICS",
    "ISAS",
    "LARGE",
    "compute",
    "forced_isa",
    "isa",
    "large_block",
    "read_environment",
    "threads",
]

ISAS = {"baseline": 0, "avx2": 1, "avx512": 2, "neon": 3}
ARITHMETICS = {"float": 0, "double": 1, "extended": 2, "log": 3}


def _forced(variable: str, choices: dict[str, int], default: int) -> int:
    name = os.environ.get(variable)
    if not name:
        return default
    if name not in choices:
        raise ValueError(f"{variable} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


_isa = -1
_arithmetic = 0


def read_environment() -> None:
    """For tests: CTCSPEECH_ISA forces an instruction set, CTCSPEECH_CTC_ARITHMETIC the first kind
    of number to try (each falls back to the next where its range ends). Read once at import."""
    global _isa, _arithmetic
    _isa = _forced("CTCSPEECH_ISA", ISAS, -1)
    _arithmetic = _forced("CTCSPEECH_CTC_ARITHMETIC", ARITHMETICS, 0)


read_environment()


def isa() -> int:
    """What CTCSPEECH_ISA asks for, as the core's functions take it: -1 for the best."""
    return _isa


def forced_isa() -> str | None:
    """The instruction set that CTCSPEECH_ISA asks for."""
    return next((name for name, code in ISAS.items() if code == _isa), None)


def threads() -> int:
    """torch's number of threads where torch is imported, else one for each processor that this
    process may use (OMP_NUM_THREADS, if set)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def compute(problem: Problem, losses: Any, reduced: Any, gradient: Any, reduction: int,
            zero_infinity: bool, arithmetic: Any = None,
            keep_labels: bool = False) -> bytes | None:  # fmt: skip
    """Losses, their reduction, the gradient, and the kind of number that each utterance took
    (int32) into the given arrays (None: not wanted). With `keep_labels` returns a copy of labels
    and lengths as bytes (on the CPU)."""
    if getattr(problem.logits, "is_cuda", False):
        from ctcspeech.ctc import cuda

        cuda.compute(problem, losses, reduced, gradient, reduction, zero_infinity)
        return None
    answer = _core.ctc_loss(
        problem.input(),
        problem.output(losses, reduced, gradient, reduction, zero_infinity, arithmetic),
        threads(),
        _isa,
        _arithmetic,
        keep_labels,
    )
    if isinstance(answer, tuple):
        raise_error(problem, answer)
    return answer


LARGE = 1 << 17  # bytes, from which on memory for gradients is kept and used again


def large_block(size: int) -> np.ndarray:
    """Bytes in pages that an earlier gradient has already been in."""
    block: np.ndarray = _core.large_block(size)
    return block
