"""The CTC loss as an operator of torch, and as functions of NumPy and DLPack arrays.

What takes tensors is imported at its first use: the functions of arrays work without torch.
"""

from typing import TYPE_CHECKING, Any

from ctcspeech.ctc.arrays import loss_and_grad, posteriors
from ctcspeech.ctc.problem import WILDCARD

if TYPE_CHECKING:
    from ctcspeech.ctc.loss import CTCLoss, ctc_loss, infeasible

__all__ = ["WILDCARD", "CTCLoss", "ctc_loss", "infeasible", "loss_and_grad", "posteriors"]


def __getattr__(name: str) -> Any:
    if name in ("CTCLoss", "ctc_loss", "infeasible"):
        from ctcspeech.ctc import loss

        return getattr(loss, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
