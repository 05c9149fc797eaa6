"""Finding the decoder's weights, on emissions of words that are hard to tell apart."""

import json
import sys

import numpy as np
import pytest
from tone_language import ALPHABET, hush, say, tone_recognizer, write
from typer.testing import CliRunner

from ctcspeech.cli import app
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import DecoderError, ManifestError
from ctcspeech.evaluate.evaluate import evaluate
from ctcspeech.evaluate.tune import DevSet, Rates, Trial, Tuning, tune
from ctcspeech.text.error_rates import character_error_rate, word_error_rate

pytest.importorskip("optuna")

WORDS = ["abe", "bad", "bead", "cab", "dad", "deed"]


def write_arpa(path):
    """All words alike."""
    lines = ["\\data\\", f"ngram 1={len(WORDS) + 3}", "", "\\1-grams:", "-3\t<unk>", "0\t<s>"]
    lines += ["-0.7\t</s>"] + [f"-0.9\t{word}" for word in WORDS]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def noisy_set(count=24, seed=3):
    """Emissions of random sentences, each label for a frame, a blank after it, and much noise."""
    generator = np.random.default_rng(seed)
    data = DevSet()
    for i in range(count):
        text = " ".join(generator.choice(WORDS, size=3))
        labels = [label for token in ALPHABET.encode(text) for label in (token, 0)]
        logits = generator.normal(0, 1, (len(labels), len(ALPHABET)))
        logits[np.arange(len(labels)), labels] += 2.2
        data.emissions.append(logits.astype(np.float32))
        data.utterances.append([i])
        data.references.append(text)
    return data


@pytest.fixture
def settings(tmp_path):
    return DecoderSettings(write_arpa(tmp_path / "lm.arpa"))


def test_tuned_weights_make_fewer_errors(settings):
    data, recognizer = noisy_set(), tone_recognizer(threads=1)
    tuning = tune(data, recognizer, settings, trials=25)
    greedy, default, best = tuning.greedy, tuning.trials[0], tuning.best_trial
    assert best.complete and best.rates.words.rate < 0.5 * greedy.words.rate
    assert best.rates.objective <= default.rates.objective
    assert (default.settings.lm_weight, default.settings.word_score) == (0.5, 1.5)
    assert any(not trial.complete for trial in tuning.trials)
    assert any(trial.settings.open_vocabulary for trial in tuning.trials)
    # The rates are those of decoding with these settings.
    decoder = tuning.best.decoder(ALPHABET, 20.0)
    texts = [found[0].text for found in decoder.decode(data.emissions)]
    assert best.rates.words.rate == word_error_rate(data.references, texts)
    assert best.rates.characters.rate == character_error_rate(data.references, texts)
    again = tune(data, recognizer, settings, trials=25)
    assert [trial.settings for trial in again.trials] == [t.settings for t in tuning.trials]


def test_vocabulary_and_faults(settings):
    data, recognizer = noisy_set(4), tone_recognizer(threads=1)
    for kind, opened in (("open", True), ("closed", False)):
        tuning = tune(data, recognizer, settings, trials=3, vocabulary=kind)
        assert {trial.settings.open_vocabulary for trial in tuning.trials} == {opened}
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        tune(data, recognizer, settings, trials=0)
    with pytest.raises(ValueError, match="vocabulary must be"):
        tune(data, recognizer, settings, vocabulary="wide")
    with pytest.raises(DecoderError, match="needs a language model"):
        tune(data, recognizer, DecoderSettings())


def test_interruption_keeps_the_best_so_far(settings):
    data, recognizer = noisy_set(6), tone_recognizer(threads=1)

    def stop_at(count):
        def done(trial, tuning):
            if len(tuning.trials) == count:
                raise KeyboardInterrupt

        return done

    tuning = tune(data, recognizer, settings, trials=50, done=stop_at(3))
    assert tuning.interrupted and len(tuning.trials) == 3
    assert tuning.best in [trial.settings for trial in tuning.trials]


def rates(words, characters):
    from ctcspeech.text.error_rates import ErrorCounts

    return Rates(ErrorCounts(words, 0, 0, 10), ErrorCounts(characters, 0, 0, 50))


def test_character_errors_break_ties_and_no_more():
    assert rates(2, 9).objective < rates(2, 10).objective
    assert rates(2, 10**9).objective < rates(3, 0).objective
    trials = [Trial(DecoderSettings(lm_weight=k), rates(2, 9 - k % 3), True) for k in range(6)]
    trials.append(Trial(DecoderSettings(lm_weight=9), rates(0, 0), False))
    tuning = Tuning(rates(2, 8), trials)
    assert tuning.best.lm_weight == 2 and tuning.helps
    assert not Tuning(rates(2, 6), trials).helps


def test_collected_emissions_are_those_of_evaluate(tmp_path):
    generator = np.random.default_rng(4)
    parts = [part for _ in range(30) for part in (say("ab cd", generator), hush(0.8, generator))]
    utterances = [
        Utterance(write(tmp_path / "a.wav", say("bad cab", generator)), 0.7, "bad cap"),
        Utterance(write(tmp_path / "b.wav", np.concatenate(parts)), 39.6, "ab cd " * 29 + "ab"),
        Utterance(tmp_path / "none.wav", 1.0, "a"),
    ]
    recognizer = tone_recognizer(threads=1)
    seen = []
    data = DevSet.collect(recognizer, utterances, seen.append)
    assert [item.error is None for item in seen] == [True, True, False]
    truth = evaluate(recognizer, utterances)
    found = data.rates(recognizer.greedy_decoder())
    assert (found.words, found.characters) == (truth.words, truth.characters)
    assert found.words.errors >= 2 and len(data.utterances[1]) > 1
    with pytest.raises(ManifestError, match="no utterance with words"):
        DevSet.collect(recognizer, utterances[2:])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs `tune` on a model of tones that takes some tones for others."""
    generator = np.random.default_rng(5)
    spoken = [("bad cab", "bad cab"), ("ded ab", "deed abe")]
    utterances = [
        Utterance(write(tmp_path / f"{i}.wav", say(said, generator)), 0.8, meant)
        for i, (said, meant) in enumerate(spoken)
    ]
    write_manifest(tmp_path / "dev.jsonl", utterances)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def load(path, device, threads):
        return tone_recognizer(threads=threads, settings=DecoderSettings.find(model))

    monkeypatch.setattr("ctcspeech.cli.tune.load_recognizer", load)

    def run(*arguments):
        command = ["tune", model, tmp_path / "dev.jsonl", *arguments, "--trials", 4]
        return CliRunner().invoke(app, [str(item) for item in command])

    return run


def test_the_verb_keeps_what_it_found(run, tmp_path):
    lm, model = write_arpa(tmp_path / "words.arpa"), tmp_path / "model"
    result = run("--lm", lm)
    assert result.exit_code == 0, result.stderr
    assert "greedy:    WER 50.00%" in result.stdout and "tuned:     WER" in result.stdout
    stored = json.loads((model / "decoder.json").read_text())
    assert stored["lm"] == "lm.bin" and (model / "lm.bin").read_bytes()[1:4] == b"CLM"
    assert stored["tuning"]["greedy"]["wer"] == 0.5 and stored["tuning"]["trials"] == 4
    assert (model / "tune.png").read_bytes()[:4] == b"\x89PNG"
    again = run()  # with the model's own language model
    assert again.exit_code == 0, again.stderr
    assert run("--lm", lm, "--reference-lm").exit_code == 0
    assert json.loads((model / "decoder.json").read_text())["lm"] == str(lm)


def test_wrong_usage_of_the_verb(run, tmp_path, monkeypatch):
    result = run()
    assert result.exit_code == 2 and "give one with --lm" in result.stderr
    lm = write_arpa(tmp_path / "words.arpa")
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = run("--lm", lm)
    assert isinstance(result.exception, DecoderError)
    assert "pip install 'ctcspeech[tune]'" in str(result.exception)
    assert not (tmp_path / "model" / "decoder.json").exists()
