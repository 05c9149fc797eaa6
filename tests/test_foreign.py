"""Data of other toolkits: what was written with their own packages is what the manifest names."""

import io
import tarfile

import numpy as np
import pytest
import soundfile

from ctcspeech.data.corpora import import_corpus
from ctcspeech.data.inputs import read_audio
from ctcspeech.data.manifest import read_manifest, write_manifest
from ctcspeech.errors import AudioError, ManifestError
from ctcspeech.recognize.recordings import Recording

RATE = 8000


def samples(number):
    return np.random.default_rng(number).integers(-9000, 9000, 800 * (number + 1)).astype(np.int16)


def wav(number, kind="WAV"):
    data = io.BytesIO()
    soundfile.write(data, samples(number), RATE, format=kind)
    return data.getvalue()


def heard(utterance):
    return np.rint(read_audio(utterance)[0] * 32768).astype(np.int16)


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def test_webdataset(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            add(archive, f"d/a{shard}.flac", wav(2 * shard, "FLAC"))
            add(archive, f"d/a{shard}.txt", f"text {2 * shard}\n".encode())
            add(archive, f"b{shard}.json", b'{"text": "more", "speaker": 3}')
            add(archive, f"b{shard}.wav", wav(2 * shard + 1))
            add(archive, f"c{shard}.wav", wav(0))
            add(archive, f"e{shard}.json", b"{")
    found = import_corpus("webdataset", folder)
    assert len(found.problems) == 4 and sum("has no text" in p for p in found.problems) == 2
    write_manifest(folder / "m.jsonl", found.splits["shards"])
    (tmp_path / "moved").symlink_to(folder)  # paths in the manifest are relative
    utterances = read_manifest(tmp_path / "moved" / "m.jsonl")
    assert [(u.id, u.text, u.speaker) for u in utterances] == [
        ("d/a0", "text 0", None),
        ("b0", "more", "3"),
        ("d/a1", "text 2", None),
        ("b1", "more", "3"),
    ]
    for number, utterance in enumerate(utterances):
        assert utterance.duration == pytest.approx(0.1 * (number + 1))
        np.testing.assert_array_equal(heard(utterance), samples(number))
        (chunk,) = Recording.of(utterance).chunks(RATE)
        assert len(chunk) == len(samples(number))
    data = (folder / "001.tar").read_bytes()
    (folder / "001.tar").write_bytes(data[:3000])
    with pytest.raises(AudioError, match="001.tar:[0-9]+:[0-9]+: the tar file ends"):
        heard(utterances[3])
    with pytest.raises(ManifestError, match="cannot be read as a tar file"):
        import_corpus("webdataset", folder / "m.jsonl")


def test_a_member_at_a_url(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    data = wav(1)
    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(b"x" * 512 + data)
    line = f'{{"audio_filepath": "memory://bucket/a.tar:512:{len(data)}", "duration": 0.2}}'
    (tmp_path / "m.jsonl").write_text(line)
    np.testing.assert_array_equal(heard(read_manifest(tmp_path / "m.jsonl")[0]), samples(1))


def test_tar_files_by_pattern_and_at_a_url(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    for shard in range(3):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
            add(archive, f"a{shard}.wav", wav(shard))
            add(archive, f"a{shard}.txt", f"text {shard}".encode())
        with fsspec.open(f"memory://there/train-{shard}.tar", "wb") as file:
            file.write((tmp_path / f"train-{shard}.tar").read_bytes())
    (tmp_path / "other.tar").write_bytes(b"no tar file")
    for pattern in (tmp_path / "train-*.tar", "memory://there/train-*.tar"):
        found = import_corpus("webdataset", pattern)
        assert not found.problems and list(found.splits) == ["train"]
        write_manifest(tmp_path / "m.jsonl", found.splits["train"])
        utterances = read_manifest(tmp_path / "m.jsonl")
        assert [u.text for u in utterances] == ["text 0", "text 1", "text 2"]
        for number, utterance in enumerate(utterances):
            np.testing.assert_array_equal(heard(utterance), samples(number))
    assert str(utterances[0].path).startswith("memory:")
    with pytest.raises(ManifestError, match="no file is .*dev"):
        import_corpus("webdataset", tmp_path / "dev-*.tar")
    with pytest.raises(ManifestError, match="cannot be read as a tar file"):
        import_corpus("webdataset", tmp_path / "nothing.tar")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # lhotse's reader
def test_lhotse_shar(tmp_path):
    """What lhotse's own reader gives of a Shar folder that lhotse wrote, cuts in mid-recording
    too."""
    lhotse = pytest.importorskip("lhotse")
    (tmp_path / "a.wav").write_bytes(wav(9))
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    cuts = []
    for i in range(5):
        supervision = lhotse.SupervisionSegment(
            f"s{i}", recording.id, 0.0, 0.4, text=f"text {i}", speaker="ann"
        )
        cut = lhotse.MonoCut(f"d/c.{i}", 0.125 * i, 0.4, 0, [supervision], recording=recording)
        cuts.append(cut)
    (tmp_path / "shar").mkdir()
    fields = {"recording": "flac"}
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields, shard_size=3)
    found = import_corpus("lhotse", tmp_path / "shar")
    assert not found.problems
    theirs = lhotse.CutSet.from_shar(in_dir=tmp_path / "shar")
    for cut, utterance in zip(theirs, found.splits["shar"], strict=True):
        assert (utterance.id, utterance.text) == (cut.id, cut.supervisions[0].text)
        assert (utterance.duration, utterance.speaker) == (cut.duration, "ann")
        expected = np.rint(cut.load_audio()[0] * 32768).astype(np.int16)
        np.testing.assert_array_equal(heard(utterance), expected)
    (tmp_path / "shar" / "cuts.000001.jsonl.gz").unlink()
    with pytest.raises(ManifestError, match="has no cuts.000001.jsonl.gz"):
        import_corpus("lhotse", tmp_path / "shar")


def test_lhotse(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    (tmp_path / "a.wav").write_bytes(wav(9))
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    cuts = []
    for i, (start, duration) in enumerate([(0.0, 0.5), (0.25, 0.4)]):
        supervision = lhotse.SupervisionSegment(
            f"s{i}", recording.id, 0.0, duration, text=f"text {i}", speaker="ann"
        )
        cuts.append(lhotse.MonoCut(f"c{i}", start, duration, 0, [supervision], recording=recording))
    cuts.append(lhotse.MonoCut("empty", 0.0, 0.5, 0, [], recording=recording))
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    found = import_corpus("lhotse", tmp_path / "cuts.jsonl.gz")
    assert "cut empty must have one supervision" in found.problems[0]
    for cut, utterance in zip(cuts, found.splits["cuts"], strict=False):
        assert (utterance.id, utterance.text) == (cut.id, cut.supervisions[0].text)
        ours, theirs = heard(utterance), np.rint(cut.load_audio()[0] * 32768).astype(np.int16)
        assert len(ours) - len(theirs) in (0, 4)  # half a millisecond more
        np.testing.assert_array_equal(ours[: len(theirs)], theirs)


def test_huggingface(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.wav").write_bytes(wav(0))
    rows = {
        "audio": [
            {"path": str(tmp_path / "a.wav"), "bytes": None},
            {"path": None, "bytes": wav(1)},
        ],
        "sentence": ["One", "two"],
        "speaker_id": [4, 5],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(str(tmp_path / "set"))
    found = import_corpus("huggingface", tmp_path / "set")
    assert [(u.text, u.speaker) for u in found.splits["set"]] == [("One", "4"), ("two", "5")]
    for number, utterance in enumerate(found.splits["set"]):
        np.testing.assert_array_equal(heard(utterance), samples(number))
