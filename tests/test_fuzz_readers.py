"""What is read may be anything: damaged files end in an error of ctcspeech's, never in another.

Mutations are drawn from a seed; a smoke of them runs always, and for so many seconds with

    CTCSPEECH_FUZZ_SECONDS=20 python -m pytest tests/test_fuzz_readers.py
"""

import io
import json
import os
import random
import struct
import time

import numpy as np
import pytest
import soundfile
import torch

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor, load_features
from ctcspeech.audio.pcm import PcmFormat
from ctcspeech.audio.read import load, stream
from ctcspeech.data.manifest import read_manifest
from ctcspeech.decode.confidence import Calibration, load_calibrations, save_calibration
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.emissions import Emissions
from ctcspeech.errors import CtcSpeechError
from ctcspeech.files import seal
from ctcspeech.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_training,
    save_checkpoint,
)
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.train.config import load_config
from ctcspeech.train.fingerprint import FILE, Fingerprint

SECONDS = float(os.environ.get("CTCSPEECH_FUZZ_SECONDS", "0"))
SMOKE = 40  # cases where no seconds are given
RATE = 8000


class Chance(random.Random):
    """Damage to bytes: bits, bytes, pieces lost, doubled, moved, numbers at their edges."""

    def mutate(self, data):
        data = bytearray(data)
        for _ in range(self.choice([1, 1, 1, 2, 5])):
            place = self.randrange(len(data) + 1)
            length = min(len(data) - place, int(self.expovariate(0.1)) + 1)
            kind = self.randrange(7)
            if kind == 0 and place < len(data):
                data[place] ^= 1 << self.randrange(8)
            elif kind == 1:
                data[place : place + length] = self.randbytes(length)
            elif kind == 2:
                del data[place : place + length]
            elif kind == 3:
                del data[place:]
            elif kind == 4:
                data[place:place] = data[place : place + length] * self.randrange(1, 4)
            elif kind == 5:
                number = self.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FF00000])
                data[place : place + 4] = struct.pack(self.choice("<>") + "I", number)
            else:
                words = [b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"1" * 30, b"[" * 9]
                data[place : place + self.choice([0, length])] = self.choice(words)
        return bytes(data)


def fuzz(path, read, seed, after=lambda: None):
    """`read()` on mutations of the file at `path`, which is then as it was. `after` the writing."""
    whole = path.read_bytes()
    chance = Chance(seed)
    ends = time.monotonic() + SECONDS
    refused = cases = 0
    while cases < SMOKE or time.monotonic() < ends:
        cases += 1
        damaged = chance.mutate(whole)
        path.write_bytes(damaged)
        after()
        try:
            read()
        except CtcSpeechError as error:
            refused += 1
            str(error).encode("utf-8", "backslashreplace")
        except Exception as error:
            raise AssertionError(f"{path.name}, case {cases}: {damaged!r}"[:3000]) from error
    path.write_bytes(whole)
    after()
    read()  # what was whole is read
    assert refused > 0.02 * cases, "the damage never mattered"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint with all its files."""
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    features = FeatureExtractor(FeatureConfig(sample_rate=RATE, num_bins=4))
    from ctcspeech.audio.features import FeatureStatistics

    statistics = FeatureStatistics(features.num_features)
    statistics.accumulate(torch.randn(9, features.num_features))
    features.set_statistics(statistics)
    config = DeepSpeech2Config(convolution="1d", channels=[2], time_width=[3], time_stride=[2])
    config = config.model_copy(update={"layers": 1, "hidden": 2})
    alphabet = Alphabet.from_text(["ab "])
    checkpoint = Checkpoint(
        build_model(config, features.num_features, len(alphabet)),
        features,
        alphabet,
        {"data": {"normalizer": {"case": "lower"}}},
        {"epoch": 1},
    )
    save_checkpoint(folder, checkpoint, {"step": 1, "optimizer": {"state": [torch.ones(3)]}})
    save_calibration(folder, "greedy", Calibration(1.0, 0.0, 10))
    DecoderSettings(lm_weight=0.5, word_score=1.0).save(folder)
    return folder


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "alphabet.json",
        "model.safetensors",
        "statistics.safetensors",
        "training.pt",
    ],
)
def test_a_checkpoint(model, name, sealed):
    """Once as damage, which the checksums notice, once as if it had been written so."""
    read = load_training if name == "training.pt" else load_checkpoint
    after = (lambda: None) if sealed else (lambda: seal(model, [name]))
    fuzz(model / name, lambda: read(model), 1, after)


def test_what_is_kept_beside_a_model(model):
    fuzz(model / "confidence.json", lambda: load_calibrations(model), 9)
    fuzz(model / "decoder.json", lambda: DecoderSettings.find(model), 10)


def test_checksums(model):
    fuzz(model / "checksums.json", lambda: load_checkpoint(model), 2)


def test_manifest(tmp_path):
    lines = [
        {"audio_filepath": "a.wav", "duration": 2.5, "text": "héllo", "speaker": 3, "offset": 0.5},
        {"features_filepath": "f.ark:12", "duration": 1, "text": "x", "id": "y", "more": [1, {}]},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fuzz(path, lambda: read_manifest(path), 3)


def test_configuration(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        '[data]\ntrain = ["a.jsonl"]\nbatch_seconds = 60.0\nnormalizer = {case = "lower"}\n'
        "[features]\nsample_rate = 8000\nnum_bins = 20\nwindow_ms = 25\n"
        "[augment]\ngain_db = [-6, 6]\n[model]\nchannels = [32]\ntime_width = [5]\n"
        "time_stride = [2]\nfrequency_width = [3]\nfrequency_stride = [1]\nhidden = 32\n"
        "[train]\nseed = 3\nlearning_rate = 1e-2\nbetas = [0.9, 0.98]\n"
    )
    fuzz(path, lambda: load_config(path), 4)


def test_emissions(tmp_path):
    path = tmp_path / "e.npz"
    scores = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    Emissions(scores, ["<blank>", " ", "a", "b"], 0, 20.0).save(path)
    fuzz(path, lambda: Emissions.load(path), 5)


def test_training_data_record(tmp_path):
    Fingerprint({"a": "b"}, {"a": np.arange(9)}).save(tmp_path)
    fuzz(tmp_path / FILE, lambda: Fingerprint.load(tmp_path), 6)


class Pipe(io.RawIOBase):
    """Bytes that come in pieces and cannot be sought."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def readable(self):
        return True

    def seekable(self):
        return False

    def read(self, count=-1):
        count = len(self.data) if count < 0 else min(count, 1000)
        piece = self.data[self.at : self.at + count]
        self.at += len(piece)
        return piece


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_wav_from_a_pipe_and_from_a_file(tmp_path, subtype):
    path = tmp_path / "a.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 900)
    soundfile.write(path, samples, RATE, subtype)

    def read():
        error = None
        for read_one in (
            lambda: list(stream(Pipe(path.read_bytes()), RATE)),
            lambda: list(stream(Pipe(path.read_bytes()), RATE, raw=PcmFormat(RATE))),
            lambda: load(path, RATE),
        ):
            try:
                read_one()
            except CtcSpeechError as found:
                error = found
        if error:
            raise error

    fuzz(path, read, 7)


@pytest.mark.parametrize("suffix", ["npy", "ark", "mfc"])
def test_features(tmp_path, suffix):
    path = tmp_path / f"f.{suffix}"
    values = np.arange(26, dtype=np.float32).reshape(2, 13)
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "ark":
        header = b"a \0BFM " + struct.pack("<bibi", 4, 2, 4, 13)
        path.write_bytes(header + values.tobytes())
    else:
        path.write_bytes(struct.pack(">i", 26) + values.astype(">f4").tobytes())
    fuzz(path, lambda: load_features(path), 8)
