"""Decoding with a language model in the verbs transcribe and evaluate, and decoder.json."""

import json

import numpy as np
import pytest
import soundfile
from tone_language import say, tone_recognizer, write
from typer.testing import CliRunner

from ctcspeech.cli import app
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import DecoderError
from ctcspeech.lm.model import LanguageModel

# A unigram model: "bad" and "dad" are words, "bab" is none. log10 probabilities.
ARPA = """\\data\\
ngram 1=5

\\1-grams:
-2.0\t<unk>
0\t<s>
-0.5\t</s>
-0.4\tbad
-0.8\tdad

\\end\\
"""


@pytest.fixture
def lm(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture
def recording(tmp_path):
    return write(tmp_path / "in" / "a.wav", say("bad bab", np.random.default_rng(6)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command; the folder "model" of tmp_path stands for the model of tones."""

    def load(model, device, threads):
        return tone_recognizer(threads=threads, settings=DecoderSettings.find(model))

    monkeypatch.setattr("ctcspeech.cli.transcribe.load_recognizer", load)
    monkeypatch.setattr("ctcspeech.cli.evaluate.load_recognizer", load)
    (tmp_path / "model").mkdir()

    def run(verb, *arguments):
        return CliRunner().invoke(app, [verb, str(tmp_path / "model"), *map(str, arguments)])

    return run


def test_a_language_model_decides_which_words_are_written(run, lm, recording):
    assert run("transcribe", recording).stdout == "bad bab\n"
    assert run("transcribe", recording, "--decoder", "beam").stdout == "bad bab\n"
    closed = run("transcribe", recording, "--lm", lm)
    assert closed.exit_code == 0, closed.stderr
    assert closed.stdout == "bad\n"  # the model is too sure of the last letter for another word
    assert run("transcribe", recording, "--lm", lm, "--unk-score", -1).stdout == "bad bab\n"
    hot = run("transcribe", recording, "--lm", lm, "--hot-word", "bab:8")
    assert hot.stdout == "bad bab\n"


def test_n_best_in_json(run, lm, recording):
    result = run(
        *("transcribe", recording, "--lm", lm, "--lm-weight", 0.7, "--word-score", 2),
        *("--n-best", 3, "--beam-threshold", 100, "--format", "jsonl"),
    )
    (passage,) = json.loads(result.stdout)["passages"]
    hypotheses = passage["hypotheses"]
    assert 1 < len(hypotheses) <= 3
    assert [h["score"] for h in hypotheses] == sorted(
        (h["score"] for h in hypotheses), reverse=True
    )
    model = LanguageModel.load(lm)
    for item in hypotheses:
        words = item["text"].split()
        assert item["lm_score"] == pytest.approx(model.score(words) * np.log(10), abs=1e-3)
        q = item["ctc_score"] + 0.7 * item["lm_score"] + 2 * len(words)
        assert item["score"] == pytest.approx(q, abs=1e-3)
    assert "passages" not in json.loads(run("transcribe", recording, "--format", "jsonl").stdout)


def test_the_model_folder_says_how_to_decode(run, lm, recording, tmp_path):
    model = tmp_path / "model"
    lm.rename(model / "lm.arpa")
    DecoderSettings(model / "lm.arpa", lm_weight=0.3, word_score=1.0).save(model)
    stored = json.loads((model / "decoder.json").read_text())
    assert (stored["version"], stored["lm"], stored["lm_weight"]) == (1, "lm.arpa", 0.3)

    assert run("transcribe", recording).stdout == "bad\n"
    assert run("transcribe", recording, "--decoder", "greedy").stdout == "bad bab\n"
    assert run("transcribe", recording, "--unk-score", -1).stdout == "bad bab\n"
    write_manifest(
        tmp_path / "m.jsonl", [Utterance(recording, soundfile.info(recording).duration, "bad bab")]
    )
    for options, errors, kind in (((), 1, "beam"), (("--decoder", "greedy"), 0, "greedy")):
        result = run("evaluate", tmp_path / "m.jsonl", *options, "--summary", tmp_path / "s.json")
        assert result.exit_code == 0, result.stderr
        summary = json.loads((tmp_path / "s.json").read_text())
        assert summary["wer"]["errors"] == errors and summary["decoder"] == kind

    (model / "lm.arpa").unlink()
    broken = run("transcribe", recording)
    assert isinstance(broken.exception, DecoderError)
    assert "lm.arpa is missing" in str(broken.exception) and "--lm" in str(broken.exception)
    assert run("transcribe", recording, "--decoder", "greedy").stdout == "bad bab\n"


def test_the_default_decoder_of_a_recogniser(lm):
    assert isinstance(tone_recognizer().default_decoder(), GreedyDecoder)
    decoder = tone_recognizer(settings=DecoderSettings(lm, lm_weight=0.25)).default_decoder()
    assert isinstance(decoder, BeamDecoder) and decoder.lm_weight == 0.25


def test_options_without_effect_are_refused(run, lm, recording, tmp_path):
    for options, words in [
        (("--decoder", "greedy", "--lm", lm), "--lm has no effect with --decoder greedy"),
        (("--decoder", "greedy", "--hot-word", "a"), "--hot-word has no effect"),
        (("--lm-weight", "1"), "--lm-weight has no effect without a language model"),
        (("--unk-score", "-3"), "--unk-score has no effect without a language model"),
        (("--hot-word", "xyz"), "would have no effect, the model cannot write it"),
        (("--hot-word", "ab:much"), "must be a number, got 'much'"),
        (("--hot-word", "ab:0"), "a weight of 0 has no effect"),
        (("--hot-word", ":3"), "there is no word"),
        (("--n-best", "2"), "--n-best 2 needs --format jsonl"),
        (("--lm", tmp_path / "none.bin"), "does not exist"),
        (("--lm", lm, "--beam-threshold", "0"), "beam_threshold must be above 0"),
    ]:
        result = run("transcribe", recording, *options)
        told = " ".join(result.stderr.replace("│", " ").split())
        assert result.exit_code == 2 and words in told, (options, told)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is damaged"),
        ("[]", 'it lacks "format"'),
        ('{"format": "ctcspeech decoder", "version": 2}', "format version 2"),
        ('{"format": "ctcspeech decoder", "version": 1, "beam": 3}', "unknown fields: beam"),
        ('{"format": "ctcspeech decoder", "version": 1, "lm_weight": "1"}', "lm_weight must be"),
        ('{"format": "ctcspeech decoder", "version": 1, "lm": 5}', "lm must be a file's name"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, text, words):
    (tmp_path / "decoder.json").write_text(text)
    with pytest.raises(DecoderError, match=words):
        DecoderSettings.find(tmp_path)


def test_settings_come_back_as_they_were(tmp_path):
    assert DecoderSettings.find(tmp_path) is None
    elsewhere = tmp_path / "lms" / "big.bin"
    settings = DecoderSettings(
        elsewhere, "token", 0.8, None, -4.5, True, 50, 12.0, -7.0, tuning={"wer": 0.1}
    )
    settings.save(tmp_path / "m")
    assert DecoderSettings.find(tmp_path / "m") == settings
    inside = DecoderSettings(tmp_path / "m" / "lm.bin")
    inside.save(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "moved")
    found = DecoderSettings.find(tmp_path / "moved")
    assert found is not None and found.lm == tmp_path / "moved" / "lm.bin"
