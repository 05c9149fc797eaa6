"""Bulk work without an executor: in this process, on local disk and in fsspec's memory."""

import errno
import itertools
import json
import random
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from bulk_models import tones
from tone_language import RATE, say, tone_recognizer, words, write

from ctcspeech.bulk import storage as storage_module
from ctcspeech.bulk.completion import list_completions
from ctcspeech.bulk.inputs import read_items
from ctcspeech.bulk.job import Bulk
from ctcspeech.bulk.local import run_here
from ctcspeech.bulk.on_ray import RayOptions, _check_resources
from ctcspeech.bulk.plan import Plan, sort_items
from ctcspeech.bulk.storage import Storage, is_expired, join
from ctcspeech.bulk.work import Item, Shape, choose_group_bits, choose_shards
from ctcspeech.errors import AudioError, BulkError, ManifestError, StorageError

MODEL = {"name": "tones", "identity": "1"}


class Killed(BaseException):
    """What a test's kill is: nothing catches it, nothing is tidied up by the code under test."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """30 recordings and a manifest of them."""
    folder = tmp_path_factory.mktemp("calls")
    generator = np.random.default_rng(5)
    lines = []
    for k in range(30):
        text = " ".join(words(int(generator.integers(1, 5)), generator))
        path = write(folder / f"{k:02}.wav", say(text, generator))
        seconds = soundfile.info(path).duration
        lines.append({"audio_filepath": path.name, "duration": seconds, "text": text})
    (folder / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def memory():
    """An empty bucket in memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield "memory://bucket"
    filesystem.store.clear()


def engine(load=tones):
    return lambda job, todo, advance: run_here(job, load, todo, advance)


def run(output, inputs, load=tones, settings=None, **options):
    """One run of the command; the results' folder, the report, and what was left to do before."""
    with Bulk(str(output), MODEL, settings or {}, **options) as job:
        tally = job.prepare([str(name) for name in inputs])
        todo = tally.total - tally.done
        job.run(engine(load), tally, lambda tally: None)
        assert tally.done == tally.total
        report = job.finish()
        return job.storage, report, todo


def lines(storage):
    """All lines of the results, sorted."""
    data = b"".join(storage.read(f"results/{name}") for name in storage.list("results"))
    return sorted(data.splitlines(keepends=True))


def transcribed(manifest):
    """The lines of `transcribe --format jsonl`, sorted."""
    from ctcspeech.data.manifest import read_manifest

    records = tone_recognizer(threads=1).transcribe(read_manifest(manifest))
    texts = [json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in records]
    return sorted(text.encode() for text in texts)


# -- keys, groups, shards


@pytest.mark.parametrize("bits,shards", [(0, 1), (3, 8), (5, 7), (10, 100), (12, 4096)])
def test_every_group_is_in_one_shard_and_every_shard_in_one_part(bits, shards):
    shape = Shape(bits, shards)
    ranges = [shape.groups(shard) for shard in range(shards)]
    assert ranges[0][0] == 0 and ranges[-1][1] == 1 << bits
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    generator = random.Random(0)
    for _ in range(300):
        key = f"{generator.getrandbits(128):032x}"
        first, end = ranges[shape.shard(key)]
        assert first <= shape.group(key) < end
        assert 0 <= shape.part(key, 3) < 3
    assert [shape.shard(key * 32) for key in "0f"] == [0, shards - 1]


def test_amounts_of_work():
    million = choose_group_bits(1_000_000, 3.6e9)  # 1 M hours in calls of an hour
    assert million == 20  # a recording is a group
    assert choose_shards(1_000_000, 3.6e9, million) == 65536
    assert choose_group_bits(250, 113.0) == 4
    assert choose_group_bits(0, 0.0) == 0
    assert choose_shards(250, 113.0, 4, parts=100) == 16
    assert choose_shards(1_000_000, 450_000.0, 12) == 245  # short ones: 4096 a shard
    with pytest.raises(ValueError, match="shards must be 1 to 8"):
        Shape(3, 9)


def test_a_key_is_of_the_recording_its_version_and_its_part():
    fields = {"id": "a"}
    items = [
        Item.of("a.wav", "1", fields),
        Item.of("b.wav", "1", fields),
        Item.of("a.wav", "2", fields),
        Item.of("a.wav", "1", {"id": "b"}),
        Item.of("a.wav", "1", {"id": "a", "offset": 1.0}),
        Item.of("a.wav", "1"),
    ]
    assert len({item.key for item in items}) == len(items)
    assert Item.of("a.wav", "1", fields, 2.0).key == items[0].key  # a length changes nothing
    for item in items:
        assert Item.from_line(item.to_line()) == item


# -- inputs and the plan


def test_manifest_rows(tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "duration": 2},
        {"audio_filepath": "/x/b.wav", "offset": 1.5, "duration": 2, "id": 7},
        {"audio_filepath": "s3://bucket/c.wav", "size": 10},
        {"audio_filepath": "d.wav", "duration": 3, "speaker": "ann"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows))
    items = list(read_items([str(manifest)]))
    assert [item.uri for item in items] == [
        str(tmp_path / "a.wav"), "/x/b.wav", "s3://bucket/c.wav", str(tmp_path / "d.wav"),
    ]  # fmt: skip
    assert [item.fields for item in items] == [
        {"id": "a", "duration": 2.0},
        {"id": "7", "offset": 1.5, "duration": 2.0},
        {"id": "c"},
        {"id": "d", "duration": 3.0},
    ]
    assert [item.seconds for item in items] == [2.0, 2.0, None, 3.0]
    changed = json.dumps({**rows[2], "size": 11})
    manifest.write_text(changed)
    assert [item.key for item in read_items([str(manifest)])] != [items[2].key]


def test_parquet_rows_are_those_of_json_lines(tmp_path, calls):
    rows = [json.loads(line) for line in (calls / "calls.jsonl").read_text().splitlines()]
    for row in rows:
        row["offset"] = 0.1 if row is rows[3] else None
    for name in ("m.jsonl", "m.parquet"):
        path = calls / name
        if name == "m.jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    first, second = (list(read_items([str(calls / n)])) for n in ("m.jsonl", "m.parquet"))
    assert first == second and len(first) == 30
    (tmp_path / "wrong.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="not Parquet, or damaged"):
        list(read_items([str(tmp_path / "wrong.parquet")]))


def test_wrong_lines_are_named_before_anything_is_done(tmp_path):
    manifest = tmp_path / "m.jsonl"
    wrong = ["{", "[]", '{"duration": 1}', '{"audio_filepath": "a", "duration": -1}'] * 3
    manifest.write_text("\n".join(['{"audio_filepath": "a.wav"}', *wrong]))
    with pytest.raises(ManifestError) as raised:
        run(tmp_path / "out", [manifest])
    text = str(raised.value).splitlines()
    assert text[0].startswith(f"{manifest}:2: not JSON")
    assert text[3] == f'{manifest}:5: "duration" must be above 0 seconds, got -1.0'
    assert text[-1] == "and 2 more wrong lines" and len(text) == 11
    assert not (tmp_path / "out").exists()
    with pytest.raises(ManifestError, match="no such file"):
        list(read_items([str(tmp_path / "none.jsonl")]))


def test_folders_and_prefixes(tmp_path, memory):
    filesystem = fsspec.filesystem("memory")
    for name in ("b.wav", "a.txt", "sub/c.FLAC", "sub/deep/d.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
        filesystem.pipe(f"/bucket/{name}", b"1")
    found = sorted(item.uri for item in read_items([str(tmp_path)]))
    assert found == [str(tmp_path / n) for n in ("b.wav", "sub/c.FLAC", "sub/deep/d.mp3")]
    found = sorted(item.uri for item in read_items([memory]))
    assert found == [f"{memory}/{n}" for n in ("b.wav", "sub/c.FLAC", "sub/deep/d.mp3")]
    with pytest.raises(AudioError, match="no recordings here"):
        list(read_items([str(tmp_path / "none")]))
    with pytest.raises(StorageError, match="nosuch"):
        list(read_items(["nosuch://bucket/x"]))
    before = list(read_items([str(tmp_path / "b.wav")]))
    (tmp_path / "b.wav").write_bytes(b"12")
    assert list(read_items([str(tmp_path / "b.wav")])) != before  # replaced: to be done again


def test_the_plan_is_sorted_and_holds_every_item_once(tmp_path):
    items = [Item.of(f"{k % 4500}.wav", "", None, 0.5) for k in range(5000)]
    found = sort_items(iter(items), tmp_path)
    assert (found.items, found.duplicates, found.seconds) == (4500, 500, 2250.0)
    expected = sorted({item.key: item for item in items}.values(), key=lambda item: item.key)
    plan = Plan(found, Shape(8, 37))
    assert [item for shard in plan.shards for item in plan.read(shard)] == expected
    parts = [Plan(found, Shape(8, 37), (index, 5)) for index in range(5)]
    assert sum((part.shards for part in parts), []) == plan.shards
    assert [part.file for part in parts] == [tmp_path / "plan.jsonl"] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["plan.jsonl"]


# -- runs


def test_results_are_those_of_transcribe(tmp_path, calls):
    storage, report, todo = run(tmp_path / "out", [calls / "calls.jsonl"])
    assert lines(storage) == transcribed(calls / "calls.jsonl")
    assert todo == report.recordings == 30
    assert report.seconds == pytest.approx(sum(json.loads(x)["duration"] for x in lines(storage)))
    assert json.loads(storage.read("report.json"))["failed"] == 0
    assert storage.read("failed.jsonl") == b""
    settings = json.loads(storage.read("run.json"))
    assert settings["model"] == MODEL and settings["format"] == "ctcspeech bulk run"


def test_recordings_of_a_bucket_are_those_of_a_disk(calls, memory):
    filesystem = fsspec.filesystem("memory")
    for path in calls.glob("*.wav"):
        filesystem.pipe(f"/bucket/{path.name}", path.read_bytes())
    filesystem.pipe("/bucket/calls.jsonl", (calls / "calls.jsonl").read_bytes())
    expected = transcribed(calls / "calls.jsonl")
    storage, _, _ = run(f"{memory}/out", [f"{memory}/calls.jsonl"])
    found = [line.replace(f"{memory}/".encode(), f"{calls}/".encode()) for line in lines(storage)]
    assert found == expected
    storage, report, _ = run(f"{memory}/out2", [memory])
    assert report.recordings == 30
    assert [json.loads(line)["text"] for line in lines(storage)] == [
        json.loads(line)["text"] for line in expected
    ]


def test_only_what_is_missing_is_done(tmp_path, calls):
    rows = (calls / "calls.jsonl").read_text().splitlines(keepends=True)
    manifest = calls / "some.jsonl"
    manifest.write_text("".join(rows[:20]))
    storage, _, todo = run(tmp_path / "out", [manifest])
    assert todo == 20
    for shards in (None, 1, 2, 4):
        assert run(tmp_path / "out", [manifest], shards=shards)[2] == 0
    manifest.write_text("".join(rows + rows[:3]))  # 10 more, 3 twice
    again, report, todo = run(tmp_path / "out", [manifest], shards=2)
    assert (todo, report.recordings) == (10, 30) and again.url == storage.url
    assert lines(storage) == transcribed(calls / "calls.jsonl")
    other, _, todo = run(tmp_path / "out", [manifest], settings={"beam_size": 5})
    assert todo == 30 and other.url != storage.url
    with pytest.raises(BulkError, match="cannot have more shards"):
        run(tmp_path / "out", [manifest], shards=10**6)


def test_parts_of_an_array(tmp_path, calls):
    manifest = calls / "calls.jsonl"
    total = 0
    for index in range(3):
        with Bulk(str(tmp_path / "out"), MODEL, {}, part=(index, 3)) as job:
            tally = job.prepare([str(manifest)])
            total += tally.total
            job.run(engine(), tally, lambda tally: None)
    assert total == 30
    storage, report, todo = run(tmp_path / "out", [manifest])
    assert (todo, report.recordings) == (0, 30)
    assert lines(storage) == transcribed(manifest)


def test_parquet_results(tmp_path, calls):
    storage, _, _ = run(tmp_path / "out", [calls / "calls.jsonl"], format="parquet")
    files = [storage.path(f"results/{name}") for name in storage.list("results")]
    rows = pyarrow.concat_tables(pyarrow.parquet.read_table(file) for file in files).to_pylist()
    expected = [json.loads(line) for line in transcribed(calls / "calls.jsonl")]
    found = sorted(rows, key=lambda row: row["audio_filepath"])
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == expected
    before = {name: storage.read(f"results/{name}") for name in storage.list("results")}
    other, _, _ = run(tmp_path / "other", [calls / "calls.jsonl"], format="parquet")
    assert before == {name: other.read(f"results/{name}") for name in other.list("results")}


def test_a_bad_recording_is_one_failed_record(tmp_path, calls):
    folder = tmp_path / "in"
    for k in range(4):
        write(folder / f"{k}.wav", soundfile.read(calls / f"{k:02}.wav", dtype="float32")[0])
    good = (folder / "1.wav").read_bytes()
    (folder / "1.wav").write_bytes(good[:3000])
    (folder / "2.wav").write_bytes(b"")
    names = ["0.wav", "1.wav", "2.wav", "3.wav", "gone.wav"]
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": n}) + "\n" for n in names))
    storage, report, _ = run(tmp_path / "out", [manifest])
    assert report.recordings == 2
    assert report.failures == {"truncated": 1, "empty": 1, "missing": 1}
    failed = [json.loads(line) for line in storage.read("failed.jsonl").splitlines()]
    reasons = {record["audio_filepath"]: record for record in failed}
    assert reasons[str(folder / "gone.wav")] == {
        "audio_filepath": str(folder / "gone.wav"),
        "id": "gone",
        "kind": "missing",
        "error": f"{folder / 'gone.wav'}: no such file; check the path",
    }
    assert "truncated" in reasons[str(folder / "1.wav")]["error"]
    # Again: nothing is tried; with retry_failed what has become good is done.
    assert run(tmp_path / "out", [manifest])[2] == 0
    storage, report, todo = run(tmp_path / "out", [manifest], retry_failed=True)
    assert todo == 3 and sum(report.failures.values()) == 3
    stat = (folder / "1.wav").stat()
    (folder / "1.wav").write_bytes(good)  # another file: not the same piece of work
    assert run(tmp_path / "out", [manifest])[2] == 1
    assert stat.st_size != (folder / "1.wav").stat().st_size


def test_retry_failed_replaces_the_failure(calls, memory):
    """In a bucket, where a manifest's recordings are not looked up before."""
    filesystem = fsspec.filesystem("memory")
    manifest = f"{memory}/m.jsonl"
    names = ["00.wav", "01.wav", "02.wav"]
    filesystem.pipe("/bucket/m.jsonl", b"".join(b'{"audio_filepath": "%s"}\n' % n.encode()
                                                for n in names))  # fmt: skip
    for name in names[1:]:
        filesystem.pipe(f"/bucket/{name}", (calls / name).read_bytes())
    storage, report, _ = run(f"{memory}/out", [manifest])
    assert report.failures == {"missing": 1}
    filesystem.pipe("/bucket/00.wav", (calls / "00.wav").read_bytes())
    assert run(f"{memory}/out", [manifest])[2] == 0
    storage, report, todo = run(f"{memory}/out", [manifest], retry_failed=True)
    assert (todo, report.failures, report.recordings) == (1, {}, 3)
    assert storage.read("failed.jsonl") == b""
    assert len(lines(storage)) == 3
    whole, _, _ = run(f"{memory}/whole", [manifest])
    assert lines(whole) == lines(storage)


# -- kills and faults


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_loses_nothing(calls, memory, monkeypatch, after):
    """The k-th change of the storage is the last that happens (or the first that does not), for
    every k; then the command is run again, with other shards."""
    manifest = str(calls / "some.jsonl")
    rows = (calls / "calls.jsonl").read_text().splitlines(keepends=True)
    (calls / "some.jsonl").write_text("".join(rows[:24]) + '{"audio_filepath": "gone.wav"}\n')
    count, limit = 0, None

    def counted(method):
        def changed(self, *arguments):
            nonlocal count
            count += 1
            if after:
                method(self, *arguments)
            if count == limit:
                raise Killed
            if not after:
                method(self, *arguments)

        return changed

    whole, _, _ = run(f"{memory}/whole", [manifest], shards=4)
    expected = lines(whole), whole.read("failed.jsonl")
    for name in ("write", "upload", "delete"):
        monkeypatch.setattr(Storage, name, counted(getattr(Storage, name)))
    changes = None
    for limit in range(1, 1000):
        count = 0
        output = f"{memory}/{limit}"
        try:
            run(output, [manifest], shards=4)
        except Killed:
            pass
        else:
            changes = limit - 1
            break
        storage, report, _ = run(output, [manifest], shards=3)
        assert (lines(storage), storage.read("failed.jsonl")) == expected, f"killed at {limit}"
        assert report.recordings == 24 and storage.list("attempts") == []
    assert changes is not None and changes >= 4 * 3 + 3  # note, results, record of each shard


class Poison(Exception):
    """Stands for the death of the worker."""


def poisonous(deaths, names=("poison",), together=False):
    """A loader of a transcriber that dies of recordings of these names, or of several at once."""

    def load():
        made = tones()

        def transcribe(recordings):
            recordings = list(recordings)
            if together and len(recordings) > 1:
                deaths.append("together")
                raise Poison
            for recording in recordings:
                for name in names:
                    if name in Path(recording.name).name:
                        deaths.append(recording.name)
                        raise Poison
            return made(recordings)

        return transcribe

    return load


def run_until_done(output, inputs, load, driver=None):
    """Workers one after another, in one run of the command (driver), until the work is done."""
    with Bulk(str(output), MODEL, {}, shards=1) as job:
        from ctcspeech.bulk.worker import Job, Worker

        tally = job.prepare([str(name) for name in inputs])
        job._save_settings(job.plan.shape)
        for k in range(30):
            described = Job(job.storage, "jsonl", job.plan.shape, driver or f"driver {k}")
            try:
                for part in job.todo.parts:
                    Worker(described, load).do(job.todo.read(part))
            except Poison:
                continue
            return job.storage, job.finish()
    raise AssertionError(f"not done after 30 workers, {tally}")


@pytest.mark.parametrize("names", [("poison1",), ("poison1", "poison2")])
def test_poison_is_set_aside_after_three_deaths(tmp_path, calls, names):
    folder = tmp_path / "in"
    for k in range(12):
        name = {3: "poison1", 8: "poison2"}.get(k, str(k))
        samples, rate = soundfile.read(calls / f"{k:02}.wav", dtype="float32")
        write(folder / f"{name}.wav", samples, rate)
    deaths = []
    storage, report = run_until_done(tmp_path / "out", [folder], poisonous(deaths, names), "one")
    assert report.failures == {"killed": len(names)}
    assert len(deaths) == 3 * len(names)
    for name in names:
        assert f"{folder}/{name}.wav: killed its worker 3 times" in str(
            storage.read("failed.jsonl")
        )
    # What the others give is the same as if it had not been there.
    clean, report, _ = run(tmp_path / "clean", [folder], poisonous([], ()))
    others = [line for line in lines(clean) if not any(name.encode() in line for name in names)]
    texts = {json.loads(line)["audio_filepath"]: json.loads(line)["text"] for line in others}
    assert {json.loads(x)["audio_filepath"]: json.loads(x)["text"] for x in lines(storage)} == texts
    # Tried again when asked for, and only then.
    assert run(tmp_path / "out", [folder], tones)[2] == 0
    assert run(tmp_path / "out", [folder], tones, retry_failed=True)[1].failures == {}


def test_poison_that_takes_the_driver_along_is_set_aside_too(tmp_path, calls):
    folder = tmp_path / "in"
    for name in ("a", "poison", "z"):
        write(folder / f"{name}.wav", soundfile.read(calls / "00.wav", dtype="float32")[0])
    deaths = []
    storage, report = run_until_done(tmp_path / "out", [folder], poisonous(deaths))
    assert report.failures == {"killed": 1} and len(deaths) == 4  # the first may be a driver's


def test_a_worker_that_dies_of_all_together_is_told(tmp_path, calls):
    deaths = []
    for _ in range(2):  # and so it is when the command is run again
        with pytest.raises(BulkError, match="killed 3 times over the same 30 recordings"):
            run_until_done(
                tmp_path / "out", [calls / "calls.jsonl"], poisonous(deaths, (), True), "one"
            )
    assert deaths == ["together"] * 6
    assert run(tmp_path / "out", [calls / "calls.jsonl"])[1].recordings == 30


def test_a_full_disk_is_told_and_the_rest_is_done_later(tmp_path, calls, monkeypatch):
    manifest = calls / "calls.jsonl"
    written = []

    def full(path, *arguments):
        written.append(path)
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments)

    real = storage_module.atomic_write
    monkeypatch.setattr(storage_module, "atomic_write", full)
    with pytest.raises(StorageError, match="the disk is full; make room, then run the same"):
        run(tmp_path / "out", [manifest])
    monkeypatch.undo()
    storage, _, todo = run(tmp_path / "out", [manifest])
    assert 0 < todo < 30
    assert lines(storage) == transcribed(manifest)


class BotoError(Exception):
    """As botocore's ClientError."""

    response = {"Error": {"Code": "ExpiredToken"}}


def test_an_expired_token_stops_the_work_and_is_told(calls, memory, monkeypatch):
    filesystem = fsspec.filesystem("memory")
    for path in calls.glob("*.wav"):
        filesystem.pipe(f"/bucket/{path.name}", path.read_bytes())
    real, count = type(filesystem).get_file, 0

    def expiring(self, *arguments, **options):
        nonlocal count
        count += 1
        if count > 10:
            raise PermissionError("denied") from BotoError()
        return real(self, *arguments, **options)

    monkeypatch.setattr(type(filesystem), "get_file", expiring)
    with pytest.raises(StorageError, match="credentials have expired; renew them"):
        run(f"{memory}/out", [memory])
    monkeypatch.undo()
    storage, report, todo = run(f"{memory}/out", [memory])
    assert report.recordings == 30 and report.failures == {} and 0 < todo <= 30
    assert is_expired(PermissionError("The provided token has expired"))
    assert not is_expired(PermissionError("Access Denied"))


def test_a_recording_that_must_not_be_read_is_its_own_failure(calls, memory, monkeypatch):
    filesystem = fsspec.filesystem("memory")
    for name in ("00.wav", "01.wav"):
        filesystem.pipe(f"/bucket/{name}", (calls / name).read_bytes())
    real = type(filesystem).get_file

    def refusing(self, path, *arguments, **options):
        if "00" in path:
            raise PermissionError("Access Denied")
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(type(filesystem), "get_file", refusing)
    _, report, _ = run(f"{memory}/out", [memory])
    assert (report.recordings, report.failures) == (1, {"refused": 1})


def test_what_was_done_twice_is_left_once(tmp_path, calls):
    """Two commands at the same time with other shards: both saw nothing done."""
    manifest = calls / "calls.jsonl"
    with (
        Bulk(str(tmp_path / "out"), MODEL, {}, shards=4) as one,
        Bulk(str(tmp_path / "out"), MODEL, {}, shards=1) as two,
    ):
        tallies = [job.prepare([str(manifest)]) for job in (one, two)]
        for job, tally in zip((one, two), tallies, strict=True):
            job.run(engine(), tally, lambda tally: None)
        assert len(lines(one.storage)) == 60
        report = two.finish()
    assert report.recordings == 30
    assert lines(one.storage) == transcribed(manifest)
    assert run(tmp_path / "out", [manifest], shards=4)[2] == 0
    # What no record names goes.
    one.storage.write("results/000000-000001-ff.jsonl", b"{}\n")
    run(tmp_path / "out", [manifest])
    assert lines(one.storage) == transcribed(manifest)


def test_damaged_records_are_told(tmp_path, calls):
    manifest = calls / "calls.jsonl"
    storage, _, _ = run(tmp_path / "out", [manifest], shards=4)
    record = list_completions(storage)[0]
    storage.write(f"done/{record.name}.json", b"{")
    with pytest.raises(BulkError, match="damaged .*; delete it, and its recordings are done"):
        run(tmp_path / "out", [manifest], shards=4)
    storage.delete(f"done/{record.name}.json")
    assert run(tmp_path / "out", [manifest], shards=4)[2] > 0
    assert lines(storage) == transcribed(manifest)
    storage.write("run.json", b'{"format": "ctcspeech bulk run", "version": 2}')
    with pytest.raises(BulkError, match="format version 2"):
        run(tmp_path / "out", [manifest])


def test_cost():
    from ctcspeech.bulk.finish import Report

    report = Report(10, seconds=36000.0, work_seconds=360.0)
    assert report.real_time_factor == 0.01
    assert report.cost_per_thousand_hours(0.05) == pytest.approx(0.5)
    assert report.to_dict(0.05)["cost_per_thousand_hours"] == 0.5
    assert Report().to_dict(1.0)["cost_per_thousand_hours"] is None


def test_names_in_folders():
    assert join("/a", "b.wav") == "/a/b.wav"
    assert join("/a", "/b.wav") == "/b.wav"
    assert join("s3://a/x", "b.wav") == "s3://a/x/b.wav"
    assert join("s3://a/x", "gs://b/c") == "gs://b/c"
    assert RATE == 8000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus": 9}, "asks for 9 CPU, but no node of the cluster has more than 8; .*-cpus"),
        ({"gpus": 0.5}, "asks for 0.5 GPU, but no node .* more than 0; .*-gpus"),
        ({"memory": 5 << 30}, "asks for 5120 MiB of memory, .* more than 4096; .*--worker-memory$"),
        ({"cpus": 8, "memory": 3 << 30}, "no node .* has all that a worker asks for at once"),
    ],
)
def test_what_no_node_of_ray_has_is_told(options, message):
    nodes = [{"CPU": 8.0, "memory": 2.0 * 2**30}, {"CPU": 2.0, "memory": 4.0 * 2**30}]
    _check_resources(nodes, RayOptions(cpus=8, memory=2 << 30))
    with pytest.raises(BulkError, match=message):
        _check_resources(nodes, RayOptions(**options))
