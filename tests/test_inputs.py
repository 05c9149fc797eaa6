"""A line of a manifest means the same to training, recognition, checking and importing.

The truth: NumPy's slices of samples and frames that were written by soundfile and numpy.
"""

import json
import math
import struct

import numpy as np
import pytest
import soundfile

from ctcspeech import Alphabet, FeatureConfig, FeatureExtractor, Recognizer, SpeechDataset
from ctcspeech.audio.read import load, stream
from ctcspeech.data.check import check_manifests
from ctcspeech.data.corpora import import_corpus
from ctcspeech.data.inputs import Extent, read_audio, read_features
from ctcspeech.data.manifest import read_lines
from ctcspeech.errors import AudioError, FeatureError
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.checkpoint import CheckpointEmitter
from ctcspeech.recognize.recordings import Recording

RATE = 8000
ALPHABET = Alphabet.from_text(["ab "])
SAMPLES = np.random.default_rng(0).integers(-9000, 9000, 3 * RATE).astype(np.int16)
FRAMES = np.arange(300 * 5, dtype=np.float32).reshape(300, 5)

# (offset, duration) of a file of 3 s: the seconds that are read, None: nothing is there
LINES = [
    (None, 3.0, (0.0, 3.0)),
    (None, 1.25, (0.0, 1.25)),  # duration counts without an offset
    (0.0, 1.25, (0.0, 1.25)),
    (0.5, 1.0, (0.5, 1.5)),
    (2.5, 4.0, (2.5, 3.0)),  # what the file has
    (None, None, (0.0, 3.0)),
    (1.0, None, (1.0, 3.0)),
    (3.0, 1.0, None),
]


@pytest.fixture
def manifest(tmp_path):
    """Both kinds of lines in one manifest."""
    soundfile.write(tmp_path / "a.wav", SAMPLES, RATE)
    np.save(tmp_path / "f.npy", FRAMES)
    with open(tmp_path / "m.jsonl", "w") as file:
        for offset, duration, _ in LINES:
            for key, name in (("audio_filepath", "a.wav"), ("features_filepath", "f.npy")):
                line = {key: name, "offset": offset, "duration": duration, "text": "a"}
                file.write(json.dumps({k: v for k, v in line.items() if v is not None}) + "\n")
    return tmp_path / "m.jsonl"


def lines(manifest, key):
    utterances = [utterance for _, utterance in read_lines(manifest, need_duration=False)]
    kept = [u for u in utterances if getattr(u, key) is not None]
    return zip(kept, [seconds for *_, seconds in LINES], strict=True)


def test_audio(manifest):
    for utterance, seconds in lines(manifest, "audio_filepath"):
        readers = [
            lambda u: SpeechDataset([u], ALPHABET, RATE).read(0),
            lambda u: np.concatenate(list(Recording.of(u).chunks(RATE))),
            lambda u: read_audio(u)[0],
        ]
        for read in readers:
            if seconds is None:
                with pytest.raises(AudioError, match="nothing at offset 3 s"):
                    read(utterance)
                continue
            start, end = (round(x * RATE) for x in seconds)
            got = np.rint(read(utterance) * 32768).astype(np.int16)
            assert len(got) - (end - start) in (0, 4)  # half a millisecond more, where there is
            np.testing.assert_array_equal(got, SAMPLES[start : start + len(got)])


def test_features(manifest):
    config = FeatureConfig(kind="precomputed", num_features=5, shift_ms=10)
    for utterance, seconds in lines(manifest, "features_filepath"):
        readers = [
            lambda u: SpeechDataset([u], ALPHABET, config).read(0),
            lambda u: Recording.of(u).features(10, 5),
            lambda u: read_features(u, 10),
        ]
        for read in readers:
            if seconds is None:
                with pytest.raises(FeatureError, match="nothing at offset 3 s"):
                    read(utterance)
                continue
            start, end = (round(x * 100) for x in seconds)
            np.testing.assert_array_equal(read(utterance), FRAMES[start:end])


@pytest.mark.parametrize("quick", [False, True])
def test_importing_and_checking(manifest, quick):
    found = import_corpus("manifest", manifest, quick=quick)
    told = [seconds[1] - seconds[0] for *_, seconds in LINES if seconds for _ in "af"]
    assert [u.duration for u in found.splits["m"]] == pytest.approx(told, abs=0.001)
    assert len(found.problems) == 2 and all("nothing at offset 3" in p for p in found.problems)
    report = check_manifests([manifest], quick=quick)
    wrong = {(p.line, p.kind) for p in report.problems if p.kind != "duplicate"}
    # Lines 9 and 10 promise more than there is, 11 to 14 no duration, 15 and 16 nothing there.
    assert wrong == {(9, "duration"), (10, "duration"), (15, "file"), (16, "file")} | {
        (line, "manifest") for line in range(11, 15)
    }


def test_a_recogniser_hears_what_training_hears(manifest):
    config = FeatureConfig(sample_rate=RATE, num_bins=8, normalization="none")
    features = FeatureExtractor(config)
    model = build_model(DeepSpeech2Config(hidden=4, layers=1), features.num_features, 4)
    recognizer = Recognizer(CheckpointEmitter(model, features, ALPHABET))
    for utterance, seconds in lines(manifest, "audio_filepath"):
        (transcript,) = recognizer.transcribe([utterance])
        if seconds is None:
            assert transcript.error is not None
        else:
            assert transcript.duration == pytest.approx(seconds[1] - seconds[0], abs=0.001)


def test_extent():
    assert Extent(2.0, 1.5).seconds == 1.5
    assert Extent(2.0, 9.0).seconds == 2.0
    assert Extent(2.0, math.nan).seconds == 2.0


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("times", [(0.0, 1.0), (0.7, 1.1), (2.5, 9.0), (1.0, None)])
@pytest.mark.parametrize("rate", [RATE, 11025])
def test_a_stream_of_a_range_is_what_load_gives(tmp_path, suffix, times, rate):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, SAMPLES, RATE)
    whole, _ = load(path, rate, *times)
    chunks = list(stream(path, rate, 0.25, offset=times[0], duration=times[1]))
    assert max(len(chunk) for chunk in chunks) <= 0.5 * rate
    joined = np.concatenate(chunks)
    assert abs(len(joined) - len(whole)) <= 1
    count = min(len(joined), len(whole))
    np.testing.assert_allclose(joined[:count], whole[:count], atol=2e-4)


def test_a_range_of_a_pipe_is_refused(tmp_path):
    with open(tmp_path / "x", "wb+") as file, pytest.raises(ValueError, match="are for files"):
        stream(file, RATE, offset=1.0)


def test_width_of_a_sphinx_file(tmp_path):
    """26 numbers a frame by the configuration: a file of 13 is told apart where it can be."""
    values = np.arange(13 * 3, dtype=">f4")
    (tmp_path / "x.mfc").write_bytes(struct.pack(">i", len(values)) + values.tobytes())
    line = {"features_filepath": "x.mfc", "duration": 0.03, "text": "a"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    ((_, utterance),) = read_lines(tmp_path / "m.jsonl")
    for width, frames in ((13, 3), (39, 1)):
        config = FeatureConfig(kind="precomputed", num_features=width)
        for got in (
            SpeechDataset([utterance], ALPHABET, config).read(0),
            Recording.of(utterance).features(10, width),
        ):
            np.testing.assert_array_equal(got, values.reshape(frames, width)[:3])
    config = FeatureConfig(kind="precomputed", num_features=26)
    item = SpeechDataset([utterance], ALPHABET, config)[0]
    assert "x.mfc: 39 numbers are not whole frames of 26" in item.reason
    found = import_corpus("manifest", tmp_path / "m.jsonl", num_features=26)
    assert "not whole frames of 26" in found.problems[0]
    report = check_manifests([tmp_path / "m.jsonl"], num_features=26)
    assert "not whole frames of 26" in report.problems[0].message
