"""Recordings in every format, in pieces, through pipes, and broken in every way."""

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import audio
from ctcspeech.audio import g711, pcm
from ctcspeech.errors import AudioError

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def write(path: Path, samples: np.ndarray, subtype: str | None, rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


# extension, libsndfile's encoding, the greatest error that the encoding itself may make
ENCODED = [
    ("wav", "PCM_U8", 1 / 128),
    ("wav", "PCM_16", 1 / 32768),
    ("wav", "PCM_24", 1e-6),
    ("wav", "PCM_32", 1e-7),
    ("wav", "FLOAT", 0.0),
    ("wav", "DOUBLE", 0.0),
    ("wav", "ULAW", 0.02),
    ("wav", "ALAW", 0.02),
    ("flac", "PCM_16", 1 / 32768),
    ("flac", "PCM_24", 1e-6),
    ("ogg", "VORBIS", 0.05),
    ("ogg", "OPUS", 0.05),
    ("mp3", "MPEG_LAYER_III", 0.05),
]


@pytest.mark.parametrize("extension, subtype, error", ENCODED)
def test_every_format(tmp_path, extension, subtype, error):
    path = write(tmp_path / f"a.{extension}", tone(), subtype)
    header = audio.info(path)
    assert (header.sample_rate, header.channels) == (RATE, 1)
    assert header.duration == pytest.approx(1.0, abs=0.1)
    samples, rate = audio.load(path)
    assert rate == RATE and samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == header.num_frames
    inside = slice(2000, 14000)  # the lossy ones begin and end softly
    assert np.abs(samples[inside] - tone()[inside]).max() <= error
    part, _ = audio.load(path, offset=0.25, duration=0.5)
    np.testing.assert_allclose(part, samples[4000:12000], atol=1e-6)
    joined = np.concatenate(list(audio.stream(path, RATE, 0.11)))
    np.testing.assert_allclose(joined, samples, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_are_averaged(tmp_path, channels):
    parts = np.stack([tone(frequency=200.0 * (i + 1)) for i in range(channels)], 1)
    path = write(tmp_path / "a.wav", parts, "FLOAT")
    samples, _ = audio.load(path)
    np.testing.assert_allclose(samples, parts.mean(1), atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(audio.stream(path, RATE, 0.3))), samples)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(rate=rate), "FLOAT", rate)
    samples, got = audio.load(path, RATE)
    assert got == RATE and abs(len(samples) - RATE) <= 1
    expected = tone(len(samples) / RATE)
    assert np.abs(samples - expected)[500:-500].max() < 1e-3


def test_resampling_removes_what_does_not_fit(tmp_path):
    path = write(tmp_path / "a.wav", tone(frequency=6000.0), "FLOAT")
    samples, _ = audio.load(path, 8000)
    assert np.abs(samples[500:-500]).max() < 1e-3


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.floats(0.003, 1.5), st.sampled_from([8000, 16000, 22050]), st.integers(1, 9000))
def test_a_stream_is_the_whole(tmp_path_factory, chunk_seconds, rate, count):
    path = tmp_path_factory.mktemp("stream") / "a.wav"
    write(path, np.random.default_rng(count).uniform(-0.5, 0.5, count), "FLOAT", 11025)
    chunks = list(audio.stream(path, rate, chunk_seconds))
    assert all(len(chunk) and chunk.dtype == np.float32 for chunk in chunks)
    whole, _ = audio.load(path, rate)
    np.testing.assert_allclose(np.concatenate([*chunks, whole[:0]]), whole, atol=1e-5)


def test_a_stream_reads_no_more_than_it_needs(tmp_path):
    path = write(tmp_path / "a.wav", tone(20.0), "PCM_16")
    with open(path, "rb") as file:
        chunks = audio.stream(file, RATE, 0.5)
        assert len(next(chunks)) == RATE // 2
        assert file.tell() < 3 * RATE


def piped(data: bytes, piece: int = 1000):
    """The reading end of a pipe into which a thread writes `data` in pieces."""
    reading, writing = os.pipe()

    def write_all() -> None:
        with open(writing, "wb", buffering=0) as file:
            for at in range(0, len(data), piece):
                file.write(data[at : at + piece])

    threading.Thread(target=write_all, daemon=True).start()
    return open(reading, "rb", buffering=0)  # unbuffered: read may return fewer bytes than asked


@pytest.mark.parametrize("extension, subtype, error", ENCODED)
def test_a_pipe(tmp_path, extension, subtype, error):
    """wav as it comes, by the project's own decoder; the others by a temporary file."""
    stereo = np.stack([tone(), tone(frequency=300.0)], 1)
    path = write(tmp_path / f"a.{extension}", stereo, subtype)
    with piped(path.read_bytes()) as file:
        samples = np.concatenate(list(audio.stream(file, RATE, 0.2)))
    np.testing.assert_allclose(samples, audio.load(path)[0], atol=2e-7)


def test_a_pipe_of_unknown_length(tmp_path):
    data = bytearray(write(tmp_path / "a.wav", tone(), "PCM_16").read_bytes())
    at = data.index(b"data") + 4
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        data[at : at + 4] = struct.pack("<I", size)
        samples = np.concatenate(list(audio.stream(io.BytesIO(bytes(data)), RATE)))
        assert len(samples) == RATE


@pytest.mark.parametrize("encoding", pcm.ENCODINGS)
def test_raw_samples(tmp_path, encoding):
    names = {"mulaw": "ULAW", "alaw": "ALAW", "u8": "PCM_U8", "s8": "PCM_S8", "f32": "FLOAT"}
    names |= {"f64": "DOUBLE", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32"}
    endian = {"le": "LITTLE", "be": "BIG"}.get(encoding[-2:], "FILE")
    subtype = names[encoding.removesuffix("le").removesuffix("be")]
    path = tmp_path / "a.raw"
    soundfile.write(path, tone(), RATE, subtype=subtype, endian=endian, format="RAW")
    expected, _ = soundfile.read(
        path, samplerate=RATE, channels=1, subtype=subtype, endian=endian, format="RAW"
    )
    raw = audio.PcmFormat(RATE, encoding)
    samples = np.concatenate(list(audio.stream(path, RATE, 0.3, raw=raw)))
    np.testing.assert_allclose(samples, expected, atol=1e-7)
    with piped(path.read_bytes(), 777) as file:
        samples = np.concatenate(list(audio.stream(file, RATE, 0.3, raw=raw)))
    np.testing.assert_allclose(samples, expected, atol=1e-7)


def test_a_wav_header_counts_more_than_the_raw_format(tmp_path):
    data = write(tmp_path / "a.wav", tone(), "PCM_16").read_bytes()
    chunks = audio.stream(io.BytesIO(data), RATE, raw=audio.PcmFormat(8000, "u8", 2))
    np.testing.assert_allclose(np.concatenate(list(chunks)), tone(), atol=1e-4)


def test_companding_equals_libsndfile():
    codes = np.arange(256, dtype=np.uint8).tobytes()
    for encoding, subtype in (("mulaw", "ULAW"), ("alaw", "ALAW")):
        expected, _ = soundfile.read(
            io.BytesIO(codes), samplerate=RATE, channels=1, subtype=subtype, format="RAW"
        )
        ours = pcm.decode(codes, audio.PcmFormat(RATE, encoding))[:, 0]
        np.testing.assert_array_equal(ours, expected.astype(np.float32))


def test_through_mulaw_is_encoding_and_decoding(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32) ** 3
    path = write(tmp_path / "a.wav", samples, "ULAW")
    ours, theirs = g711.through_mulaw(samples), soundfile.read(path)[0]
    # the nearest level; libsndfile cuts to 14 bits first, which differs beside a decision value
    assert np.mean(ours != theirs.astype(np.float32)) < 0.1
    levels = g711.mulaw_to_linear()
    nearest = np.abs(samples[:, None] - levels).min(1)
    assert (np.abs(ours - samples) <= nearest + 1 / 32768).all()
    np.testing.assert_array_equal(g711.through_mulaw(ours), ours)


# --- broken recordings


def refuse(path, message: str) -> None:
    """Loading and streaming both say `message`, and which file."""
    with pytest.raises(AudioError, match=message) as caught:
        audio.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(AudioError, match=message):
        list(audio.stream(path, RATE))


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
@pytest.mark.parametrize("extension, subtype, error", ENCODED[:-1])
def test_truncated(tmp_path, extension, subtype, error, share):
    path = write(tmp_path / f"a.{extension}", tone(2.0), subtype)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, "truncated")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_mp3(tmp_path, share):
    path = write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.3, 0.3, 5 * RATE), None)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, "truncated")


def untagged_mp3(path: Path, samples: np.ndarray, mode: str) -> Path:
    """An mp3 without the first frame, in which the encoder says how long the rest is."""
    soundfile.write(path, samples, RATE, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data = path.read_bytes()
    assert data[:2] == b"\xff\xf3" and (b"Xing" in data[:100] or b"Info" in data[:100])
    tag = b"ID3\4\0\0\0\0\2\0" + b"\xff" * 256
    path.write_bytes(tag + data[data.index(b"\xff\xf3", 2) :])
    return path


def test_mp3_without_its_length(tmp_path):
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    quiet = np.zeros(8 * RATE, np.float32)
    path = untagged_mp3(tmp_path / "a.mp3", np.concatenate([loud, quiet]), "CONSTANT")
    assert audio.info(path).duration == pytest.approx(12, abs=0.2)
    assert len(audio.load(path)[0]) == pytest.approx(12 * RATE, abs=4000)
    # libsndfile takes this for longer than it is
    path = untagged_mp3(tmp_path / "b.mp3", np.concatenate([quiet, loud]), "VARIABLE")
    assert soundfile.info(path).duration > 20
    assert audio.info(path).duration == pytest.approx(12, abs=0.2)
    samples, _ = audio.load(path)
    assert len(samples) == pytest.approx(12 * RATE, abs=4000)
    assert np.std(samples[-2 * RATE :]) > 0.1
    assert len(np.concatenate(list(audio.stream(path, RATE)))) == len(samples)
    # and this for shorter, whose end it would never read
    path = untagged_mp3(tmp_path / "c.mp3", np.concatenate([loud, quiet]), "VARIABLE")
    assert soundfile.info(path).duration < 10
    refuse(path, r"cannot be read to its end \(12\.\d+ s\); convert")


def test_not_audio(tmp_path):
    path = tmp_path / "a.wav"
    refuse(path, "no such file")
    path.write_bytes(b"")
    refuse(path, r"empty \(0 bytes\)")
    path.write_bytes(b"not a recording, but a text\n" * 100)
    refuse(path, "cannot be read as audio")
    refuse(tmp_path, "is a folder")
    path.write_bytes(b"RIFF\x10\0\0\0WAVEfmt ")
    refuse(path, "cannot be read as audio")


def test_no_samples(tmp_path):
    refuse(write(tmp_path / "a.wav", tone(0), "PCM_16"), "no samples")


def test_not_finite(tmp_path):
    samples = tone()
    samples[5:7] = np.nan, np.inf
    refuse(write(tmp_path / "a.wav", samples, "FLOAT"), "2 of 16000 samples are NaN")
    samples[:] = np.nan
    refuse(write(tmp_path / "b.wav", samples, "FLOAT"), "every sample is NaN")


def test_broken_pipes(tmp_path):
    data = write(tmp_path / "a.wav", tone(), "PCM_16").read_bytes()
    for content, message in (
        (b"", "no bytes came"),
        (data[:30], "at least 16 bytes"),
        (data[:36], "header ends before"),
        (data[:-5000], "truncated"),
        (data[:44], "truncated"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "no format before"),
        (b"text " * 100, "cannot be read as audio"),
    ):
        with pytest.raises(AudioError, match=message):
            list(audio.stream(io.BytesIO(content), RATE))
    with pytest.raises(AudioError, match="no samples"):
        list(audio.stream(io.BytesIO(b"\0"), RATE, raw=audio.PcmFormat(RATE)))


def test_ranges(tmp_path):
    path = write(tmp_path / "a.wav", tone(), "PCM_16")
    assert len(audio.load(path, offset=0.9, duration=5.0)[0]) == 1600
    with pytest.raises(AudioError, match=r"nothing at offset 1 s, the recording ends at 1.000 s"):
        audio.load(path, offset=1.0)
    for arguments in ({"offset": -1}, {"duration": 0}, {"sample_rate": 0}, {"offset": np.nan}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            audio.load(path, **arguments)
    with pytest.raises(ValueError, match="chunk_seconds"):
        audio.stream(path, RATE, 0)
    for arguments in ((0,), (RATE, "s17"), (RATE, "u8", 0)):
        with pytest.raises(ValueError, match="must be"):
            audio.PcmFormat(*arguments)


@pytest.mark.data
def test_recordings(data_folder):
    paths = sorted((data_folder / "rir").glob("*.flac")) + sorted(data_folder.glob("fsdd/**/*.wav"))
    assert len(paths) > 100
    for path in paths[:100]:
        samples, rate = audio.load(path)
        assert len(samples) == audio.info(path).num_frames and rate in (8000, 16000)
