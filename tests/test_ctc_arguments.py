"""The CTC loss refuses wrong arguments by name, before it computes anything."""

import numpy as np
import pytest
import torch

from ctcspeech import CTCLoss, _core, ctc, ctc_loss
from ctcspeech.ctc import core

X = torch.zeros(5, 2, 4)
Y = torch.tensor([[1, 2, 3], [3, 2, 1]])


@pytest.mark.parametrize(
    "error, message, args",
    [
        (TypeError, "logits must be a torch.Tensor, got list", ([[1.0]], Y, 5, 3)),
        (TypeError, "logits must be float32.*got torch.int64", (X.long(), Y, 5, 3)),
        (ValueError, r"logits must be \(T, N, C\).*got 1 dimensions", (X[0, 0], Y, 5, 3)),
        (ValueError, "at least one class", (torch.zeros(5, 2, 0), Y, 5, 3)),
        (TypeError, "targets must be integers.*got torch.float32", (X, Y.float(), 5, 3)),
        (TypeError, "targets must be integers.*got torch.bool", (X, Y > 0, 5, 3)),
        (ValueError, "targets must be .* got 3 dimensions", (X, Y[None], 5, 3)),
        (ValueError, r"a row for each of the 2 utterances.*got shape \(1, 3\)", (X, Y[:1], 5, 3)),
        (TypeError, "input_lengths must be integers.*got torch.float32",
         (X, Y, [5.0, 5.0], 3)),
        (TypeError, "target_lengths must be integers.*", (X, Y, 5, "three")),
        (ValueError, r"input_lengths must be one length for each.*got shape \(3,\)",
         (X, Y, [5] * 3, 3)),
        (ValueError, r"target_lengths must be one length.*\(2, 1\)", (X, Y, 5, [[3], [3]])),
        (ValueError, r"input_lengths\[1\] must be between 0 and the 5 frames.*got 6",
         (X, Y, [5, 6], 3)),
        (ValueError, r"input_lengths\[0\] .*got -1", (X, Y, [-1, 5], 3)),
        (ValueError, r"target_lengths\[1\] .*the 3 columns of targets, got 4", (X, Y, 5, [3, 4])),
        (ValueError, r"target_lengths\[0\] must be .*got -2", (X, Y, 5, [-2, 3])),
        (ValueError, r"target_lengths\[0\] must be at least 0, got -2",
         (X, Y.flatten(), 5, [-2, 3])),
        (ValueError, "have 6 labels.*run out in utterance 1, which has 4",
         (X, Y.flatten(), 5, [3, 4])),
        (ValueError, r"targets\[0, 1\] must be in \[0, 4\), got 4", (X, Y * 2, 5, 3)),
        (ValueError, r"targets\[1, 2\] must be in \[0, 4\), got -1; for a wildcard",
         (X, torch.tensor([[1, 2, 3], [3, 2, -1]]), 5, 3)),
        (ValueError, r"targets\[4\] \(label 1 of utterance 1\) is 0, which is the blank",
         (X, torch.tensor([1, 2, 3, 3, 0, 1]), 5, 3)),
        (ValueError, r"targets\[1, 0\] is 3, which is the blank", (X, Y - Y % 2 * 0, 5, [0, 3], 3)),
        (ValueError, r"blank must be in \[0, 4\), got 4", (X, Y, 5, 3, 4)),
        (ValueError, r"blank must be in \[0, 4\), got -1", (X, Y, 5, 3, -1)),
        (TypeError, "blank must be an int, got float", (X, Y, 5, 3, 0.0)),
        (ValueError, "reduction must be 'none', 'mean' or 'sum', got 'avg'",
         (X, Y, 5, 3, 0, "avg")),
    ],
)  # fmt: skip
def test_wrong_arguments(error, message, args):
    with pytest.raises(error, match=message):
        ctc_loss(*args)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"delay_penalty": float("nan")}, "delay_penalty must be finite"),
        ({"wildcard_penalty": -1.0}, "wildcard_penalty must be None or a finite number >= 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ctc_loss(X, Y, 5, 3, **options)


def test_module_checks_when_it_is_made():
    with pytest.raises(ValueError, match="reduction"):
        CTCLoss(reduction="avg")
    with pytest.raises(TypeError, match="blank"):
        CTCLoss(blank=None)


@pytest.mark.parametrize("function", [ctc.loss_and_grad, ctc.posteriors])
def test_wrong_arrays(function):
    x, y = X.numpy(), Y.numpy()
    with pytest.raises(TypeError, match="logits must be float32.*got int64"):
        function(x.astype(int), y, 5, 3)
    with pytest.raises(TypeError, match="targets must be integers.*got float64"):
        function(x, y.astype(float), 5, 3)
    with pytest.raises(ValueError, match=r"input_lengths\[1\] must be between 0 and the 5"):
        function(x, y, np.array([5, 9]), 3)
    with pytest.raises(ValueError, match=r"targets\[0, 2\] must be in"):
        function(x, y + 1, 5, 3)


def test_forced_instruction_set_must_exist(monkeypatch):
    try:
        monkeypatch.setenv("CTCSPEECH_ISA", "mmx")
        with pytest.raises(ValueError, match="CTCSPEECH_ISA must be one of .*got 'mmx'"):
            core.read_environment()
        missing = {"baseline", "avx2", "avx512", "neon"} - set(_core.available_isas())
        monkeypatch.setenv("CTCSPEECH_ISA", sorted(missing)[0])
        core.read_environment()
        with pytest.raises(ValueError, match="has only baseline"):
            ctc_loss(X, Y, 5, 3)
    finally:
        monkeypatch.undo()
        core.read_environment()


def test_log_probs_is_another_name():
    wanted = ctc_loss(X, Y, 5, 3)
    given = {"targets": Y, "input_lengths": 5, "target_lengths": 3}
    assert torch.equal(ctc_loss(log_probs=X, **given), wanted)
    assert torch.equal(ctc_loss(logits=X, **given), wanted)
    assert torch.equal(CTCLoss()(log_probs=X, **given), wanted)
    assert torch.equal(CTCLoss()(X, Y, 5, 3), wanted)
    for function in (ctc_loss, CTCLoss()):
        with pytest.raises(TypeError, match="one of logits and log_probs"):
            function(X, log_probs=X, **given)
        with pytest.raises(TypeError, match="one of logits and log_probs"):
            function(**given)
        with pytest.raises(TypeError, match="needs logits, targets"):
            function(X, targets=Y)


@pytest.mark.parametrize("name", ["int8", "int16", "uint8", "int32"])
def test_narrow_integers(name):
    wanted = ctc_loss(X, Y, 5, 3)
    dtype = getattr(torch, name)
    lengths = torch.tensor([5, 5], dtype=dtype), torch.tensor([3, 3], dtype=dtype)
    assert torch.equal(ctc_loss(X, Y.to(dtype), *lengths), wanted)
    assert torch.equal(ctc_loss(X, Y.to(dtype), 5, 3), wanted)
    assert torch.equal(ctc_loss(X, Y, *lengths), wanted)
    loss, _ = ctc.loss_and_grad(X.numpy(), Y.numpy().astype(name), 5, 3)
    assert loss == pytest.approx(wanted.item(), rel=1e-6)


def test_the_module_is_a_loss_of_torch():
    assert isinstance(CTCLoss(reduction="sum"), torch.nn.modules.loss._Loss)
    assert CTCLoss(reduction="sum").reduction == "sum"
