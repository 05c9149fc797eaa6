"""Evaluations of recordings whose text is known (tone_language.py), references made wrong."""

import json

import numpy as np
import pytest
from tone_language import RATE, say, tone_recognizer, write

from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import ManifestError
from ctcspeech.evaluate.evaluate import evaluate
from ctcspeech.text.error_rates import ErrorCounts
from ctcspeech.text.normalize import Normalizer

# What is said, what the manifest says, speaker.
LINES = [
    ("ab cd", "ab cd", "one"),
    ("ab cd e", "ab d e", "one"),
    ("a b c", "a b", "two"),
    ("a", "a bbb", "two"),
    ("dd", "dd", "two"),
]


@pytest.fixture
def utterances(tmp_path):
    generator = np.random.default_rng(5)
    made = []
    for k, (said, text, speaker) in enumerate(LINES):
        samples = say(said, generator)
        path = write(tmp_path / f"{k}.wav", samples)
        made.append(Utterance(path, len(samples) / RATE, text, speaker))
    return made


def test_errors_are_those_put_in(utterances):
    evaluation = evaluate(tone_recognizer(), utterances)
    assert evaluation.words == ErrorCounts(1, 1, 1, 10)
    # cd for d: one letter more; "a b c" for "a b": " c" more; "a" for "a bbb": " bbb" missing.
    assert evaluation.characters == ErrorCounts(0, 4, 3, 5 + 6 + 3 + 5 + 2)
    assert [item.words.errors for item in evaluation.scored] == [0, 1, 1, 1, 0]
    assert [item.utterance.id for item in evaluation.worst(2)] == ["3", "2"]
    assert evaluation.worst(99)[-1].words.errors == 1
    low, high = evaluation.word_interval
    assert 0 < low < 0.3 < high < 1


def test_by_speaker_when_all_are_known(utterances):
    evaluation = evaluate(tone_recognizer(), utterances)
    assert list(evaluation.speakers) == ["one", "two"]
    assert evaluation.resampled == "speaker"
    report = evaluation.report(worst=1, width=60)
    assert "WER 30.00% (95% interval 20.00 to 40.00, by speaker)" in report
    assert "one               2  20.00%" in report
    assert "3: 1 errors in 2 (0 substituted, 1 deleted, 0 inserted)" in report
    assert "REF: a bbb\nHYP: a ***\n       D" in report
    utterances[0].speaker = None
    evaluation = evaluate(tone_recognizer(), utterances)
    assert evaluation.resampled == "utterance"
    assert list(evaluation.speakers) == ["one", "two"]


def test_summary_is_json(utterances):
    evaluation = evaluate(tone_recognizer(), utterances)
    summary = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert summary["wer"] == {
        "rate": 0.3,
        "errors": 3,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 1,
        "reference_length": 10,
        "interval": [0.2, 0.4],
    }
    assert summary["utterances"] == 5
    assert summary["speakers"]["two"]["wer"]["errors"] == 2
    line = json.loads(json.dumps(evaluation.scored[1].to_dict(), allow_nan=False))
    assert (line["reference"], line["hypothesis"]) == ("ab d e", "ab cd e")
    assert line["speaker"] == "one"
    assert line["words"]["substitutions"] == 1


def test_empty_references_count_their_insertions(utterances):
    utterances[0].text = ""
    (only,) = evaluate(tone_recognizer(), utterances[:1]).scored
    assert only.words == ErrorCounts(0, 0, 2, 0)
    evaluation = evaluate(tone_recognizer(), utterances[:1])
    assert evaluation.word_interval is None
    assert evaluation.to_dict()["wer"]["rate"] is None
    assert "WER n/a" in evaluation.report()


def test_what_cannot_be_read_does_not_count(utterances, tmp_path):
    utterances.insert(1, Utterance(tmp_path / "missing.wav", 1.0, "a b c"))
    seen = []
    evaluation = evaluate(tone_recognizer(), utterances, done=seen.append)
    assert evaluation.words == ErrorCounts(1, 1, 1, 10)
    assert [failure.name for failure in evaluation.failures] == [str(tmp_path / "missing.wav")]
    assert len(seen) == 6 and seen[1] is evaluation.failures[0]
    assert "1 could not be read" in evaluation.report()
    assert "missing.wav" in evaluation.to_dict()["failed"][0]["error"]


def test_references_are_normalised_as_in_training(utterances):
    utterances[0].text = "AB, Cd!"
    recognizer = tone_recognizer(normalizer=Normalizer())
    (only,) = evaluate(recognizer, utterances[:1]).scored
    assert only.reference == "ab cd"
    assert only.words.errors == 0


def test_nothing_to_evaluate():
    with pytest.raises(ManifestError, match="empty"):
        evaluate(tone_recognizer(), [])
