"""Tar shards read in their order: what is in them, in which order it comes, and going on."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from tone_training import differences, metrics, silent, tone_shards, write_training

from ctcspeech.data import shards as shards_module
from ctcspeech.data.batches import BatchLoader
from ctcspeech.data.dataset import SpeechDataset
from ctcspeech.data.indexed import IndexedManifest
from ctcspeech.data.shards import ShardBatchSampler, ShardReader
from ctcspeech.errors import AudioError, ConfigError
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.train import trainer as train_module
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

RATE = 8000


def wav(number: int, samples: int) -> bytes:
    """A recording that tells its number: every sample is it."""
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, number, np.int16), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def write_shards(folder, sizes, seed=0):
    """Shards of so many utterances, and their manifest in another order. Utterances are numbered
    in the order of the shards; their places are those that Python's tarfile tells."""
    random = np.random.default_rng(seed)
    number, lines = 0, []
    for i, size in enumerate(sizes):
        path = folder / f"s{i}.tar"
        with tarfile.open(path, "w") as archive:
            for _ in range(size):
                data = wav(number, int(random.integers(800, 4000)))
                for ending, content in ((".wav", data), (".txt", b"ab")):
                    member = tarfile.TarInfo(f"u{number}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                number += 1
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".wav"):
                    line = {
                        "audio_filepath": f"s{i}.tar:{member.offset_data}:{member.size}",
                        "duration": (member.size - 44) / 2 / RATE,
                        "text": "ab",
                        "id": member.name[:-4],
                    }
                    lines.append(json.dumps(line))
    random.shuffle(lines)
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return IndexedManifest.read([folder / "train.jsonl"])


def numbers(manifest):
    return np.array([int(utterance.id[1:]) for utterance in manifest])


def loader(manifest, workers=0, buffer=8, streams=4, **options):
    dataset = SpeechDataset(manifest, Alphabet.from_text(["ab"]), RATE)
    sampler = ShardBatchSampler(manifest, 1.0, buffer=buffer, streams=streams, **options)
    dataset.reader = ShardReader(manifest, buffer, streams)
    return BatchLoader(dataset, sampler, workers, report=pytest.fail)


def content(batch):
    """Checks that the samples are those of the utterances; returns their numbers."""
    found = [int(utterance.id[1:]) for utterance in batch.utterances]
    for number, inputs, length in zip(found, batch.inputs, batch.input_lengths, strict=True):
        assert torch.equal(inputs[:length], torch.full((int(length),), number / 32768))
    return found


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_utterance_comes_once_in_batches_that_fit(tmp_path, world):
    manifest = write_shards(tmp_path, [7, 20, 1, 13, 30])
    ranks = [loader(manifest, rank=rank, world_size=world) for rank in range(world)]
    alone = loader(manifest)
    for epoch in (0, 1):
        for one in (*ranks, alone):
            one.set_epoch(epoch)
        batches = [[content(batch) for batch in one] for one in ranks]
        counts = [len(of) for of in batches]
        assert max(counts) - min(counts) <= 1 and counts[0] == len(ranks[0])
        dealt = [batch for i in range(max(counts)) for of in batches for batch in of[i : i + 1]]
        assert dealt == [content(batch) for batch in alone]  # the same plan for any world
        assert sorted(number for batch in dealt for number in batch) == list(range(71))
        durations = dict(zip(numbers(manifest), manifest.durations, strict=True))
        for batch in dealt:
            assert len(batch) * max(durations[number] for number in batch) <= 1.0 + 1e-9
    # As full as the durations allow: half of a second of audio, of 0.1 to 0.5 s each.
    assert np.mean([sum(durations[n] for n in batch) for batch in dealt]) > 0.5


def test_shards_are_read_once_from_beginning_to_end(tmp_path, monkeypatch):
    manifest = write_shards(tmp_path, [30, 25, 40, 20, 35, 28])
    reads = {}

    class Watched(io.FileIO):
        def read(self, size):
            reads.setdefault(self.name, []).append((self.tell(), size))
            return super().read(size)

    monkeypatch.setattr(shards_module, "open_archive", Watched)
    one = loader(manifest, buffer=8, streams=4)
    reader, names = one.dataset.reader, numbers(manifest)
    for epoch in (0, 1, 2):
        one.set_epoch(epoch)
        reads.clear()
        kept = 0
        for batch in one.sampler:
            for index in batch:
                inputs = one.dataset[index].inputs
                assert float(inputs[0]) * 32768 == names[index]
            kept = max(kept, len(reader._kept))
        assert len(reads) == 6 and 8 < kept <= 4 * 8 and not reader._kept
        for places in reads.values():
            ends = [start + size for start, size in places]
            assert all(a <= b for a, (b, _) in zip(ends, places[1:], strict=False))
        assert sum(map(len, reads.values())) < 120  # of 178 members: several at once

    def read_by(workers, streams):
        """Bytes read by so many workers, as a loader gives them batches, over those there are."""
        one = loader(manifest, buffer=8, streams=streams)
        readers = [ShardReader(manifest, 8, streams) for _ in range(workers)]
        reads.clear()
        for i, batch in enumerate(one.sampler):
            one.dataset.reader = readers[i % workers]
            for index in batch:
                assert float(one.dataset[index].inputs[0]) * 32768 == names[index]
        read = sum(size for places in reads.values() for _, size in places)
        return read / sum(shard.stat().st_size for shard in tmp_path.glob("*.tar"))

    once = read_by(1, 4)
    assert 0.85 < once < 1  # but for the ends of the tar files
    # Two workers have two streams each, until some streams have come to their ends.
    assert read_by(2, 4) < 1.3 * once < read_by(2, 3), (read_by(2, 4), once, read_by(2, 3))
    with pytest.raises(AudioError, match="the tar file ends before"):
        shard = tmp_path / "s0.tar"
        shard.write_bytes(shard.read_bytes()[:2000])
        reader.read(int(np.argmax(names == 29)), 9)


def test_how_far_shuffling_goes(tmp_path):
    """One shard, one stream: nothing comes before the buffer has reached it; by how much things
    come later is about as many as the buffer holds; and the buffer's order is not the shard's."""
    count, buffer = 3000, 50
    members = np.stack([np.zeros(count), 1000 * np.arange(count), np.full(count, 900)], axis=1)
    columns = dict(
        durations=np.random.default_rng(1).uniform(1, 9, count),
        sizes=np.zeros(count, np.int64),
        text_bytes=np.zeros(count, np.int32),
        members=members.astype(np.int64),
    )
    none = np.zeros(count, np.int64)
    manifest = IndexedManifest([tmp_path], none, none, columns, set(), ["a.tar"])
    sampler = ShardBatchSampler(manifest, 10.0, buffer=buffer, streams=8, seed=3)
    orders, delays = [], []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        order = np.concatenate(batches)
        assert sorted(order.tolist()) == list(range(count))
        before = np.repeat(np.cumsum([0, *map(len, batches)])[:-1], [len(b) for b in batches])
        assert (order < before + buffer).all()
        late = (before + buffer - 1 - order)[:-200]  # how long each was in the buffer
        delays.append(late.mean())
        orders.append(order)
        assert (np.diff(order) == 1).mean() < 0.1
    assert not np.array_equal(orders[0], orders[1])
    # Little's law: between the shard, were it read steadily, and the batches are 50 on the average.
    assert np.mean(delays) == pytest.approx(buffer, rel=0.25)


def test_shards_begin_anywhere_and_anew_in_each_epoch(tmp_path):
    """Over many epochs each utterance comes as often in the first half as in the second."""
    manifest = write_shards(tmp_path, [10] * 12)
    sampler = ShardBatchSampler(manifest, 0.5, buffer=10, streams=3)
    early = np.zeros(120)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        order = np.concatenate(list(sampler))
        early[order[:60]] += 1
    # Binomial(200, 1/2): deviation 7.07; of 120 none is beyond 4.5 of them.
    assert abs(early - 100).max() < 4.5 * 7.07


def test_going_on_after_every_batch(tmp_path):
    manifest = write_shards(tmp_path, [9, 14, 3, 11, 16])
    one = loader(manifest)
    one.set_epoch(1)
    whole = [content(batch) for batch in one]
    assert one.position == len(whole) == one.sampler.total()
    for skip in range(len(whole) + 1):
        again = loader(manifest)
        again.set_epoch(1, skip)
        assert [content(batch) for batch in again] == whole[skip:]
        rank = loader(manifest, rank=1, world_size=2)
        rank.set_epoch(1, skip, planned_for=1)
        assert [content(batch) for batch in rank] == whole[skip + 1 :: 2]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core
def test_workers_change_nothing(tmp_path):
    manifest = write_shards(tmp_path, [9, 14, 3, 11, 16])
    one, two = loader(manifest), loader(manifest, workers=2)
    for epoch, skip in ((0, 0), (1, 5), (2, 0)):
        batches = []
        for each in (one, two):
            each.set_epoch(epoch, skip)
            batches.append([content(batch) for batch in each])
        assert batches[0] == batches[1] and len(batches[0]) > 10


def test_what_is_no_shard_is_named(tmp_path):
    write_training(tmp_path)
    config = load_config(tmp_path / "tones.toml", ["data.shuffle_buffer=10"])
    with pytest.raises(ConfigError, match=r"shuffle_buffer is for members of tar .*train-000\.wav"):
        train(config, tmp_path / "run", report=silent)
    with pytest.raises(ConfigError, match="sorta_grad sorts all utterances"):
        overrides = ["data.shuffle_buffer=10", "data.sorta_grad=true"]
        load_config(tmp_path / "tones.toml", overrides)


def test_a_stopped_training_on_shards_goes_on_exactly(tmp_path, monkeypatch):
    config = load_config(tone_shards(tmp_path, 11), ["train.epochs=3"])
    train(config, tmp_path / "whole", report=silent)
    assert [e["utterances"] for e in metrics(tmp_path / "whole", "epoch")] == [48] * 3
    take_step = train_module.Trainer._step

    def dying(self, batches, progress):
        if batches and self.step in (4, 11):
            raise MemoryError
        return take_step(self, batches, progress)

    again = load_config(
        tmp_path / "tones.toml", ["train.epochs=3", "train.checkpoint_minutes=1e-6"]
    )
    with monkeypatch.context() as patched:
        patched.setattr(train_module.Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            train(again, tmp_path / "parts", report=silent)
    train(again, tmp_path / "parts", resume=True, report=silent)
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))
