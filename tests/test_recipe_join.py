"""recipes/join.py: recordings one after another, with pauses of faint noise between them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from ctcspeech import read_manifest
from ctcspeech.data.manifest import Utterance, write_manifest

SCRIPT = Path(__file__).parents[1] / "recipes" / "join.py"
RATE = 8000


def constant(level: float, seconds: float) -> np.ndarray:
    return np.full(round(seconds * RATE), level, np.float32)


def write(folder: Path) -> Path:
    """Recordings that their level tells: 0.1 is "a", 0.2 is "b", ..."""
    utterances = []
    for i, word in enumerate("abcde"):
        path = folder / f"{word}.wav"
        soundfile.write(path, constant(0.1 + 0.1 * i, 0.2 + 0.1 * i), RATE, subtype="FLOAT")
        utterances.append(Utterance(path, 0.2 + 0.1 * i, word))
    write_manifest(folder / "all.jsonl", utterances)
    return folder / "all.jsonl"


def heard(samples: np.ndarray) -> list[tuple[str, int]]:
    """Words by the level of the samples, and how many of them; noise between them as ""."""
    levels = np.rint(samples * 10).astype(int)
    edges = np.flatnonzero(np.diff(levels)) + 1
    parts = np.split(levels, edges)
    return [("" if not part[0] else "abcde"[part[0] - 1], len(part)) for part in parts]


def test_texts_are_what_is_heard_and_pauses_are_faint(tmp_path):
    command = [sys.executable, str(SCRIPT), str(write(tmp_path)), str(tmp_path / "joined")]
    command += ["--count", "30", "--most", "4", "--longest", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    joined = read_manifest(tmp_path / "joined.jsonl")
    assert len(joined) == 30 and "joined.jsonl" in done.stdout
    pauses, counts, words = [], [], []
    for utterance in joined:
        samples, rate = soundfile.read(utterance.path, dtype="float32")
        assert rate == RATE and len(samples) / RATE == utterance.duration
        parts = heard(samples)
        spoken = [(word, length) for word, length in parts if word]
        assert " ".join(word for word, _ in spoken) == utterance.text
        for word, length in spoken:  # whole
            assert length == round((0.2 + 0.1 * "abcde".index(word)) * RATE)
        counts.append(len(spoken))
        words += [word for word, _ in spoken]
        pauses += [length / RATE for word, length in parts if not word]
    assert set(counts) == {1, 2, 3, 4}
    assert 0.3 < max(pauses) <= 0.5
    # All are taken before one comes again.
    for first in range(0, len(words) // 5 * 5, 5):
        assert sorted(words[first : first + 5]) == list("abcde")
