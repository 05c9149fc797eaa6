"""The CTC loss as an operator of torch, and as functions of NumPy and DLPack arrays."""

from ctcspeech.ctc.loss import WILDCARD, CTCLoss, ctc_loss, infeasible, loss_and_grad, posteriors

__all__ = ["WILDCARD", "CTCLoss", "ctc_loss", "infeasible", "loss_and_grad", "posteriors"]
