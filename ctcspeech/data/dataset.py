"""From a manifest to batches for training.

    dataset = SpeechDataset(read_manifest("train.jsonl"), alphabet, features_config, augmenter)
    sampler = DurationBatchSampler(dataset.durations, max_seconds=120)
    loader = BatchLoader(dataset, sampler, workers=2)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            ...

What comes out depends on nothing but (seed, epoch): not on workers, not on what was read before.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ctcspeech.data.inputs import read_audio, read_features
from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import AlphabetError, AudioError, FeatureError, TrainingError
from ctcspeech.text.alphabet import Alphabet

__all__ = [
    "Batch",
    "BatchLoader",
    "DurationBatchSampler",
    "Failure",
    "Item",
    "SpeechDataset",
    "collate",
]

logger = logging.getLogger(__name__)


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
        self.utterances = list(utterances)
        self.alphabet = alphabet
        self.precomputed = not isinstance(features, int) and features.kind == "precomputed"
        self.sample_rate = features if isinstance(features, int) else features.sample_rate
        self.shift_ms = 10.0 if isinstance(features, int) else features.shift_ms
        self.num_features = None if isinstance(features, int) else features.num_features
        self.augmenter = augmenter
        self.seed = seed
        self.normalizer = normalizer
        self.cache_bytes = cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        self._cached = 0
        # In shared memory, so that workers that live on into the next epoch see it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def durations(self) -> list[float]:
        """Seconds, by the manifest."""
        return [utterance.duration for utterance in self.utterances]

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
            inputs, _ = read_audio(utterance, self.sample_rate)
        if self._cached + inputs.nbytes <= self.cache_bytes:
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


class DurationBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of utterances of like length, each as full as `max_seconds` allows.

    The utterances are sorted by duration and cut into buckets, each of whole batches (two at
    least) of utterances at most a quarter shorter than the bucket's longest, as far as there are
    such. In an epoch each bucket is shuffled and dealt out to its batches, and the batches are
    shuffled. A batch of N utterances, the longest of d seconds, keeps N * d <= max_seconds (what
    the padded batch holds) and N <= max_utterances; an utterance longer than max_seconds is a batch
    of its own. Every epoch has the same number of batches.

    With `sorta_grad` epoch 0 goes from the shortest to the longest, unshuffled (Amodei et al. 2016,
    section 3.3). With `shuffle=False` every epoch does.

    With `world_size` processes, the one of `rank` gets every world_size-th batch, all get equally
    many, and what they get at the same step is of like length. Each utterance is in one batch of
    one rank; only where there are no more batches to split (each has one utterance) are some
    repeated to make the counts equal.

    The batches depend on (seed, epoch) alone: to go on in the middle of an epoch, skip those done
    by `set_epoch(epoch, skip=done)`.
    """

    def __init__(
        self,
        durations: Sequence[float],
        max_seconds: float,
        *,
        max_utterances: int | None = None,
        shuffle: bool = True,
        sorta_grad: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.durations = np.asarray(durations, dtype=np.float64)
        if self.durations.ndim != 1 or not np.all(self.durations > 0):
            raise ValueError("durations must be a sequence of seconds, each above 0")
        if not max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, got {max_seconds}")
        if max_utterances is not None and max_utterances < 1:
            raise ValueError(f"max_utterances must be at least 1, got {max_utterances}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be at least 0 and below world_size {world_size}: {rank}")
        self.max_seconds, self.max_utterances = max_seconds, max_utterances
        self.shuffle, self.sorta_grad, self.seed = shuffle, sorta_grad, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.skip = 0
        self._order = np.argsort(self.durations, kind="stable")
        self._buckets, sizes = self._make_buckets()
        self._sizes = _split_evenly(sizes, world_size)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Which epoch comes next; `skip` leaves out this rank's first batches, once."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """The batches of this rank in an epoch, the same in all (those skipped are counted)."""
        return -(-len(self._sizes) // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches(self.epoch)
        skip, self.skip = self.skip, 0
        return iter(batches[skip:])

    def batches(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch: lists of indices into `durations`."""
        shuffle = self.shuffle and not (self.sorta_grad and epoch == 0)
        random = np.random.default_rng([self.seed, epoch])
        order = self._order.copy()
        if shuffle:
            for start, end in self._buckets:
                random.shuffle(order[start:end])
        ends = np.cumsum(self._sizes)
        batches = [order[e - size : e].tolist() for e, size in zip(ends, self._sizes, strict=True)]
        # Steps: what the ranks do at the same time. The last may have to be filled up.
        world = self.world_size
        for i in range(-len(batches) % world if batches else 0):
            batches.append(batches[i % len(self._sizes)])
        steps = [batches[i : i + world] for i in range(0, len(batches), world)]
        if shuffle:
            steps = [steps[i] for i in random.permutation(len(steps))]
        return [step[self.rank] for step in steps]

    def _per_batch(self, longest: float) -> int:
        """How many utterances go into a batch when the longest of them has that many seconds."""
        count = max(1, int(self.max_seconds / longest + 1e-9))
        return count if self.max_utterances is None else min(count, self.max_utterances)

    def _make_buckets(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Ranges of the sorted order, and the sizes of the batches in them, both ascending.

        Made from the longest downwards, so that all batches are full but that of the shortest.
        The sizes hold for every epoch: a batch fits whichever of its bucket's utterances it gets.
        """
        buckets: list[tuple[int, int]] = []
        sizes: list[int] = []
        durations = self.durations[self._order]
        end = len(durations)
        while end:
            longest = durations[end - 1]
            size = self._per_batch(longest)
            alike = end - int(np.searchsorted(durations[:end], 0.8 * longest))
            count = min(max(2, alike // size) * size, end)
            buckets.append((end - count, end))
            sizes += [size] * (count // size) + [count % size] * (count % size > 0)
            end -= count
        return buckets[::-1], sizes[::-1]


def _split_evenly(sizes: list[int], world_size: int) -> list[int]:
    """Splits the largest batches until their number is a multiple of world_size, if that can be."""
    sizes = list(sizes)
    while len(sizes) % world_size:
        largest = int(np.argmax(sizes))
        if sizes[largest] == 1:
            break
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [sizes[largest] - half, half]
    return sizes


class BatchLoader:
    """Batches of a dataset, read ahead by `workers` processes (0: read when asked for).

    An utterance that cannot be read is reported once, by `report` (default: a warning in the log),
    left out and kept in `failures`, by id. A batch of which nothing is left is passed over; where
    several processes train together that is a TrainingError, because the others would wait.

    `position` counts the batches done in this epoch, those passed over too: it is what
    `set_epoch(epoch, skip=position)` needs to go on there.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        sampler: DurationBatchSampler,
        workers: int = 0,
        *,
        report: Callable[[str], None] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.report = report or logger.warning
        self.failures: dict[str, str] = {}
        self.position = 0
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Sets the epoch of sampler and augmentation; the first `skip` batches are left out."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, skip)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        self.position = self.sampler.skip
        for batch in self._loader:
            self.position += 1
            for failure in batch.failures:
                self._note(failure)
            if len(batch):
                yield batch
            elif self.sampler.world_size > 1:
                raise TrainingError(
                    "nothing in a batch could be read, and the other processes wait for it; "
                    "clean the manifest with `ctcspeech data check`: "
                    + "; ".join(failure.reason for failure in batch.failures)
                )

    def _note(self, failure: Failure) -> None:
        key = f"{failure.utterance.path}@{failure.utterance.offset:g}"
        if key not in self.failures:
            self.failures[key] = failure.reason
            self.report(f"left out {_name(failure.utterance)}: {failure.reason}")


def _name(utterance: Utterance) -> str:
    path: Path = utterance.path
    return f"{path} at {utterance.offset:g} s" if utterance.offset else str(path)
