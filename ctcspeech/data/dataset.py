"""From a manifest to utterances for training, read, augmented and written in labels.

    dataset = SpeechDataset(read_manifest("train.jsonl"), alphabet, features_config, augmenter)
    item = dataset[0]

What comes out depends on nothing but (seed, epoch): not on workers, not on what was read before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from ctcspeech.data.inputs import read_audio, read_features
from ctcspeech.data.manifest import Utterance
from ctcspeech.data.shards import ShardReader
from ctcspeech.errors import AlphabetError, AudioError, FeatureError
from ctcspeech.text.alphabet import Alphabet

__all__ = [
    "Batch",
    "Failure",
    "Item",
    "SpeechDataset",
    "collate",
]


@dataclass
class Item:
    """One utterance, read: `inputs` float32, samples (S,) or features (T, F); `targets` (L,)."""

    utterance: Utterance
    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass
class Failure:
    """An utterance that could not be read or written in labels, and why."""

    utterance: Utterance
    reason: str


@dataclass
class Batch:
    """Utterances padded to one length, with zeros.

    `inputs` float32 (N, S) samples or (N, T, F) features, `input_lengths` (N,), `targets` (N, L),
    `target_lengths` (N,), all lengths int64. `failures` are those left out.
    """

    inputs: torch.Tensor
    input_lengths: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor
    utterances: list[Utterance]
    failures: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def seconds(self) -> float:
        """Audio in the batch by the manifest, padding not counted."""
        return sum(utterance.duration for utterance in self.utterances)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same with its tensors on `device`."""
        names = ("inputs", "input_lengths", "targets", "target_lengths")
        moved = {n: getattr(self, n).to(device, non_blocking=non_blocking) for n in names}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """For DataLoader(pin_memory=True)."""
        names = ("inputs", "input_lengths", "targets", "target_lengths")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


class _FeatureConfig(Protocol):  # the part of features.FeatureConfig that is needed here
    @property
    def kind(self) -> Any: ...

    @property
    def sample_rate(self) -> Any: ...

    @property
    def shift_ms(self) -> Any: ...

    @property
    def num_features(self) -> Any: ...


class SpeechDataset(torch.utils.data.Dataset):
    """Reads, augments and encodes utterances.

    `features` is a FeatureConfig, or a sample rate in Hz: the recordings are resampled to that
    rate. With kind "precomputed" the utterances' feature files are read in place of audio.
    `normalizer` (a callable from text to text) is applied to the texts before they are encoded.

    `cache_bytes` keeps that much decoded audio in memory: what came first stays. Workers of a
    loader have a cache each; `preload()` before they start fills one that all share.

    `dataset[i]` is an Item, or a Failure when the file or the text is bad.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        alphabet: Alphabet,
        features: _FeatureConfig | int,
        augmenter: Any = None,
        seed: int = 0,
        *,
        normalizer: Callable[[str], str] | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.utterances = utterances
        self.alphabet = alphabet
        self.precomputed = not isinstance(features, int) and features.kind == "precomputed"
        self.sample_rate = features if isinstance(features, int) else features.sample_rate
        self.shift_ms = 10.0 if isinstance(features, int) else features.shift_ms
        self.num_features = None if isinstance(features, int) else features.num_features
        self.augmenter = augmenter
        self.seed = seed
        self.normalizer = normalizer
        self.cache_bytes = cache_bytes
        # Reads recordings of tar shards in their order; then no audio is kept in memory.
        self.reader: ShardReader | None = None
        self._cache: dict[int, np.ndarray] = {}
        self._cached = 0
        # In shared memory, so that workers that live on into the next epoch see it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def durations(self) -> np.ndarray:
        """Seconds, by the manifest: float64 (N,)."""
        known = getattr(self.utterances, "durations", None)  # an IndexedManifest
        if known is None:
            known = [utterance.duration for utterance in self.utterances]
        return np.asarray(known, np.float64)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's augmentation is drawn from now on, in the loader's workers too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item | Failure:
        utterance = self.utterances[index]
        try:
            targets = self.encode(utterance)
            inputs = self.augmented(self.read(index), utterance)
        except (AudioError, FeatureError, AlphabetError) as error:
            return Failure(utterance, str(error))
        return Item(utterance, torch.from_numpy(np.ascontiguousarray(inputs)), targets)

    def encode(self, utterance: Utterance) -> torch.Tensor:
        """The labels of the text, int64 (L,)."""
        text = utterance.text
        if self.normalizer is not None:
            text = self.normalizer(text)
        return torch.tensor(self.alphabet.encode(text), dtype=torch.int64)

    def augmented(self, inputs: np.ndarray, utterance: Utterance) -> np.ndarray:
        """What the augmenter makes of samples or features in this epoch."""
        if self.augmenter is None:
            return inputs
        augment = self.augmenter.features if self.precomputed else self.augmenter
        return augment(inputs, seed=self.seed, epoch=self.epoch, utterance=utterance.id)

    def read(self, index: int) -> np.ndarray:
        """Samples float32 (S,) at `sample_rate`, or precomputed features (T, F), not augmented."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached.copy()  # for augmenters that work in place
        utterance = self.utterances[index]
        if self.precomputed:
            inputs = read_features(utterance, self.shift_ms, self.num_features)
        else:
            data = None if self.reader is None else self.reader.read(index, self.epoch)
            inputs, _ = read_audio(utterance, self.sample_rate, data)
        if self.reader is None and self._cached + inputs.nbytes <= self.cache_bytes:
            self._cache[index] = inputs.copy()
            self._cached += inputs.nbytes
        return inputs

    def preload(self, advance: Callable[[Utterance], None] | None = None) -> int:
        """Fills the cache, in order, until it is full; returns how many utterances are in it.

        `advance` is called after each. Bad files are passed over: they are reported when read.
        """
        for index, utterance in enumerate(self.utterances):
            if self._cached >= self.cache_bytes:
                break
            try:
                self.read(index)
            except (AudioError, FeatureError):
                pass
            if advance is not None:
                advance(utterance)
        return len(self._cache)


def collate(items: Sequence[Item | Failure]) -> Batch:
    """Pads items into a batch; failures are kept apart. All may have failed: then N is 0."""
    good = [item for item in items if isinstance(item, Item)]
    failures = [item for item in items if isinstance(item, Failure)]
    input_lengths = torch.tensor([len(item.inputs) for item in good], dtype=torch.int64)
    target_lengths = torch.tensor([len(item.targets) for item in good], dtype=torch.int64)
    rest = good[0].inputs.shape[1:] if good else ()
    longest = int(input_lengths.max()) if good else 0
    inputs = torch.zeros(len(good), longest, *rest)
    targets = torch.zeros(len(good), int(target_lengths.max()) if good else 0, dtype=torch.int64)
    for i, item in enumerate(good):
        inputs[i, : len(item.inputs)] = item.inputs
        targets[i, : len(item.targets)] = item.targets
    utterances = [item.utterance for item in good]
    return Batch(inputs, input_lengths, targets, target_lengths, utterances, failures)
