"""Live recognition: streams in any chunks and company give what the whole recording gives."""

import math

import numpy as np
import pytest
import torch
from tone_language import ALPHABET, RATE, hush, say, tone_recognizer, words
from tone_stream import tone_emitter

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor, FeatureStatistics
from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.errors import AudioError, DecoderError
from ctcspeech.live.endpoint import EndpointDetector, Endpointing, QuietAudio
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.live.stable import StablePrefix
from ctcspeech.live.torch_state import TorchSource, has_state
from ctcspeech.live.windows import Windows, WindowSource
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.checkpoint import CheckpointEmitter
from ctcspeech.text.alphabet import Alphabet

# A tail that is no whole number of frames, and longer than the look-ahead of 200 ms.
HIDDEN_END = {"hide_end": True, "tail_ms": 333}


def random_emitter(hide_end=False, **features):
    """A forward-only model of random weights."""
    torch.manual_seed(3)
    extractor = FeatureExtractor(FeatureConfig(sample_rate=RATE, num_bins=12, **features))
    size = extractor.num_features
    statistics = FeatureStatistics.from_dict(
        {
            "mean": torch.linspace(-9, -5, size, dtype=torch.float64),
            "std": torch.linspace(1, 3, size, dtype=torch.float64),
            "frames": torch.tensor(100),
        }
    )
    extractor.set_statistics(statistics)
    config = DeepSpeech2Config(
        convolution="1d",
        channels=[8, 8],
        time_width=[5, 7],
        time_stride=[2, 2],
        layers=2,
        hidden=8,
        bidirectional=False,
        lookahead=3,
        hide_end=hide_end,
    )
    model = build_model(config, extractor.num_features, len(ALPHABET)).eval()
    return CheckpointEmitter(model, extractor, ALPHABET)


def in_random_company(source, recordings, generator):
    """Emissions of recordings that come in random chunks, begin and end at different times."""
    streams = [source.open() for _ in recordings]
    left = [samples for samples in recordings]
    parts = [[] for _ in recordings]
    while not all(stream.finished for stream in streams):
        for i, stream in enumerate(streams):
            if stream.ended or generator.random() < 0.3:
                continue
            size = int(generator.choice([1, 7, 160, 500, 3000]))
            stream.push(left[i][:size])
            left[i] = left[i][size:]
            if not len(left[i]):
                stream.end()
        for part, item in zip(parts, source.compute(streams), strict=True):
            part.append(item)
    for stream in streams:
        stream.close()
    return [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("options", [{}, {"deltas": 2}, HIDDEN_END, {"tail_ms": 315}])
def test_a_state_gives_what_the_whole_recording_gives(options):
    emitter = random_emitter(**options)
    assert has_state(emitter)
    generator = np.random.default_rng(4)
    lengths = [0, 100, 160, 161, 240, 800, 3123, 9000, 20000]
    recordings = [0.1 * generator.standard_normal(n).astype(np.float32) for n in lengths]
    source = TorchSource(emitter)
    for _ in range(2):  # the second time in rows that others have used
        found = in_random_company(source, recordings, generator)
        for samples, item in zip(recordings, found, strict=True):
            (expected,) = emitter.compute([samples])
            assert item.shape == expected.shape
            np.testing.assert_allclose(item, expected, atol=1e-4)


def test_a_frame_comes_out_as_soon_as_the_lookahead_allows():
    emitter = random_emitter()
    source = TorchSource(emitter)
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    stream, out = source.open(), 0
    for i in range(0, 8000, 80):
        stream.push(samples[i : i + 80])
        out += len(source.compute([stream])[0])
        heard = (i + 80) / RATE
        assert out >= math.floor((heard - source.lookahead_seconds) / source.frame_seconds)
        # The last sample that frame `out` needs has come.
        needed = (out - 1) * source.frame_seconds + emitter.model.lookahead * 0.01 + 0.02
        assert out == 0 or heard >= needed - 1e-9


def test_models_that_need_the_whole_go_by_windows():
    recognizer = tone_recognizer()
    assert not has_state(recognizer.emitter)
    generator = np.random.default_rng(5)
    emitter = recognizer.emitter
    recordings = [
        np.concatenate([say(" ".join(words(n, generator)), generator), hush(0.5, generator)])
        for n in (1, 5, 12)
    ]
    for windows in (Windows(), Windows(0.5, 0.1, 0.2), Windows(1.0, 0.3, 0.0)):
        source = WindowSource(emitter, windows)
        found = in_random_company(source, recordings, generator)
        for samples, item in zip(recordings, found, strict=True):
            (expected,) = emitter.compute([samples])  # each frame for itself: exactly the same
            np.testing.assert_array_equal(item, expected)


def test_windows_that_cannot_be():
    emitter = tone_recognizer().emitter
    with pytest.raises(ValueError, match="chunk must be above 0"):
        Windows(chunk=0)
    with pytest.raises(DecoderError, match="at least half"):
        WindowSource(emitter, Windows(0.1, 0.2, 1.0))
    emitter.longest_input = 2.0
    with pytest.raises(DecoderError, match="longer than the 2 s"):
        WindowSource(emitter, Windows())


# -- endpoints ----------------------------------------------------------------------------------

SPACED = Alphabet(["<blank>", " ", "a", "b"])


def frames(path, probability=0.97):
    """Log-probabilities of a path given by its characters, _ for the blank."""
    ids = ["_ ab".index(character) for character in path]
    scores = np.full((len(ids), 4), math.log((1 - probability) / 3), np.float32)
    scores[np.arange(len(ids)), ids] = math.log(probability)
    return scores


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize(
    "path, cuts",
    [
        ("_" * 24, [(24, "silence")]),  # rule 1: nothing was said
        ("__ab" + "_" * 12, [(16, "silence")]),  # rule 2
        ("a" + "_" * 11 + "b" + "_" * 12, [(25, "silence")]),
        ("a" + "_" * 6 + " " + "_" * 5, [(13, "silence")]),  # a separator is silence
        # rule 3: before the word that begins after 20 frames
        ("ab" * 9 + "_ b_ ab", [(22, "length")]),
        ("ab" * 11 + " ab", [(22, "length")]),
        ("ab" * 15 + "_" + "ab" * 3, [(30, "length")]),  # too long: at the next silent frame
    ],
)
def test_endpoint_rules(path, cuts, chunk):
    rules = Endpointing(2.4, 1.2, 2.0)
    detector = EndpointDetector(rules, SPACED, 0.1)
    log_probs, found, begin = frames(path), [], 0
    while begin < len(log_probs):
        part = log_probs[begin : begin + chunk]
        end = detector.accept(part)
        if end is None:
            begin += len(part)
        else:
            begin += end[0]
            found.append((begin, end[1]))
            detector.reset()
    assert found == cuts


@pytest.mark.parametrize(
    "quiet, end",
    [
        ([0.0] * 30, 22),  # the audio is never quiet: 12 silent frames
        ([0.1 * max(0, t - 9) for t in range(30)], 22),  # quiet from frame 10 on, so no sooner
        # Quiet since frame 6 began, 4 frames before the last label: with 6 silent frames of 12.
        ([0.1 * max(0, t - 5) for t in range(30)], 18),
        ([0.1 * max(0, t - 2) for t in range(30)], 16),
        ([9.0] * 30, 16),  # never with less than half in silent frames
    ],
)
def test_quiet_audio_ends_an_utterance_before_the_frames_do(quiet, end):
    detector = EndpointDetector(Endpointing(2.4, 1.2), SPACED, 0.1)
    assert detector.accept(frames("_" * 5 + "ababa" + "_" * 20), quiet) == (end, "silence")
    detector.reset()  # where nothing was said the frames alone tell
    assert detector.accept(frames("_" * 30), [9.0] * 30) == (24, "silence")


def test_how_long_audio_has_been_quiet_is_told_by_blocks():
    generator = np.random.default_rng(5)
    levels = generator.choice([1.0, 0.5, 0.03, 0.01, 0.0], 1500, p=[0.01, 0.02, 0.17, 0.5, 0.3])
    levels[600:1300] = generator.choice([0.03, 0.01], 700)  # longer than what is remembered
    samples = np.repeat(levels, 80) * generator.choice([-1, 1], 80 * 1500)
    quiet = [
        level**2 <= 1e-3 * (levels[max(0, i - 499) : i + 1] ** 2).max()
        for i, level in enumerate(levels)
    ]
    expected = []  # before each block
    for i in range(1501):
        loud = [k for k in range(i) if not quiet[k]]
        expected.append(0.01 * (i - 1 - loud[-1] if loud else i))
    audio, asked, place = QuietAudio(8000), 0, 0
    while asked < 80 * 1500:
        size = int(generator.choice([1, 7, 80, 333, 4000]))
        audio.push(samples[place : place + size].astype(np.float32))
        place = min(place + size, len(samples))
        while asked <= place:
            assert audio.at(asked) == pytest.approx(expected[asked // 80])
            asked += int(generator.integers(1, 500))
    assert audio.at(10**9) == pytest.approx(expected[-1])  # there are no more


def test_endpointing_refuses():
    with pytest.raises(ValueError, match="silence_alone must be above 0"):
        Endpointing(silence_alone=0)
    with pytest.raises(ValueError, match="probability"):
        Endpointing(blank_threshold=1.0)
    detector = EndpointDetector(Endpointing.off(), SPACED, 0.1)
    assert detector.accept(frames("_" * 500 + "ab" * 300)) is None


def test_stable_prefix():
    stable = StablePrefix()
    assert stable.update("") == "" and stable.update("one two") == "one two"
    assert stable.update("one two three") == " three"
    with pytest.raises(DecoderError, match="became"):
        stable.update("one too three")


# -- the recogniser -----------------------------------------------------------------------------


def speech(minutes, generator):
    """Samples and text: words with pauses of random length between groups of them."""
    parts, texts, seconds = [], [], 0.0
    while seconds < 60 * minutes:
        group = words(int(generator.integers(1, 9)), generator)
        texts += group
        parts.append(say(" ".join(group), generator))
        pause = float(generator.choice([0.1, 0.4, 0.9, 1.5, 3.0]))
        parts.append(say(" ", generator))
        parts.append(hush(pause, generator))
        seconds = sum(map(len, parts)) / RATE
    return np.concatenate(parts), texts


def listen(stream, samples, generator, sizes=(80, 160, 333, 4000)):
    results = []
    while len(samples):
        size = int(generator.choice(sizes))
        results += stream.accept(samples[:size])
        samples = samples[size:]
    return results + stream.finish()


def joined(results):
    return " ".join(result.text for result in results if result.final)


@pytest.mark.parametrize(
    ("by", "minutes"),
    [("state", 4), ("windows", 4), pytest.param("state", 60, marks=pytest.mark.slow)],
)
def test_no_word_is_lost_or_doubled_at_endpoints(by, minutes):
    generator = np.random.default_rng(6)
    emitter = tone_emitter() if by == "state" else tone_recognizer().emitter
    samples, texts = speech(minutes, generator)
    recognizer = StreamingRecognizer(emitter, endpointing=Endpointing(2.0, 0.6, 8.0), windows=None)
    results = listen(recognizer.stream(), samples, generator)
    finals = [result for result in results if result.final]
    assert {result.reason for result in finals} >= {"silence"} and len(finals) > 20
    (log_probs,) = emitter.compute([samples])
    offline = recognizer.default_decoder.decode([log_probs])[0][0]
    assert joined(results).split() == offline.text.split() == texts
    assert [result.utterance for result in finals] == list(range(len(finals)))
    # Words stand in their order, at the times that the whole recording gives them.
    heard = [word for result in finals for word in result.words]
    gaps = []
    for word, expected in zip(heard, offline.words, strict=True):
        assert word.text == expected.text
        gaps += [abs(word.start - expected.start), abs(word.end - expected.end)]
    # Where the beam holds two alignments of a word, a cut may decide for the other one.
    assert max(gaps) < 0.4 and np.mean(np.array(gaps) < 0.05) > 0.99


@pytest.mark.parametrize(("noise", "after"), [(1e-3, 0.0), (0.03, 0.2)])
def test_the_lookahead_is_part_of_the_silence_that_ends_an_utterance(noise, after):
    generator = np.random.default_rng(3)
    emitter = tone_emitter(lookahead=9)  # 200 ms
    recognizer = StreamingRecognizer(emitter, endpointing=Endpointing(3.0, 0.6))
    spoken = say("ab c", generator)[: -int(0.04 * RATE)]
    spoken += noise * generator.standard_normal(len(spoken)).astype(np.float32)
    samples = np.concatenate([spoken, hush(2.0, generator, noise)])
    stream, come = recognizer.stream(), None
    for i in range(0, len(samples), 80):
        for result in stream.accept(samples[i : i + 80]):
            if result.final and come is None:
                assert (result.text, result.reason) == ("ab c", "silence")
                come = (i + 80 - len(spoken)) / RATE
    # Frames of 20 ms, one of which may have been begun. A loud background leaves the frames alone.
    assert 0.6 + after <= come <= 0.6 + after + 0.07


def test_what_is_stable_stays():
    generator = np.random.default_rng(7)
    samples, _ = speech(1, generator)
    results = listen(StreamingRecognizer(tone_emitter()).stream(), samples, generator)
    stable, number, partials = "", 0, 0
    for result in results:
        if result.utterance != number:
            stable, number = "", result.utterance
        assert result.stable.startswith(stable) and result.text.startswith(result.stable)
        assert result.stable == stable + result.added
        stable = result.stable
        partials += not result.final
        if result.final:
            assert result.stable == result.text == result.alternatives[0].text
            assert result.text == " ".join(word.text for word in result.words)
            assert all(0 <= word.confidence <= 1 for word in result.words)
    assert partials > 20


def test_many_streams_in_one_batch_are_those_of_each_alone():
    generator = np.random.default_rng(8)
    emitter = tone_emitter()
    recognizer = StreamingRecognizer(emitter, endpointing=Endpointing(2.0, 0.5))
    recordings = [speech(0.2, generator)[0] for _ in range(9)]
    alone = [joined(listen(recognizer.stream(), item, generator)) for item in recordings]
    streams = [recognizer.stream() for _ in recordings]
    left, found = list(recordings), [[] for _ in recordings]
    while not all(stream.closed for stream in streams):
        for i, stream in enumerate(streams):
            size = int(generator.choice([0, 160, 320, 2000]))
            if len(left[i]):
                stream.push(left[i][:size])
                left[i] = left[i][size:]
                if not len(left[i]):
                    stream.end()
        for results, more in zip(found, recognizer.advance(streams), strict=True):
            results += more
    assert [joined(results) for results in found] == alone
    assert len(recognizer.source.free) == len(recognizer.source.table[0])  # all given back


def test_other_rates_and_int16():
    generator = np.random.default_rng(9)
    text = "ab cde e"
    samples = np.concatenate([say(text, generator), hush(0.3, generator)])
    recognizer = StreamingRecognizer(tone_emitter())
    doubled = np.repeat(samples, 2)
    stream = recognizer.stream(2 * RATE)
    assert joined(listen(stream, doubled, generator)) == text
    assert stream.samples == len(doubled)
    whole = (samples * 32767).astype(np.int16)
    assert joined(listen(recognizer.stream(), whole, generator)) == text


def test_bad_samples():
    stream = StreamingRecognizer(tone_emitter()).stream()
    with pytest.raises(AudioError, match="NaN or infinite"):
        stream.accept(np.array([0.0, np.nan], np.float32))
    with pytest.raises(ValueError, match=r"float or int16 \(S,\)"):
        stream.accept(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="sample_rate must be"):
        StreamingRecognizer(tone_emitter()).stream(100)
    assert stream.finish() == [] and stream.closed
    with pytest.raises(ValueError, match="must not follow end"):
        stream.push(np.zeros(5, np.float32))


def test_nothing_said_brings_nothing():
    generator = np.random.default_rng(1)
    recognizer = StreamingRecognizer(tone_emitter())
    assert listen(recognizer.stream(), hush(6.0, generator), generator) == []
    assert recognizer.stream().finish() == []


def test_commit_and_hot_words():
    generator = np.random.default_rng(10)
    decoder = BeamDecoder(ALPHABET, lexicon=["ab", "ba", "abab"], frame_shift_ms=20.0)
    recognizer = StreamingRecognizer(tone_emitter(), decoder, endpointing=Endpointing.off())
    stream = recognizer.stream(n_best=3)
    results = stream.accept(np.concatenate([say("ab ba", generator), hush(0.5, generator)]))
    assert not any(result.final for result in results)
    (final,) = stream.commit()
    assert final.text == "ab ba" and final.reason == "commit"
    assert 1 <= len(final.alternatives) <= 3
    (last,) = [r for r in listen(stream, say("abab", generator), generator) if r.final]
    assert last.text == "abab" and last.reason == "end" and last.utterance == 1
    assert last.words[0].start > final.end - 0.1
    # "de" is in no lexicon; as a hot word it may be written.
    said = np.concatenate([say("ab de", generator), hush(0.5, generator)])
    without = joined(listen(recognizer.stream(), said, generator))
    assert "de" not in without
    assert joined(listen(recognizer.stream(hot_words={"de": 9.0}), said, generator)) == "ab de"
    assert recognizer.decoder({"de": 9.0}) is recognizer.decoder({"de": 9.0})
