"""The recogniser on recordings whose text is known by construction (see tone_language.py)."""

import threading

import numpy as np
import pytest
import soundfile
import soxr
import torch
from tone_language import ALPHABET, RATE, ToneModel, hush, say, tone_recognizer, words, write

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import AudioError, CheckpointError, DecoderError, FeatureError
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.checkpoint import CheckpointEmitter
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.recognize.recordings import Recording
from ctcspeech.text.alphabet import Alphabet


@pytest.fixture
def generator():
    return np.random.default_rng(11)


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = DeepSpeech2Config(
        convolution="1d",
        channels=[16],
        time_width=[5],
        time_stride=[2],
        hidden=16,
        layers=2,
    )
    return build_model(config, 81, len(ALPHABET)).eval()


def tiny_features(normalization="none"):
    return FeatureExtractor(FeatureConfig(sample_rate=RATE, normalization=normalization))


def tiny_recognizer(features, **options):
    return Recognizer(CheckpointEmitter(tiny_model(), features, ALPHABET), **options)


def test_results_are_in_order_of_the_inputs(tmp_path, generator):
    texts, paths = [], []
    for k in range(25):
        texts.append(" ".join(words(int(generator.integers(1, 8)), generator)))
        paths.append(write(tmp_path / f"{k}.wav", say(texts[-1], generator)))
    recognizer = tone_recognizer(threads=2, batch_seconds=20)
    results = list(recognizer.transcribe(paths))
    assert [result.name for result in results] == [str(path) for path in paths]
    assert [result.text for result in results] == texts
    assert all(result.error is None for result in results)
    assert len(recognizer.emitter.model.batches) < len(paths)  # across files


@pytest.mark.parametrize("max_seconds", [4.0, 6.5, 12.0])
@pytest.mark.parametrize("subsampling", [1, 2, 3])
def test_no_word_is_lost_or_doubled_at_seams(tmp_path, generator, max_seconds, subsampling):
    # Utterances with pauses from none to half a second between them: cuts with and without silence.
    samples, texts = [], []
    for _ in range(30):
        text = " ".join(words(int(generator.integers(3, 15)), generator))
        texts.append(text)
        samples += [say(text + " ", generator), hush(generator.uniform(0, 0.5), generator)]
    path = write(tmp_path / "long.wav", np.concatenate(samples))
    recognizer = tone_recognizer(subsampling)
    (result,) = recognizer.transcribe([path], max_seconds=max_seconds)
    assert result.text == " ".join(texts)
    assert len(result.passages) > 2


def test_speech_without_any_pause(tmp_path, generator):
    text = " ".join(words(400, generator))
    path = write(tmp_path / "breathless.flac", say(text, generator))
    (result,) = tone_recognizer().transcribe([path], max_seconds=5)
    assert result.text == text
    assert len(result.passages) < 4  # joined emissions, divided only to bound the memory


def test_word_times_are_those_of_the_recording(tmp_path, generator):
    samples, expected, position = [], [], 0
    for word in words(60, generator):
        start = position + int(0.02 * RATE)
        spoken = say(word, generator)
        samples += [spoken, say(" ", generator), hush(generator.uniform(0.1, 0.6), generator)]
        end = start + int((0.1 * len(word) - 0.04) * RATE)
        expected.append((word, start / RATE, end / RATE))
        position += sum(map(len, samples[-3:]))
    path = write(tmp_path / "long.wav", np.concatenate(samples))
    (result,) = tone_recognizer().transcribe([path], max_seconds=7)
    assert len(result.passages) > 3
    assert [word.text for word in result.words] == [word for word, _, _ in expected]
    for word, (_, start, end) in zip(result.words, expected, strict=True):
        assert word.start == pytest.approx(start, abs=0.03)
        assert word.end == pytest.approx(end, abs=0.03)
    assert result.duration == pytest.approx(position / RATE)
    assert result.passages[-1].end == pytest.approx(position / RATE)


def test_emissions_do_not_depend_on_the_batch(generator):
    samples = [
        generator.standard_normal(int(n)).astype(np.float32) * 0.1
        for n in generator.integers(100, 30000, 15)
    ]
    alone = tiny_recognizer(tiny_features("utterance"), threads=1)
    expected = [alone.emissions([item])[0] for item in samples]
    for threads, batch_seconds in [(1, 1000.0), (2, 5.0), (3, 0.1)]:
        together = tiny_recognizer(
            tiny_features("utterance"), threads=threads, batch_seconds=batch_seconds
        )
        for item, wanted in zip(together.emissions(samples), expected, strict=True):
            assert item.dtype == np.float32
            np.testing.assert_allclose(item, wanted, atol=1e-5)
    frames = [max(0, (len(item) - 160) // 80 + 1) for item in samples]
    assert [len(item) for item in expected] == [-(-count // 2) for count in frames]
    np.testing.assert_allclose(np.exp(expected[0]).sum(axis=1), 1.0, atol=1e-5)
    assert alone.emissions([]) == []


def test_threads_of_the_program_are_left_alone(generator):
    before = torch.get_num_threads()
    recognizer = tone_recognizer(threads=2)
    recognizer.emissions([say("abc", generator)] * 3)
    assert torch.get_num_threads() == before
    inside = [recognizer.workers.pool().submit(torch.get_num_threads) for _ in range(4)]
    assert {future.result() for future in inside} == {1}


def test_bad_recordings_are_reported_in_their_place(tmp_path, generator):
    good = write(tmp_path / "good.wav", say("abc", generator))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no recording, whatever its name says")
    damaged = np.concatenate([say("a", generator), np.full(9, np.nan, np.float32)])
    soundfile.write(tmp_path / "nan.wav", damaged, RATE, subtype="FLOAT")
    names = ["missing.wav", "good.wav", "empty.wav", "text.wav", "nan.wav", "good.wav"]
    results = list(tone_recognizer().transcribe(tmp_path / name for name in names))
    assert [result.error is None for result in results] == [False, True] + [False] * 3 + [True]
    for result in results:
        if result.error is None:
            assert result.text == "abc"
        else:
            assert isinstance(result.error, AudioError)
            assert result.name in str(result.error)
            assert result.text == "" and result.passages == []
    assert str(good) == results[1].name


def test_a_recording_that_fails_late_gives_no_half_text(tmp_path, generator):
    samples = np.concatenate([say("abc " * 40, generator), np.full(3, np.inf, np.float32)])
    soundfile.write(tmp_path / "late.wav", samples, RATE, subtype="FLOAT")
    good = write(tmp_path / "good.wav", say("de", generator))
    bad, fine = tone_recognizer().transcribe([tmp_path / "late.wav", good], max_seconds=4)
    assert isinstance(bad.error, AudioError) and bad.text == ""
    assert fine.text == "de"


def test_nan_of_the_model_is_an_error_of_that_recording(tmp_path, generator):
    class Broken(ToneModel):
        def forward(self, features, lengths):
            logits, lengths = super().forward(features, lengths)
            logits[lengths > 50] = float("nan")
            return logits, lengths

    recognizer = tone_recognizer()
    recognizer.emitter.model = Broken()
    long = write(tmp_path / "long.wav", say("abc " * 10, generator))
    short = write(tmp_path / "short.wav", say("abc", generator))
    bad, good = recognizer.transcribe([long, short])
    assert isinstance(bad.error, DecoderError)
    assert good.text == "abc"


def test_parts_of_a_file_and_other_rates(tmp_path, generator):
    first, second = say("ab", generator), say("cd", generator)
    path = write(tmp_path / "both.wav", np.concatenate([first, second]))
    whole = Utterance(path, 1.0)
    part = Utterance(path, len(second) / RATE, offset=len(first) / RATE)
    results = list(tone_recognizer().transcribe([whole, part]))
    assert [result.text for result in results] == ["abcd", "cd"]
    assert results[1].to_dict()["offset"] == part.offset

    fast = write(tmp_path / "fast.wav", soxr.resample(first, RATE, 22050), 22050)
    stereo = write(tmp_path / "stereo.wav", np.stack([first, first], axis=1))
    assert [r.text for r in tone_recognizer().transcribe([fast, stereo])] == ["ab", "ab"]


def test_less_than_a_window_has_no_text(tmp_path):
    path = write(tmp_path / "blip.wav", np.zeros(50, np.float32))
    (result,) = tone_recognizer().transcribe([path])
    assert result.error is None and result.text == ""
    assert result.duration == pytest.approx(50 / RATE)


def test_precomputed_features(tmp_path, generator):
    torch.manual_seed(0)
    config = FeatureConfig(kind="precomputed", num_features=5, normalization="none", shift_ms=10)
    model_config = DeepSpeech2Config(
        convolution="1d", channels=[8], time_width=[3], time_stride=[2], hidden=8, layers=1
    )
    model = build_model(model_config, 5, len(ALPHABET))
    recognizer = Recognizer(CheckpointEmitter(model, FeatureExtractor(config), ALPHABET))
    assert recognizer.frame_shift_ms == pytest.approx(20.0)
    utterances = []
    for k, frames in enumerate([30, 4000, 77]):
        features = generator.standard_normal((frames, 5)).astype(np.float32)
        np.save(tmp_path / f"{k}.npy", features)
        utterances.append(Utterance(features_filepath=tmp_path / f"{k}.npy", duration=frames / 100))
    np.save(tmp_path / "wide.npy", np.zeros((3, 6), np.float32))
    utterances.append(Utterance(features_filepath=tmp_path / "wide.npy", duration=0.03))
    utterances.append(Utterance(tmp_path / "only.wav", 1.0))
    results = list(recognizer.transcribe(utterances))
    assert [result.duration for result in results[:3]] == pytest.approx([0.3, 40.0, 0.77])
    for k, result in enumerate(results[:3]):
        ((expected,),) = recognizer.greedy_decoder().decode(
            recognizer.emissions([np.load(tmp_path / f"{k}.npy")])
        )
        assert result.text == expected.text
    assert isinstance(results[3].error, FeatureError) and "6" in str(results[3].error)
    assert isinstance(results[4].error, FeatureError)


def test_checkpoints_are_enough_alone(tmp_path, generator):
    features = tiny_features()
    save_checkpoint(tmp_path / "run" / "model", Checkpoint(tiny_model(), features, ALPHABET))
    samples = [generator.standard_normal(5000).astype(np.float32)]
    (expected,) = tiny_recognizer(features).emissions(samples)
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        recognizer = Recognizer.from_checkpoint(path, threads=1)
        assert recognizer.sample_rate == RATE
        assert recognizer.frame_shift_ms == pytest.approx(20.0)
        assert recognizer.alphabet == ALPHABET
        np.testing.assert_allclose(recognizer.emissions(samples)[0], expected, atol=1e-6)
    with pytest.raises(CheckpointError, match="nowhere"):
        Recognizer.from_checkpoint(tmp_path / "nowhere")


def test_alphabets_without_space_join_without_one(tmp_path, generator):
    recognizer = tone_recognizer()
    recognizer.emitter.alphabet = Alphabet(["<blank>", "你", "好", "b", "c", "d", "e"])
    samples = [say("a", generator), hush(0.6, generator)] * 12
    path = write(tmp_path / "long.wav", np.concatenate(samples))
    (result,) = recognizer.transcribe([path], max_seconds=4)
    assert len(result.passages) > 1
    assert result.text == "好" * 12


def test_stopping_early_leaves_nothing_running(tmp_path, generator):
    paths = [write(tmp_path / f"{k}.wav", say("ab " * 20, generator)) for k in range(40)]
    recognizer = tone_recognizer(threads=1, batch_seconds=5)
    transcripts = recognizer.transcribe(paths)
    assert next(transcripts).text
    transcripts.close()
    done = threading.Event()
    recognizer.workers.pool().submit(done.set)
    assert done.wait(5)


def test_advance_counts_all_audio_once(tmp_path, generator):
    samples = np.concatenate([say("abc de ", generator)] * 60)
    path = write(tmp_path / "long.wav", samples)
    counted = []
    list(tone_recognizer().transcribe([path, path], max_seconds=3, advance=counted.append))
    assert sum(counted) == pytest.approx(2 * len(samples) / RATE)


def test_sources_are_read_as_streams(tmp_path, generator):
    path = write(tmp_path / "a.wav", say("abc", generator))
    with open(path, "rb") as file:
        (result,) = tone_recognizer().transcribe([Recording("pipe", file)])
    assert (result.name, result.text) == ("pipe", "abc")


@pytest.mark.parametrize(
    ("options", "name"), [({"threads": 0}, "threads"), ({"batch_seconds": 0}, "batch_seconds")]
)
def test_wrong_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        tone_recognizer(**options)
