"""The recipe `synthetic`: who speaks what, in which part, and what another run finds."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ctcspeech import read_manifest
from ctcspeech.text.alphabet import Alphabet

RECIPE = Path(__file__).parents[1] / "recipes" / "synthetic"
MODULES = ("acoustics", "espeak", "flite", "prepare", "russian_numbers", "voices")


@pytest.fixture
def recipe(monkeypatch):
    for folder in (RECIPE.parent, RECIPE):
        monkeypatch.syspath_prepend(str(folder))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def espeak_data(folder: Path) -> Path:
    """A folder as espeak-ng's, with three accents of two languages and some variants."""
    for path, text in {
        "lang/gmw/en": "name English (Great Britain)\nlanguage en-gb 2\nlanguage en 2\n",
        "lang/gmw/en-US": "name English (America)\nlanguage en-us 2\nlanguage en 3\n",
        "lang/gmw/en-Shaw": "language en-shaw\nlanguage en 4\n",
        "lang/gmw/enm": "language enm\n",  # a code that begins alike is another language
        "voices/!v/f1": "",
        "voices/!v/m1": "",
        "voices/!v/robosoft3": "",
        "voices/!v/Mr serious": "",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_voices_are_those_of_the_language(recipe, tmp_path, monkeypatch):
    voices = recipe("voices")
    monkeypatch.setattr(voices, "flite_library", lambda name: "x" if name == "slt" else None)
    festival = tmp_path / "festival"
    (festival / "russian" / "nsh").mkdir(parents=True)
    monkeypatch.setattr(voices, "FESTIVAL_VOICES", festival)
    data = espeak_data(tmp_path / "espeak")
    found = [str(voice) for voice in voices.voices_of("en", data)]
    assert found == ["espeak:en+f1", "espeak:en+m1", "espeak:en-us+f1", "espeak:en-us+m1"] + [
        "flite:slt"
    ]
    american = [str(voice) for voice in voices.voices_of("en-us", data)]
    assert american == ["espeak:en-us+f1", "espeak:en-us+m1", "flite:slt"]
    assert [str(voice) for voice in voices.voices_of("ru", data)] == ["festival:nsh"]


def test_every_accent_of_a_language_is_a_voice_of_the_library(recipe):
    voices, espeak = recipe("voices"), recipe("espeak").Espeak()
    for language, least in (("en", 8), ("ru", 3), ("de", 1)):
        found = [voice for voice in voices.voices_of(language) if voice.engine == "espeak"]
        accents = {voice.name.partition("+")[0] for voice in found}
        assert len(accents) >= least and len(found) / len(accents) > 60
        for accent in accents:
            assert len(espeak.say("a", voice=accent)) > 500


@pytest.fixture
def prepare(recipe, capsys):
    def run(folder, text, *arguments):
        """What the script says, on standard output or as the reason for its end."""
        values = [folder, "--text", text, "--jobs", "1", "--language", "ru", "--hours", "0.004"]
        try:
            recipe("prepare").main([str(value) for value in (*values, *arguments)])
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return run


def russian(folder: Path) -> Path:
    words = "один дом и день её где мы вода хлеб съел юг шум цвет эхо жук чай пять объём".split()
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(words, 3)).capitalize() + "." for _ in range(900)}
    path = folder / "text.txt"
    path.write_text("\n".join([*sorted(lines), "in english 1984", "слово"]) + "\n")
    return path


def test_a_language_with_other_letters(prepare, tmp_path):
    """Letters, held-out voices, excluded texts, and a second run that uses what is there."""
    text = russian(tmp_path)
    excluded = text.read_text().splitlines()[0].lower().rstrip(".")
    audio = tmp_path / "a.wav"
    soundfile.write(audio, np.zeros(100), 16000)
    line = {"audio_filepath": str(audio), "duration": 0.1, "text": excluded}
    (tmp_path / "excluded.jsonl").write_text(json.dumps(line) + "\n")
    options = ("--exclude", tmp_path / "excluded.jsonl")
    work = tmp_path / "work"
    assert " h to train on by " in prepare(work, text, *options)
    letters = set(Alphabet.load(work / "alphabet.json").labels)
    assert "ё" in letters and "ъ" in letters and not letters & set("eng1")
    parts = {part: read_manifest(work / f"{part}.jsonl") for part in ("train", "dev", "test")}
    variants = {part: {u.speaker.partition("+")[2] for u in us} for part, us in parts.items()}
    texts = {part: {u.text for u in us} for part, us in parts.items()}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not variants[one] & variants[other] and not texts[one] & texts[other]
    assert len(parts["train"]) > 5 and len(parts["test"]) == len(parts["dev"]) == 150
    assert all(excluded not in said and "слово" not in said for said in texts.values())
    for utterance in parts["train"]:
        samples, rate = soundfile.read(utterance.path)
        assert rate == 16000 and len(samples) / rate == pytest.approx(utterance.duration)
        assert 0.02 < np.abs(samples).max() <= 1
        assert 0.04 < utterance.duration / len(utterance.text) < 0.4  # spoken, and not spelled

    kept = {u.path: u.path.stat().st_mtime_ns for u in parts["train"]}
    assert " h to train on by " in prepare(work, text, *options, "--hours", "0.005")
    again = read_manifest(work / "train.jsonl")
    assert len(again) > len(parts["train"])
    assert [u.text for u in again[: len(kept)]] == [u.text for u in parts["train"]]
    assert {u.path: u.path.stat().st_mtime_ns for u in again[: len(kept)]} == kept
    assert "made with other settings (seed)" in prepare(work, text, *options, "--seed", "1")


def test_what_cannot_be_spoken_is_said(prepare, tmp_path):
    text = russian(tmp_path)
    few = tmp_path / "few.txt"
    few.write_text("это один дом\n")
    assert "1 lines to speak are too few" in prepare(tmp_path / "a", few)
    nobody = prepare(tmp_path / "b", text, "--language", "xx")
    assert "no voice speaks 'xx'" in nobody
    voice = prepare(tmp_path / "c", text, "--test-voice", "festival:none")
    assert "festival:none is not installed" in voice


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "ноль"),
        (7, "семь"),
        (10, "десять"),
        (19, "девятнадцать"),
        (20, "двадцать"),
        (41, "сорок один"),
        (100, "сто"),
        (115, "сто пятнадцать"),
        (999, "девятьсот девяносто девять"),
    ],
)
def test_russian_numbers(recipe, number, words):
    assert recipe("russian_numbers").spoken(number) == words


def test_russian_numbers_differ(recipe):
    spoken = recipe("russian_numbers").spoken
    assert len({spoken(number) for number in range(1000)}) == 1000
