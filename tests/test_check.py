import json
import os
import zlib

import numpy as np
import pytest
import soundfile

from ctcspeech import Alphabet, Utterance, read_manifest, write_manifest
from ctcspeech.data.check import check_manifests
from ctcspeech.errors import ManifestError
from ctcspeech.text.normalize import Normalizer

RATE = 8000
ALPHABET = Alphabet.from_text(["abcdefghijklmnopqrstuvwxyz '"])


@pytest.fixture
def corpus(tmp_path):
    """Makes a manifest: {name: (seconds, text)} -> path."""

    def make(manifest, recordings, speaker=None):
        utterances = []
        for number, (name, (seconds, text)) in enumerate(recordings.items()):
            path = tmp_path / f"{name}.wav"
            noise = np.random.default_rng(zlib.crc32(f"{manifest} {number}".encode())).uniform(
                -0.5, 0.5, 80000
            )
            soundfile.write(path, noise[: round(seconds * RATE)], RATE)
            utterances.append(Utterance(path, seconds, text, speaker=speaker))
        write_manifest(tmp_path / manifest, utterances)
        return tmp_path / manifest

    return make


def change(path, line, **values):
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    lines[line - 1].update(values)
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))


def kinds(report):
    return [(problem.line, problem.kind) for problem in report.problems]


def test_nothing_wrong(corpus):
    path = corpus("m.jsonl", {"a": (1.0, "hello"), "b": (2.0, "you there")})
    seen = []
    report = check_manifests(
        [path], alphabet=ALPHABET, started=seen.append, advance=lambda n, s: seen.append(s)
    )
    assert (report.problems, report.notes) == ([], [])
    assert (report.utterances, report.seconds) == (2, 3.0)
    assert report.good[path] == read_manifest(path)
    assert seen == [2, 1.0, 2.0]


def test_all_that_is_wrong_at_once(corpus, tmp_path):
    names = ["good", "gone", "cut", "noise", "short", "upper", "empty", "fast"]
    path = corpus("m.jsonl", {name: (1.0, f"text {name}") for name in names})
    (tmp_path / "gone.wav").unlink()
    os.truncate(tmp_path / "cut.wav", 4000)
    (tmp_path / "noise.wav").write_bytes(b"\0" * 5000)
    change(path, 5, duration=3.0)
    change(path, 6, text="Übertext")
    change(path, 7, text="  ")
    change(path, 8, text="all these letters in fifty frames are too much")
    with open(path, "a") as file:
        file.write('{"audio_filepath": "good.wav"}\n')
    report = check_manifests([path], alphabet=ALPHABET, frame_shift_ms=25)
    assert kinds(report) == [
        (2, "file"),
        (3, "file"),
        (4, "file"),
        (5, "duration"),
        (6, "alphabet"),
        (7, "text"),
        (8, "too-long"),
        (9, "manifest"),
    ]
    texts = [str(problem) for problem in report.problems]
    assert all(text.startswith(f"{path}:{i}: ") for i, text in enumerate(texts, 2))
    assert "gone.wav" in texts[0] and "cut.wav" in texts[1] and "noise.wav" in texts[2]
    assert "says 3 s, the file has 1.000 s" in texts[3]
    assert "'Ü'" in texts[4]
    # 46 letters and spaces, repeats ll, tt, oo; 1 s / 25 ms
    assert "at least 49 frames (46 labels + 3 repeats), but 1.000 s have only 40" in texts[6]
    assert [utterance.id for utterance in report.good[path]] == ["good"]


@pytest.mark.parametrize(("frame_shift_ms", "fits"), [(125, True), (126, False)])
def test_too_long_is_exact(corpus, frame_shift_ms, fits):
    path = corpus("m.jsonl", {"a": (1.0, "yellows")})  # 7 labels, 1 repeat: 8 frames
    report = check_manifests([path], frame_shift_ms=frame_shift_ms)
    assert (report.problems == []) is fits


def test_normalizer_and_no_alphabet(corpus):
    path = corpus("m.jsonl", {"a": (1.0, "Hello, you!"), "b": (1.0, "...")})
    assert kinds(check_manifests([path])) == []
    assert kinds(check_manifests([path], alphabet=ALPHABET)) == [(1, "alphabet"), (2, "alphabet")]
    report = check_manifests([path], alphabet=ALPHABET, normalizer=Normalizer())
    assert kinds(report) == [(2, "text")]


def test_parts_of_a_recording(corpus, tmp_path):
    path = corpus("m.jsonl", {"a": (5.0, "hello")})
    parts = [
        Utterance(tmp_path / "a.wav", 2.0, "first"),  # shares its file: no wrong duration
        Utterance(tmp_path / "a.wav", 2.5, "second", offset=2.4),
        Utterance(tmp_path / "a.wav", 2.0, "beyond", offset=4.0),
        Utterance(tmp_path / "a.wav", 2.0, "nothing there", offset=6.0),
    ]
    write_manifest(path, parts)
    assert kinds(check_manifests([path])) == [(3, "duration"), (4, "file")]
    assert kinds(check_manifests([path], quick=True)) == [(3, "duration"), (4, "file")]
    # A duration is what is read of the file; that nobody has the rest is worth a look.
    write_manifest(path, parts[:1])
    report = check_manifests([path])
    assert kinds(report) == [] and len(report.notes) == 1
    assert "1 files are longer" in report.notes[0] and "by 2.95 s" in report.notes[0]


def test_duplicates(corpus, tmp_path):
    train = corpus("train.jsonl", {"a": (1.0, "one"), "b": (1.0, "two")}, speaker="anna")
    test = corpus("test.jsonl", {"c": (1.0, "one"), "d": (1.0, "four")}, speaker="anna")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    soundfile.write(tmp_path / "a again.flac", samples, RATE)  # another file of the same sound
    change(test, 2, audio_filepath="a again.flac")
    with open(test, "a") as file:
        file.write(train.read_text().splitlines()[1] + "\n")
        file.write(test.read_text().splitlines()[0] + "\n")
    report = check_manifests([train, test])
    assert kinds(report) == [(2, "duplicate"), (3, "duplicate"), (4, "duplicate")]
    texts = [str(problem) for problem in report.problems]
    assert f"a again.flac: sounds exactly as {tmp_path}/a.wav at {train}:1" in texts[0]
    assert f"the same recording is at {train}:2" in texts[1]
    assert f"the same recording is at {test}:1" in texts[2]
    assert any("1 of the 1 speakers" in note and "'anna'" in note for note in report.notes)
    assert any("2 of the 3 texts" in note and "'one'" in note for note in report.notes)


def test_equal_sounds_within_a_split_are_a_note(corpus, tmp_path):
    path = corpus("m.jsonl", {"a": (1.0, "one"), "b": (1.0, "two")})
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    report = check_manifests([path])
    assert report.problems == [] and "1 recordings equal" in report.notes[0]


def test_features(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((100, 13), np.float32))
    (tmp_path / "bad.npy").write_bytes(b"x")
    good = Utterance(features_filepath=tmp_path / "f.npy", duration=1.0, text="hello")
    wrong = Utterance(features_filepath=tmp_path / "f.npy", duration=2.0, text="hello", offset=1e-9)
    bad = Utterance(features_filepath=tmp_path / "bad.npy", duration=1.0, text="hello")
    write_manifest(tmp_path / "m.jsonl", [good, wrong, bad])
    report = check_manifests([tmp_path / "m.jsonl"])
    assert kinds(report) == [(2, "duration"), (3, "file")]
    report = check_manifests([tmp_path / "m.jsonl"], feature_shift_ms=20)
    assert (2, "duration") not in kinds(report)


def test_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="none"):
        check_manifests([tmp_path / "none.jsonl"])


@pytest.mark.data
@pytest.mark.parametrize("name", ["fsdd", "kathleen", "grid_s1", "asterisk_en"])
def test_real_manifests(data_folder, name):
    paths = sorted((data_folder / name).glob("*.jsonl"))
    report = check_manifests(paths, alphabet=ALPHABET, frame_shift_ms=20)
    assert report.problems == []
