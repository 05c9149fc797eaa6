"""Validation of a model while it is trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.ctc.loss import ctc_loss
from ctcspeech.data.batches import DurationBatchSampler
from ctcspeech.data.dataset import Batch, SpeechDataset, collate
from ctcspeech.model.attention import attention_loss
from ctcspeech.model.checkpoint import Checkpoint
from ctcspeech.text.error_rates import ErrorCounts, character_errors, word_errors

__all__ = ["Validation", "validate"]


@dataclass
class Validation:
    """Loss (that of training, without smoothing) and errors of greedy decoding: of CTC's, or of the
    attention decoder's where nothing else was trained. `failures`: utterances that could not be
    scored."""

    loss: float = 0.0  # summed, nats
    labels: int = 0  # over which `loss` was summed
    words: ErrorCounts = field(default_factory=ErrorCounts)
    characters: ErrorCounts = field(default_factory=ErrorCounts)
    failures: list[str] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """wer and cer as shares, loss in nats a label."""
        return {
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "loss": self.loss / max(1, self.labels),
        }


def validate(
    checkpoint: Checkpoint,
    dataset: SpeechDataset,
    batch_seconds: float,
    *,
    part: slice = slice(None),
    autocast: Callable[[], AbstractContextManager[Any]],
    stopped: Callable[[], bool] = lambda: False,
    ctc_share: float = 1.0,
) -> Validation:
    """Scores the model on the batches `part` of a dataset; early when `stopped()`. ctc_share: of
    the loss, the rest being the attention decoder's."""
    sampler = DurationBatchSampler(dataset.durations, batch_seconds, shuffle=False)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler.batches(0)[part], collate_fn=collate
    )
    result = Validation()
    checkpoint.model.eval()
    for batch in loader:
        if stopped():
            break
        result.failures += [f"{f.utterance.path}: {f.reason}" for f in batch.failures]
        if len(batch):
            score(checkpoint, dataset, batch, autocast, result, ctc_share)
    return result


def as_recognised(config: FeatureConfig, batch: Batch) -> tuple[Tensor, Tensor]:
    """Samples (N, S) and lengths (N,) with the tail that recognition adds."""
    if not config.tail_ms:
        return batch.inputs, batch.input_lengths
    lengths = torch.tensor([config.with_tail(n) for n in batch.input_lengths.tolist()])
    more = int(lengths.max()) - batch.inputs.shape[1]
    return torch.nn.functional.pad(batch.inputs, (0, max(0, more))), lengths


@torch.no_grad()
def score(
    checkpoint: Checkpoint,
    dataset: SpeechDataset,
    batch: Batch,
    autocast: Callable[[], AbstractContextManager[Any]],
    result: Validation,
    ctc_share: float = 1.0,
) -> None:
    """Adds a batch to the result. An utterance without a frame is recognised as nothing."""
    alphabet = checkpoint.alphabet
    device = checkpoint.features.mean.device
    inputs, lengths = as_recognised(checkpoint.features.config, batch)
    features, lengths = checkpoint.features(inputs.to(device), lengths.to(device))
    heard = (lengths > 0).nonzero()[:, 0].tolist()
    hypotheses = [""] * len(batch)
    if heard:
        targets, target_lengths = batch.targets[heard], batch.target_lengths[heard]
        losses = torch.zeros(len(heard))
        texts: list[list[int]] = []
        with autocast():
            emissions, states, lengths = checkpoint.model.states(features[heard], lengths[heard])
        if ctc_share:
            emissions, frames = emissions.float().cpu(), lengths.cpu()
            losses = ctc_share * ctc_loss(
                emissions,
                targets,
                frames,
                target_lengths,
                alphabet.blank,
                reduction="none",
                batch_first=True,
            )
            paths = emissions.argmax(-1).tolist()
            texts = [alphabet.collapse(p[:n]) for p, n in zip(paths, frames.tolist(), strict=True)]
        decoder = checkpoint.model.attention
        if decoder is not None and ctc_share < 1:
            states = states.float()
            logits, _ = decoder(states, lengths, targets.to(device))
            if not ctc_share:
                longest = 2 * int(lengths.max()) + 10
                texts = decoder.greedy(states, lengths, longest, alphabet.blank)
            more = attention_loss(logits, targets.to(device), target_lengths).cpu()
            losses = losses + (1 - ctc_share) * more
        finite = losses.isfinite()
        result.loss += float(losses[finite].double().sum())
        result.labels += int(target_lengths[finite].sum())
        for i, labels in zip(heard, texts, strict=True):
            hypotheses[i] = alphabet.decode(labels)
    for utterance, hypothesis in zip(batch.utterances, hypotheses, strict=True):
        text = utterance.text
        reference = text if dataset.normalizer is None else dataset.normalizer(text)
        result.words += word_errors(reference, hypothesis)
        result.characters += character_errors(reference, hypothesis)
