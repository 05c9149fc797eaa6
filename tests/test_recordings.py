"""Which recordings the arguments of a command line name."""

import io
import json

import numpy as np
import pytest
import soundfile

from ctcspeech.audio.read import PcmFormat
from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import AudioError, ManifestError
from ctcspeech.recognize.recordings import Recording, find_recordings


def make(path, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * 8000), 0.25), 8000)
    return path


def test_each_kind_of_argument(tmp_path):
    names = ["b.wav", "a.flac", "deep/er/c.ogg", "deep/D.WAV"]
    for name in names:
        make(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("not a recording")
    (tmp_path / "folder" / "x.raw").write_bytes(b"\0\0")
    lines = [{"audio_filepath": "folder/b.wav", "duration": 0.1, "text": "t", "id": "first"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def found(*arguments, **options):
        return [
            recording.name.removeprefix(f"{tmp_path}/")
            for recording in find_recordings([str(tmp_path / a) for a in arguments], **options)
        ]

    tree = ["folder/a.flac", "folder/b.wav", "folder/deep/D.WAV", "folder/deep/er/c.ogg"]
    assert found("folder") == tree
    assert found("folder", raw=PcmFormat(8000))[-1] == "folder/x.raw"
    assert found("folder/*.wav") == ["folder/b.wav"]
    assert found("folder/**/*.ogg", "folder/b.wav") == ["folder/deep/er/c.ogg", "folder/b.wav"]
    assert found("m.jsonl") == ["folder/b.wav"]
    assert found("missing.wav") == ["missing.wav"]  # reported when it is read
    (recording,) = find_recordings([str(tmp_path / "m.jsonl")])
    assert recording.utterance.id == "first"


def test_names_with_the_marks_of_patterns(tmp_path):
    path = make(tmp_path / "take [1].wav")
    (recording,) = find_recordings([str(path)])
    assert recording.source == path


def test_mistakes_of_the_command_line(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(AudioError, match="no recordings in this folder"):
        find_recordings([str(tmp_path / "none")])
    with pytest.raises(AudioError, match=r"no file matches .*\*\.wav"):
        find_recordings([str(tmp_path / "*.wav")])
    with pytest.raises(ManifestError, match=r"missing\.jsonl"):
        find_recordings([str(tmp_path / "missing.jsonl")])


def test_standard_input(tmp_path):
    samples = np.array([0, 16384, -16384, 8192], dtype="<i2")
    stream = io.BytesIO(samples.tobytes() * 100)
    (recording,) = find_recordings(["-"], PcmFormat(8000), stream)
    read = np.concatenate(list(recording.chunks(8000)))
    assert recording.name == "-"
    np.testing.assert_allclose(read[:4], [0, 0.5, -0.5, 0.25])
    assert len(read) == 400


def test_lengths_without_reading(tmp_path):
    path = make(tmp_path / "a.wav", 0.5)
    assert Recording.of(path).seconds() == pytest.approx(0.5)
    assert Recording.of(Utterance(path, 0.3)).seconds() == 0.3
    assert Recording.of(tmp_path / "missing.wav").seconds() is None
    assert Recording("-", io.BytesIO(b"")).seconds() is None
