"""How far word boundaries move when a recording of many utterances is aligned as a whole.

    python benchmarks/align_boundaries.py grid=RUN:grid_s1/test.jsonl reader=RUN:kathleen/test.jsonl

Each argument is a name, a model and a manifest. The manifest's utterances are joined in files of 20
with pauses of 0.3 to 1 s between them; a file is cut, computed and joined as `ctcspeech align` does
with long recordings, and its whole text aligned at once. The word boundaries found there are
compared with those in each utterance aligned alone.
"""

import argparse
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
import soundfile

from ctcspeech import audio
from ctcspeech.align.known_text import align_text
from ctcspeech.data.manifest import Utterance, read_manifest
from ctcspeech.emissions import Emissions
from ctcspeech.recognize.recognizer import Recognizer

TOGETHER = 20


def aligned_alone(recognizer: Recognizer, samples: list, texts: list[str]) -> list[np.ndarray]:
    """For each utterance (W, 2) seconds."""
    alphabet = recognizer.alphabet
    results = []
    for scores, text in zip(recognizer.emissions(samples), texts, strict=True):
        emissions = Emissions(scores, alphabet.labels, alphabet.blank, recognizer.frame_shift_ms)
        words = align_text(emissions, text, alphabet, recognizer.normalizer).words
        results.append(np.array([(word.start, word.end) for word in words]))
    return results


def aligned_joined(
    recognizer: Recognizer, samples: list, texts: list[str], random: np.random.Generator
) -> list[np.ndarray]:
    """The same from one file, times counted from the start of each utterance."""
    rate = recognizer.sample_rate
    parts, starts, now = [], [], 0
    for item in samples:
        pause = (1e-4 * random.standard_normal(int(random.uniform(0.3, 1.0) * rate))).astype("f4")
        starts.append((now + len(pause)) / rate)
        parts += [pause, item]
        now += len(pause) + len(item)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.wav"
        soundfile.write(path, np.concatenate(parts), rate, subtype="FLOAT")
        ((transcript, emissions),) = recognizer.recording_emissions([path])
    assert transcript.error is None, transcript.error
    aligned = align_text(emissions, texts, recognizer.alphabet, recognizer.normalizer)
    times = np.array([(word.start, word.end) for word in aligned.words])
    return [
        times[first:last] - start
        for (first, last), start in zip(aligned.lines, starts, strict=True)
    ]


def compare(name: str, model: str, utterances: list[Utterance]) -> str:
    """A row of the table."""
    recognizer = Recognizer.from_checkpoint(model)
    random = np.random.default_rng(0)
    differences, started = [], time.perf_counter()
    count = len(utterances) // TOGETHER * TOGETHER
    for first in range(0, count, TOGETHER):
        group = utterances[first : first + TOGETHER]
        samples = [audio.load(item.audio_filepath, recognizer.sample_rate)[0] for item in group]
        texts = [item.text for item in group]
        alone = aligned_alone(recognizer, samples, texts)
        joined = aligned_joined(recognizer, samples, texts, random)
        differences += [1000 * (b - a) for a, b in zip(alone, joined, strict=True)]
    moved = np.abs(np.concatenate(differences))  # (W, 2) milliseconds
    within = 100 * (moved <= 50).all(axis=1).mean()
    return (
        f"| {name} | {count // TOGETHER} | {len(moved)} | {recognizer.frame_shift_ms:g} | "
        f"{moved.mean():.1f} | {np.percentile(moved, 90):.1f} | {moved.max():.0f} | "
        f"{within:.2f}% | {time.perf_counter() - started:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=MODEL:MANIFEST")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Word boundaries: files of 20 utterances aligned whole, and single utterances",
        "",
        "`python benchmarks/align_boundaries.py NAME=MODEL:MANIFEST ...`. Absolute differences of "
        'word starts and ends in milliseconds; "within": words of which both boundaries are '
        f"within 50 ms. {machine.describe()}.",
        "",
        "| set | files | words | frame shift | mean | 90th percentile | largest | within | "
        "seconds for all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in arguments.sets:
        name, _, rest = item.partition("=")
        model, _, manifest = rest.rpartition(":")
        lines.append(compare(name, model, read_manifest(manifest)))
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
