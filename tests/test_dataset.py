import math
import pickle

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import Alphabet, SpeechDataset, Utterance
from ctcspeech.data.batches import BatchLoader, DurationBatchSampler
from ctcspeech.data.dataset import Failure, collate
from ctcspeech.text.normalize import Normalizer

RATE = 8000
ALPHABET = Alphabet.from_text(["abcdefghijklmnopqrstuvwxyz '"])


def make_corpus(folder, seconds, text="hello"):
    """Wave files whose samples are their number / 100, so that they are told apart."""
    utterances = []
    for i, duration in enumerate(seconds):
        path = folder / f"{i}.wav"
        soundfile.write(path, np.full(round(duration * RATE), i / 100, np.float32), RATE, "FLOAT")
        utterances.append(Utterance(path, duration, text))
    return utterances


class Shift:
    """An augmenter that shows what it was called with."""

    def __call__(self, samples, seed, epoch, utterance):
        return samples + np.float32(100 * seed + 10 * epoch + int(utterance))


class Precomputed:
    kind, sample_rate, shift_ms, num_features = "precomputed", RATE, 10.0, None


# -- the sampler ------------------------------------------------------------------------------

durations = st.lists(st.floats(0.05, 40.0), max_size=120)
settings_of_sampler = st.fixed_dictionaries(
    {
        "max_seconds": st.floats(1.0, 100.0),
        "max_utterances": st.none() | st.integers(1, 9),
        "shuffle": st.booleans(),
        "sorta_grad": st.booleans(),
        "seed": st.integers(0, 3),
    }
)


@given(durations, settings_of_sampler, st.integers(0, 3))
@settings(max_examples=150, derandomize=True)
def test_each_utterance_once_and_bounds_kept(durations, options, epoch):
    sampler = DurationBatchSampler(durations, **options)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    assert len(batches) == len(sampler)
    for batch in batches:
        assert batch
        longest = max(durations[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= options["max_seconds"] * (1 + 1e-6)
        assert len(batch) <= (options["max_utterances"] or math.inf)


@given(durations, settings_of_sampler, st.integers(0, 3), st.integers(1, 5))
@settings(max_examples=150, derandomize=True)
def test_ranks_partition(durations, options, epoch, world_size):
    ranks = [
        DurationBatchSampler(durations, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    batches = [rank.batches(epoch) for rank in ranks]
    counts = [len(b) for b in batches]
    assert {len(rank) for rank in ranks} == {max(counts)} and sum(counts) == ranks[0].total()
    flat = [i for b in batches for batch in b for i in batch]
    assert sorted(flat) == list(range(len(durations)))
    if len(set(counts)) > 1:  # only where nothing could be split any more
        assert all(len(batch) == 1 for b in batches for batch in b)
        assert max(counts) - min(counts) == 1


@given(
    durations, settings_of_sampler, st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data()
)
@settings(max_examples=80, derandomize=True)
def test_another_number_of_ranks_in_mid_epoch(durations, options, worlds, data):
    """An epoch begun by one number of processes and ended by others: everything once."""
    seen, done, planned_for = [], 0, worlds[0]
    for world in worlds:
        ranks = [
            DurationBatchSampler(durations, rank=r, world_size=world, **options)
            for r in range(world)
        ]
        for rank in ranks:
            rank.set_epoch(1, done, planned_for)
        rest = [list(rank) for rank in ranks]
        steps = max(map(len, rest))
        if world is not worlds[-1]:
            steps = data.draw(st.integers(0, steps))
        taken = [batch for batches in rest for batch in batches[:steps]]
        seen += [i for batch in taken for i in batch]
        done += len(taken)
    rest = [batch for batches in rest for batch in batches[steps:]]
    seen += [i for batch in rest for i in batch]
    assert sorted(seen) == list(range(len(durations)))


@given(durations, settings_of_sampler, st.integers(0, 3), st.integers(0, 50))
@settings(max_examples=60, derandomize=True)
def test_depends_on_seed_and_epoch_alone(durations, options, epoch, skip):
    first, second = (DurationBatchSampler(durations, **options) for _ in range(2))
    list(first)
    first.set_epoch(epoch)
    whole = list(first)
    second.set_epoch(epoch, skip=skip)
    assert list(second) == whole[skip:]
    assert list(second) == whole[skip:]  # whoever asks twice, as torch's DataLoader does
    second.set_epoch(epoch)
    assert list(second) == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_the_place_in_an_epoch_with_workers(workers, persistent):
    """What torch's DataLoader gives from a place on: nothing twice, nothing left out."""
    sampler = DurationBatchSampler(np.linspace(1, 3, 40), 9.0, sorta_grad=False)
    loader = torch.utils.data.DataLoader(
        range(40),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        collate_fn=list,
    )
    for epoch, skip in [(0, 3), (1, 0), (1, len(sampler) - 1), (2, 5), (3, len(sampler))]:
        sampler.set_epoch(epoch, skip)
        assert list(loader) == sampler.batches(epoch)[skip:]


def test_epochs_differ_and_sortagrad_ascends():
    durations = np.random.default_rng(0).uniform(1, 10, 300)
    sampler = DurationBatchSampler(durations, 60)
    lengths = [[durations[i] for i in batch] for batch in sampler.batches(0)]
    assert np.all(np.diff([x for batch in lengths for x in batch]) >= 0)
    assert sampler.batches(1) != sampler.batches(2)
    plain = DurationBatchSampler(durations, 60, sorta_grad=False)
    assert plain.batches(0) != sampler.batches(0)
    assert plain.batches(1) == sampler.batches(1)
    assert plain.batches(1) != DurationBatchSampler(durations, 60, seed=1).batches(1)
    # Batch mates change: of two that met in one epoch few meet in the next.
    mates = [
        {frozenset((i, j)) for batch in plain.batches(e) for i in batch for j in batch if i != j}
        for e in (1, 2)
    ]
    assert len(mates[0] & mates[1]) < 0.6 * len(mates[0])


def test_little_padding_and_full_batches():
    durations = np.random.default_rng(0).gamma(4.0, 2.0, 2000) + 0.5
    batches = DurationBatchSampler(durations, 120).batches(1)
    padded = sum(len(batch) * max(durations[i] for i in batch) for batch in batches)
    assert padded < 1.13 * durations.sum()
    assert len(batches) < 1.3 * durations.sum() / 120


def test_ranks_get_like_lengths_at_a_step():
    durations = np.random.default_rng(0).uniform(1, 20, 500)
    ranks = [DurationBatchSampler(durations, 100, rank=r, world_size=2) for r in range(2)]
    steps = zip(*(rank.batches(3) for rank in ranks), strict=True)
    longest = [[max(durations[i] for i in batch) for batch in step] for step in steps]
    near = [max(pair) / min(pair) < 1.6 for pair in longest]
    assert sum(near) >= 0.9 * len(near)


@pytest.mark.parametrize(
    "arguments",
    [
        {"durations": [1.0, 0.0], "max_seconds": 1},
        {"durations": [1.0, math.nan], "max_seconds": 1},
        {"durations": [1.0], "max_seconds": 0},
        {"durations": [1.0], "max_seconds": 1, "max_utterances": 0},
        {"durations": [1.0], "max_seconds": 1, "rank": 2, "world_size": 2},
    ],
)
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="must be"):
        DurationBatchSampler(**arguments)


# -- the dataset ------------------------------------------------------------------------------


def test_items(tmp_path):
    utterances = make_corpus(tmp_path, [0.5, 0.25], "Héllo, you")
    dataset = SpeechDataset(
        utterances, ALPHABET, RATE, Shift(), 7, normalizer=Normalizer(accents="remove")
    )
    dataset.set_epoch(2)
    item = dataset[1]
    assert item.inputs.shape == (2000,) and item.inputs.dtype == torch.float32
    assert torch.allclose(item.inputs, torch.tensor(0.01 + 700 + 20 + 1))
    assert ALPHABET.decode(item.targets.tolist()) == "hello you"


def test_rate_and_part(tmp_path):
    (utterance,) = make_corpus(tmp_path, [1.0])
    part = Utterance(utterance.path, 0.25, "x", offset=0.5)
    dataset = SpeechDataset([utterance, part], ALPHABET, 2 * RATE)
    assert len(dataset[0].inputs) == 2 * RATE
    assert abs(len(dataset[1].inputs) - RATE // 2) <= 16  # half a millisecond of grace


def test_bad_items_are_failures(tmp_path):
    utterances = make_corpus(tmp_path, [0.5, 0.5, 0.5])
    (tmp_path / "0.wav").write_bytes(b"no audio at all")
    (tmp_path / "1.wav").unlink()
    utterances[2].text = "ÜBER"
    dataset = SpeechDataset(utterances, ALPHABET, RATE)
    reasons = []
    for item in dataset:
        assert isinstance(item, Failure)
        reasons.append(item.reason)
    assert "0.wav" in reasons[0] and "1.wav" in reasons[1] and "'Ü'" in reasons[2]
    with pytest.raises(IndexError):
        dataset[3]


def test_collate_pads():
    items = []
    for i, (samples, text) in enumerate([(3, "ab"), (5, "a"), (2, "")]):
        targets = torch.tensor(ALPHABET.encode(text), dtype=torch.int64)
        from ctcspeech.data.dataset import Item

        items.append(Item(Utterance(f"{i}.wav", 1.5), torch.ones(samples), targets))
    failure = Failure(Utterance("x.wav", 1.0), "bad")
    batch = collate([*items[:1], failure, *items[1:]])
    assert batch.inputs.tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 0, 0, 0]]
    assert batch.input_lengths.tolist() == [3, 5, 2]
    a, b = ALPHABET.encode("ab")
    assert batch.targets.tolist() == [[a, b], [a, 0], [0, 0]]
    assert batch.target_lengths.tolist() == [2, 1, 0]
    assert batch.failures == [failure] and len(batch) == 3 and batch.seconds == 4.5
    assert len(collate([failure])) == 0
    assert batch.to("cpu").utterances == batch.utterances


def test_collate_features():
    from ctcspeech.data.dataset import Item

    items = [
        Item(Utterance("a", 1.0), torch.full((n, 13), float(n)), torch.zeros(1, dtype=torch.int64))
        for n in (4, 2)
    ]
    batch = collate(items)
    assert batch.inputs.shape == (2, 4, 13)
    assert batch.inputs[1, :, 0].tolist() == [2, 2, 0, 0]


def test_precomputed(tmp_path):
    np.save(tmp_path / "f.npy", np.arange(26, dtype=np.float32).reshape(2, 13))
    utterances = [
        Utterance(features_filepath=tmp_path / "f.npy", duration=0.02, text="a"),
        Utterance(tmp_path / "a.wav", 1.0, "a"),
    ]
    dataset = SpeechDataset(utterances, ALPHABET, Precomputed())
    assert dataset[0].inputs.shape == (2, 13)
    assert "features_filepath" in dataset[1].reason
    assert "precomputed" in SpeechDataset(utterances, ALPHABET, RATE)[0].reason


def test_part_of_precomputed(tmp_path):
    np.save(tmp_path / "f.npy", np.arange(100, dtype=np.float32).reshape(100, 1))
    times = [(0.0, 0.5), (0.25, 0.3), (0.9, 5.0), (1.0, 0.1), (0.0, 0.123)]
    utterances = [
        Utterance(features_filepath=tmp_path / "f.npy", duration=d, offset=o) for o, d in times
    ]
    dataset = SpeechDataset(utterances, ALPHABET, Precomputed())
    expected = [range(50), range(25, 55), range(90, 100), None, range(13)]
    for item, frames in zip(dataset, expected, strict=True):
        if frames is None:
            assert isinstance(item, Failure) and "nothing at offset 1 s" in item.reason
        else:
            assert item.inputs[:, 0].tolist() == list(frames)


def test_cache(tmp_path):
    utterances = make_corpus(tmp_path, [0.5] * 4)
    dataset = SpeechDataset(utterances, ALPHABET, RATE, cache_bytes=2 * 4 * RATE // 2)
    seen = []
    assert dataset.preload(seen.append) == 2 and len(seen) >= 2
    for utterance in utterances:
        utterance.path.unlink()
    first = dataset[1].inputs
    assert torch.allclose(first, torch.tensor(0.01))
    first += 1  # does not reach the cache
    assert torch.allclose(dataset[1].inputs, torch.tensor(0.01))
    assert isinstance(dataset[2], Failure)


# -- the loader -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_loader(workers, tmp_path, caplog):
    utterances = make_corpus(tmp_path, [0.1 * i for i in range(1, 13)], "a")
    (tmp_path / "3.wav").write_bytes(b"nothing")
    dataset = SpeechDataset(utterances, ALPHABET, RATE, Shift())
    loader = BatchLoader(dataset, DurationBatchSampler(dataset.durations, 2.0, seed=1), workers)
    seen = {}
    for epoch in range(3):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert loader.position == len(loader)
        names = [utterance.id for batch in batches for utterance in batch.utterances]
        assert sorted(map(int, names)) == [0, 1, 2, *range(4, 12)]
        for batch in batches:
            number = int(batch.utterances[0].id)
            assert batch.inputs[0, 0] == pytest.approx(number / 100 + 10 * epoch + number)
        seen[epoch] = batches
    assert len(loader.failures) == 1
    assert [record.getMessage().count("3.wav") > 0 for record in caplog.records] == [True]
    loader.set_epoch(2, skip=2)
    rest = list(loader)
    assert len(rest) == len(loader) - 2 and loader.position == len(rest)
    for batch, again in zip(seen[2][-len(rest) :], rest, strict=True):
        assert torch.equal(batch.inputs, again.inputs)
        assert torch.equal(batch.targets, again.targets)


def test_batch_of_nothing(tmp_path):
    utterances = make_corpus(tmp_path, [0.5, 1.0])
    (tmp_path / "0.wav").unlink()
    dataset = SpeechDataset(utterances, ALPHABET, RATE)
    reports = []
    loader = BatchLoader(dataset, DurationBatchSampler([0.5, 1.0], 1.0), report=reports.append)
    assert [[u.id for u in batch.utterances] for batch in loader] == [["1"]]
    assert loader.position == 2 and len(reports) == 1 and "0.wav" in reports[0]
    # Where others train too, they are kept in step by an empty one.
    parallel = DurationBatchSampler([0.5, 1.0], 1.0, rank=0, world_size=2)
    (batch,) = BatchLoader(dataset, parallel, report=reports.append)
    assert len(batch) == 0 and "0.wav" in batch.failures[0].reason


def test_dataset_can_be_sent(tmp_path):
    dataset = SpeechDataset(make_corpus(tmp_path, [0.5]), ALPHABET, RATE)
    dataset.set_epoch(4)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.epoch == 4 and torch.equal(again[0].inputs, dataset[0].inputs)
