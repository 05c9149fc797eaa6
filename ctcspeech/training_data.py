"""What a training run reads before its first step: utterances, alphabet, feature statistics."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ctcspeech.alphabet import Alphabet
from ctcspeech.config import DataConfig
from ctcspeech.ctc import infeasible
from ctcspeech.dataset import Item, SpeechDataset
from ctcspeech.errors import AlphabetError, ConfigError, ManifestError, TrainingError
from ctcspeech.features import FeatureConfig, FeatureExtractor, FeatureStatistics, num_frames
from ctcspeech.manifest import Utterance, read_manifest
from ctcspeech.model import AcousticModel

__all__ = [
    "choose_alphabet",
    "compute_statistics",
    "expected_frames",
    "keep_trainable",
    "read_utterances",
]

Report = Callable[[str], None]
SHOWN = 5  # items of a list that are named


def read_utterances(paths: Sequence[Path], key: str) -> list[Utterance]:
    """All utterances of some manifests. `key` is the configuration's, for the error."""
    utterances: list[Utterance] = []
    for path in paths:
        if not path.exists():
            raise ManifestError(
                f"{key}: there is no manifest {path}. A manifest has a line of JSON for each "
                'utterance, {"audio_filepath": ..., "duration": ..., "text": ...}; '
                "`ctcspeech data import` makes one"
            )
        utterances += read_manifest(path)
    return utterances


def choose_alphabet(
    config: DataConfig, texts: Sequence[str], previous: Alphabet | None = None
) -> Alphabet:
    """The alphabet that the configuration names, else `previous` (that of the model to be tuned)
    where it can write all texts, else one made from the texts."""
    if config.normalizer is not None:
        texts = [config.normalizer(text) for text in texts]
    if config.alphabet is not None:
        if config.alphabet.suffix == ".json":
            return Alphabet.load(config.alphabet)
        return Alphabet.from_sentencepiece(config.alphabet)
    if previous is not None and not any(previous.missing(text) for text in texts):
        return previous
    try:
        return Alphabet.from_text(texts, config.alphabet_kind, size=config.alphabet_size)
    except AlphabetError as error:
        raise ConfigError(f"data.alphabet is not given, and none can be made: {error}") from error


def expected_frames(utterance: Utterance, features: FeatureConfig) -> int:
    """Frames of an utterance by the manifest's duration."""
    if features.kind == "precomputed":
        return round(utterance.duration * 1000 / features.shift_ms)
    return num_frames(round(utterance.duration * features.sample_rate), features)


def keep_trainable(
    dataset: SpeechDataset,
    config: DataConfig,
    features: FeatureConfig,
    model: AcousticModel,
    report: Report,
) -> list[Utterance]:
    """The dataset's utterances without those that cannot be trained on, which are reported.

    Left out are those shorter than `min_seconds`, longer than `max_seconds`, of unknown duration,
    with characters outside the alphabet, or with fewer frames than their labels need.
    """
    kept: list[Utterance] = []
    reasons: dict[str, list[str]] = {}
    for utterance in dataset.utterances:
        reason = untrainable(utterance, dataset, config, features, model)
        if reason is None:
            kept.append(utterance)
        else:
            kind, detail = reason
            reasons.setdefault(kind, []).append(f"{utterance.path}: {detail}")
    for kind, items in reasons.items():
        report(f"left out {len(items)} of {len(dataset)} utterances: {kind}")
        for item in items[:SHOWN]:
            report(f"  {item}")
        if len(items) > SHOWN:
            report(f"  and {len(items) - SHOWN} more")
    if not kept:
        raise TrainingError(
            "none of the training utterances can be trained on; `ctcspeech data check` says more"
        )
    return kept


def untrainable(
    utterance: Utterance,
    dataset: SpeechDataset,
    config: DataConfig,
    features: FeatureConfig,
    model: AcousticModel,
) -> tuple[str, str] | None:
    """(kind of reason, detail), or None."""
    duration = utterance.duration
    if not (math.isfinite(duration) and duration > 0):
        return "no duration in the manifest", f"{duration} s"
    if not config.min_seconds <= duration <= config.max_seconds:
        limits = f"not {config.min_seconds:g} to {config.max_seconds:g} s long"
        return f"{limits} (data.min_seconds, data.max_seconds)", f"{duration:.2f} s"
    try:
        targets = dataset.encode(utterance)
    except AlphabetError as error:
        return "characters outside the alphabet", str(error)
    frames = expected_frames(utterance, features)
    outputs = int(model.output_lengths(torch.tensor(frames)))
    if outputs < 1 or bool(infeasible(targets[None], torch.tensor([outputs]), [len(targets)])[0]):
        return (
            "text too long for the recording",
            f"{len(targets)} labels (and a blank between equal ones) in {outputs} frames of "
            f"emissions, {duration:.2f} s",
        )
    return None


def compute_statistics(
    dataset: SpeechDataset, features: FeatureExtractor, count: int, seed: int
) -> FeatureStatistics:
    """Mean and deviation of the features over `count` utterances drawn from the dataset.

    The dataset must have no augmenter. Files that cannot be read are passed over; they are reported
    when their turn comes in training.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))[:count]
    statistics = FeatureStatistics(features.num_features)
    device = features.mean.device
    for index in sorted(order.tolist()):
        item = dataset[index]
        if isinstance(item, Item):
            inputs = item.inputs[None].to(device)
            raw, lengths = features.raw(inputs, torch.tensor([len(item.inputs)], device=device))
            statistics.accumulate(raw, lengths)
    if statistics.frames == 0:
        failure = dataset[int(order[0])]
        detail = "" if isinstance(failure, Item) else f"; the first: {failure.reason}"
        raise TrainingError(f"no training utterance could be read{detail}")
    return statistics
