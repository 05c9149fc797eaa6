"""What a training run makes before its first step: data, alphabet, features, model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctcspeech.audio.feature_config import FeatureConfig, num_frames
from ctcspeech.audio.features import FeatureExtractor, FeatureStatistics
from ctcspeech.ctc.loss import infeasible
from ctcspeech.data.augment import Augmenter
from ctcspeech.data.batches import DurationBatchSampler
from ctcspeech.data.dataset import Item, SpeechDataset
from ctcspeech.data.frame_shift import propose_frame_shift
from ctcspeech.data.indexed import IndexedManifest
from ctcspeech.data.manifest import Utterance
from ctcspeech.data.shards import ShardBatchSampler, ShardReader
from ctcspeech.errors import AlphabetError, ConfigError, ManifestError, TrainingError
from ctcspeech.model.checkpoint import Checkpoint, load_checkpoint
from ctcspeech.model.deepspeech import AcousticModel, build_model
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.train.config import DataConfig, RunConfig, differences
from ctcspeech.train.joint import ctc_share

__all__ = [
    "Manifests",
    "Materials",
    "choose_alphabet",
    "compute_statistics",
    "expected_frames",
    "keep_trainable",
    "make_sampler",
    "prepare",
    "read_manifests",
]

Report = Callable[[str], None]
# Of [model] and [features], what a checkpoint that is fine-tuned may have had otherwise.
FREE = {
    "dropout", "dropout_per", "state_dropout", "attention", "attention.dropout", "hide_end",
    "tail_ms",
}  # fmt: skip
HEAD = "attention."  # what the names of the attention decoder's weights begin with
SHOWN = 5  # items of a list that are named
AT_ONCE = 1 << 16  # durations, so that arrays made on the way are small
LOOKED_AT = 5000  # utterances, evenly spread, by which the frame shift is judged


@dataclass
class Materials:
    """What the training loop works with. Feature statistics may be missing yet."""

    alphabet: Alphabet
    features: FeatureExtractor
    model: AcousticModel
    dataset: SpeechDataset  # without augmentation
    validation: SpeechDataset
    augmenter: Augmenter


@dataclass
class Manifests:
    """The utterances of a run."""

    train: IndexedManifest
    validation: IndexedManifest

    @classmethod
    def read(cls, config: DataConfig) -> "Manifests":
        """Raises ManifestError."""
        read = [
            read_manifests(config.train, "data.train", config.normalizer),
            read_manifests(config.validation, "data.validation", config.normalizer),
        ]
        return cls(*read)


def prepare(
    config: RunConfig, manifests: Manifests, last: Checkpoint | None, report: Report
) -> Materials:
    """Makes what `config` describes, or goes on with the checkpoint `last` of the same run, or with
    the one that `train.init_from` names."""
    data, seed = config.data, config.train.seed
    start = last
    if start is None and config.train.init_from is not None:
        start = initial_checkpoint(config, config.train.init_from)
        report(f"fine-tuning {config.train.init_from}")
    if last is not None:
        alphabet = last.alphabet
    else:
        alphabet = choose_alphabet(data, manifests.train, start.alphabet if start else None)
    if start is None:
        features = FeatureExtractor(config.features)
        torch.manual_seed(seed)
        model = build_model(config.model, features.num_features, len(alphabet))
        with torch.no_grad():
            model.output.bias[alphabet.blank] += config.train.blank_bias
    else:
        features, model = start.features, start.model
        if start.alphabet != alphabet:
            adapt_output(model, start.alphabet, alphabet)
            report(f"new output layer: {len(start.alphabet)} to {len(alphabet)} labels")

    check_end(model, features.config)

    def dataset(items: IndexedManifest) -> SpeechDataset:
        return SpeechDataset(
            items,
            alphabet,
            features.config,
            seed=seed,
            normalizer=data.normalizer,
            cache_bytes=int(data.cache_mb * 2**20 / 2),
        )

    everything = dataset(manifests.train)
    aligned = ctc_share(config.train, model) > 0
    kept = keep_trainable(
        manifests.train, everything, features.config, data, model, report, aligned
    )
    if aligned:
        report_coarse_frames(dataset(kept), features.config, model, report)
    end_silence = model.hidden_end * features.config.shift if model.hidden_end else 0
    augmenter = Augmenter(config.augment, features.config.sample_rate, end_silence)
    validation = dataset(manifests.validation)
    return Materials(alphabet, features, model, dataset(kept), validation, augmenter)


def check_end(model: AcousticModel, features: FeatureConfig) -> None:
    """Raises ConfigError where a model without emissions for the end would not hear the last word.
    (Features that tell the end, by padding or normalization by the utterance, have no tail.)"""
    if not model.hidden_end:
        return
    needed = model.hidden_end * features.shift_ms
    if features.tail_ms < needed:
        raise ConfigError(
            f"features.tail_ms must be at least the {needed:g} ms that the model looks ahead, as "
            f"model.hide_end leaves these out, got {features.tail_ms:g}; {needed + 300:g} hears "
            "recordings out that are cut closely, too"
        )


def initial_checkpoint(config: RunConfig, path: Path) -> Checkpoint:
    """The checkpoint to fine-tune. Sections that the configuration gives must agree with it, but
    for what holds no weights, which is the configuration's, and the attention decoder: one that the
    checkpoint does not have begins untrained, one that the configuration does not have is left out.
    """
    checkpoint = load_checkpoint(path)
    model, given = checkpoint.model, config.model_fields_set
    for section, own, its in (
        ("model", config.model, model.config),
        ("features", config.features, checkpoint.features.config),
    ):
        keys = sorted(set(differences(own, its)) - FREE)
        if section in given and keys:
            raise ConfigError(
                f"train.init_from: {path} was trained with another [{section}] ({keys}); leave "
                "the section out to take the checkpoint's"
            )
    if "model" in given:
        torch.manual_seed(config.train.seed)
        new = build_model(config.model, model.num_features, model.num_labels)
        kept = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if new.attention is not None or not name.startswith(HEAD)
        }
        found = new.load_state_dict(kept, strict=False)
        assert all(name.startswith(HEAD) for name in found.missing_keys)
        assert not found.unexpected_keys
        checkpoint.model = new
    if "features" in given and checkpoint.features.config.tail_ms != config.features.tail_ms:
        checkpoint.features = FeatureExtractor(config.features, checkpoint.features.statistics)
    return checkpoint


def adapt_output(model: AcousticModel, old: Alphabet, new: Alphabet) -> None:
    """A new output layer; labels that both alphabets have keep their weights."""
    before = model.output
    model.replace_output(len(new))
    rows = {label: i for i, label in enumerate(old.labels) if i != old.blank}
    pairs = [(i, rows[label]) for i, label in enumerate(new.labels) if label in rows]
    pairs = [(i, j) for i, j in pairs if i != new.blank] + [(new.blank, old.blank)]
    to, of = (torch.tensor(column) for column in zip(*pairs, strict=True))
    with torch.no_grad():
        model.output.weight[to] = before.weight[of]
        model.output.bias[to] = before.bias[of]
    if model.attention is not None:
        model.attention.replace_labels(len(new), to, of)


def read_manifests(
    paths: Sequence[Path], key: str, normalizer: Callable[[str], str] | None
) -> IndexedManifest:
    """The utterances of some manifests. `key` is the configuration's, for the error."""
    for path in paths:
        if not path.exists():
            raise ManifestError(
                f"{key}: there is no manifest {path}. A manifest has a line of JSON for each "
                'utterance, {"audio_filepath": ..., "duration": ..., "text": ...}; '
                "`ctcspeech data import` makes one"
            )
    return IndexedManifest.read(paths, normalizer)


def choose_alphabet(
    config: DataConfig, manifest: IndexedManifest, previous: Alphabet | None = None
) -> Alphabet:
    """The alphabet that the configuration names, else `previous` (that of the model to be tuned)
    where it can write all texts, else one made from the texts."""
    if config.alphabet is not None:
        if config.alphabet.suffix == ".json":
            return Alphabet.load(config.alphabet)
        return Alphabet.from_sentencepiece(config.alphabet)
    all_characters = "".join(sorted(manifest.characters))
    if previous is not None and not previous.missing(all_characters):
        return previous
    kind, normalizer = config.alphabet_kind, config.normalizer
    try:
        if kind == "characters":
            try:
                return Alphabet.from_text([all_characters])
            except AlphabetError:
                pass  # said again of the text in which the character is
        texts = (normalizer(x) if normalizer else x for x in manifest.texts())
        return Alphabet.from_text(texts, kind, size=config.alphabet_size)
    except AlphabetError as error:
        raise ConfigError(f"data.alphabet is not given, and none can be made: {error}") from error


def expected_frames(durations: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """Frames of utterances by their durations in the manifest."""
    if features.kind == "precomputed":
        return np.rint(durations * 1000 / features.shift_ms).astype(np.int64)
    frames = np.empty(len(durations), np.int64)
    for start in range(0, len(durations), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        samples = np.rint(durations[some] * features.sample_rate)
        different, place = np.unique(samples, return_inverse=True)
        frames[some] = np.array([num_frames(int(n), features) for n in different], np.int64)[place]
    return frames


def keep_trainable(
    manifest: IndexedManifest,
    dataset: SpeechDataset,
    features: FeatureConfig,
    config: DataConfig,
    model: AcousticModel,
    report: Report,
    aligned: bool = True,
) -> IndexedManifest:
    """The utterances without those that cannot be trained on, which are reported.

    Left out are those shorter than `min_seconds`, longer than `max_seconds`, of unknown duration,
    with characters outside the alphabet, or with fewer frames than their labels need (one, unless
    the training is `aligned`, by CTC).
    """
    durations = manifest.durations
    keep = (durations >= config.min_seconds) & (durations <= config.max_seconds)
    frames = np.zeros(len(manifest), np.int64)
    frames[keep] = expected_frames(durations[keep], features)
    frames[keep] += model.hidden_end  # of silence, which the augmentation adds
    outputs = model.output_lengths(torch.from_numpy(frames)).numpy()
    # A text has no more labels than bytes, and between two there is one blank at most. Only where
    # that may be too much, or some text has an unknown character, are labels looked at.
    needed = 2 * manifest.text_bytes if aligned else np.zeros_like(manifest.text_bytes)
    sure = keep & (outputs >= np.maximum(1, needed))
    if dataset.alphabet.missing("".join(sorted(manifest.characters))):
        sure[:] = False
    if config.normalizer is not None:
        sure &= manifest.text_bytes > 0  # one that the normaliser refuses has none
    reasons: dict[str, list[str]] = {}
    for index in np.flatnonzero(~sure).tolist():
        utterance = manifest[index]
        reason = untrainable(utterance, dataset, config, int(outputs[index]), aligned)
        keep[index] = reason is None
        if reason is not None:
            kind, detail = reason
            reasons.setdefault(kind, []).append(f"{utterance.path}: {detail}")
    for kind, items in reasons.items():
        report(f"left out {len(items)} of {len(manifest)} utterances: {kind}")
        for item in items[:SHOWN]:
            report(f"  {item}")
        if len(items) > SHOWN:
            report(f"  and {len(items) - SHOWN} more")
    if not keep.any():
        raise TrainingError(
            "none of the training utterances can be trained on; `ctcspeech data check` says more"
        )
    return manifest if keep.all() else manifest.select(np.flatnonzero(keep))


def report_coarse_frames(
    dataset: SpeechDataset, features: FeatureConfig, model: AcousticModel, report: Report
) -> None:
    """Says so where the model's frames of emissions are too long for labels that come so fast."""
    shift = features.shift_ms * model.subsampling
    count = len(dataset.utterances)
    some = range(0, count, max(1, count // LOOKED_AT))
    utterances = [dataset.utterances[i] for i in some]
    found = propose_frame_shift((dataset.encode(u).tolist(), u.duration) for u in utterances)
    if found is not None and found[0] < shift:
        report(
            f"a frame of emissions is {shift:g} ms, but labels come every {found[1]:.0f} ms in the "
            f"median: frames of {found[0]:g} ms are proposed (model.time_stride)"
        )


def untrainable(
    utterance: Utterance,
    dataset: SpeechDataset,
    config: DataConfig,
    outputs: int,
    aligned: bool = True,
) -> tuple[str, str] | None:
    """(kind of reason, detail), or None. outputs: frames of emissions, by the duration. aligned:
    whether the labels must fit into them."""
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
    frames = torch.tensor([outputs])
    if outputs < 1 or (aligned and bool(infeasible(targets[None], frames, [len(targets)])[0])):
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


def make_sampler(
    config: RunConfig, dataset: SpeechDataset, rank: int, world_size: int
) -> DurationBatchSampler | ShardBatchSampler:
    """What puts the training utterances into batches; of tar shards, which are read in their order
    from then on, another."""
    data = config.data
    options: dict[str, Any] = dict(
        max_seconds=data.batch_seconds,
        max_utterances=data.max_utterances,
        seed=config.train.seed,
        rank=rank,
        world_size=world_size,
    )
    if data.shuffle_buffer is None:
        return DurationBatchSampler(dataset.durations, sorta_grad=data.sorta_grad, **options)
    manifest = dataset.utterances
    assert isinstance(manifest, IndexedManifest)
    buffer, streams = data.shuffle_buffer, data.shard_streams
    sampler = ShardBatchSampler(manifest, buffer=buffer, streams=streams, **options)
    dataset.reader = ShardReader(manifest, buffer, streams)
    return sampler
