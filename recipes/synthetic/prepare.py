"""Texts spoken by synthetic voices, in any language that espeak-ng has.

    python recipes/synthetic/prepare.py work/data --text my.txt --language en --hours 12

Writes into the folder: train.jsonl; dev.jsonl and test.jsonl, spoken by voices that are in no other
part; alphabet.json, the letters of the texts. A text has a sentence a line; lines with digits or
with characters of another script are passed over, for nobody can tell how they are read. Texts of
the manifests given by --exclude (the tests of a model that starts from this one) are left out.

What utterance k says, by whom and where follows from (seed, k), whatever process makes it. Rate,
pitch and vocal tract are drawn for each; most are put into a room, near a noise or behind a
telephone line, once (--clean leaves that to `[augment]` while training, which costs time there).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from voices import Voice, held_out, voices_of

from ctcspeech.data.augment import AugmentConfig, Augmenter
from ctcspeech.data.manifest import Utterance, read_manifest, write_manifest
from ctcspeech.errors import AlphabetError
from ctcspeech.files import atomic_write
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.normalize import Normalizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from acoustics import write_noises, write_rooms  # noqa: E402
from espeak import Espeak  # noqa: E402
from flite import Flite  # noqa: E402

SAMPLE_RATE = 16000
SECONDS_A_LETTER = 0.075  # of speech, for how many utterances make the hours
HELD_OUT = 150  # utterances of the test and of dev
PARTS = {"test": 0, "dev": 1, "train": 2}
RARE = 1e-5  # a letter that is a smaller share of the text is another language's


def main(values: list[str] | None = None) -> None:
    arguments = parse_arguments(values)
    started = time.monotonic()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if not arguments.clean:
        write_noises(work / "noise", seed=arguments.seed, sample_rate=SAMPLE_RATE)
        write_rooms(work / "rir", seed=arguments.seed, sample_rate=SAMPLE_RATE)
    lines, letters = read_texts(arguments)
    keep_settings(arguments, lines)
    Alphabet.from_text(["".join(sorted(letters)) + " "]).save(work / "alphabet.json")
    if len(lines) < 4 * HELD_OUT:
        sys.exit(f"{len(lines)} lines to speak are too few: {4 * HELD_OUT} are needed")
    voices = choose_voices(arguments)
    hours, speakers = {}, {}
    for part, wanted in (("test", HELD_OUT), ("dev", HELD_OUT), ("train", arguments.hours)):
        made = list(speak_part(part, lines, voices[part], wanted, arguments))
        write_manifest(work / f"{part}.jsonl", made)
        hours[part] = sum(utterance.duration for utterance in made) / 3600
        speakers[part] = len({utterance.speaker for utterance in made})
    print(
        f"{hours['train']:.2f} h to train on by {speakers['train']} voices, {hours['dev']:.2f} "
        f"h to choose by, in {time.monotonic() - started:.0f} s: {work / 'train.jsonl'}"
    )


def parse_arguments(values: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder to write to")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="a sentence a line")
    parser.add_argument("--language", default="en", help="as espeak-ng names it (default: en)")
    parser.add_argument("--hours", type=float, default=12.0, help="of speech to train on")
    parser.add_argument("--words", type=int, nargs=2, default=(3, 16), help="least, most, a line")
    parser.add_argument(
        "--real-share", type=float, default=0.5, help="spoken by flite's and festival's voices"
    )
    parser.add_argument(
        "--test-voice", metavar="ENGINE:NAME", action="append", default=[], help="only in the test"
    )
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="manifests of tests")
    parser.add_argument("--clean", action="store_true", help="no rooms, noises, channels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="processes (default: all cores)")
    arguments = parser.parse_args(values)
    if not arguments.hours > 0:
        parser.error("--hours must be above 0")
    if not 0 <= arguments.real_share <= 1:
        parser.error("--real-share must be 0 to 1")
    if not 1 <= arguments.words[0] <= arguments.words[1]:
        parser.error("--words must be a least and a most number, from 1 up")
    return arguments


def read_texts(arguments: argparse.Namespace) -> tuple[list[str], set[str]]:
    """The lines to speak, each once, and the letters they have."""
    normalizer = Normalizer(digits="refuse")
    excluded = {u.text for path in arguments.exclude for u in read_manifest(path)}
    lines: dict[str, None] = {}
    least, most = arguments.words
    for path in arguments.text:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                text = normalizer(line)
            except AlphabetError:
                continue
            if least <= text.count(" ") + 1 <= most and text not in excluded:
                lines[text] = None
    counts = Counter(character for text in lines for character in text if character != " ")
    letters = {c for c, count in counts.items() if count > RARE * counts.total()}
    kept = [text for text in lines if letters.issuperset(text.replace(" ", ""))]
    if not kept:
        sys.exit(f"{arguments.text[0]} has no line of {least} to {most} words without digits")
    return kept, letters


def keep_settings(arguments: argparse.Namespace, lines: list[str]) -> None:
    """What is in the folder already goes on being used, but only by the settings that made it."""
    names = ("language", "real_share", "test_voice", "clean", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    settings["texts"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    path = arguments.work / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if changed:
            sys.exit(
                f"{arguments.work} holds speech made with other settings ({', '.join(changed)}); "
                "give another folder, or remove this one"
            )
    with atomic_write(path) as file:
        json.dump(settings, file, indent=1)


def choose_voices(arguments: argparse.Namespace) -> dict[str, list[Voice]]:
    """By part; no one who speaks in the test or in dev is in another part."""
    found = voices_of(arguments.language)
    if not found:
        sys.exit(f"no voice speaks {arguments.language!r}; see espeak-ng's list of languages")
    unknown = set(arguments.test_voice) - {str(voice) for voice in found}
    if unknown:
        sys.exit(f"--test-voice: {', '.join(sorted(unknown))} is not installed; see voices.py")
    names = sorted(held_out(found))
    of = {name: ("dev", "test")[i % 2] for i, name in enumerate(names)}
    parts: dict[str, list[Voice]] = {part: [] for part in PARTS}
    for voice in found:
        if str(voice) not in arguments.test_voice:
            parts[of.get(voice.variant, "train")].append(voice)
    if arguments.test_voice:
        parts["test"] = [voice for voice in found if str(voice) in arguments.test_voice]
    return parts


def speak_part(
    part: str, lines: list[str], voices: list[Voice], wanted: float, arguments: argparse.Namespace
) -> Iterator[Utterance]:
    """Writes wav files of so many utterances (train: hours), and yields them."""
    order = np.random.default_rng([arguments.seed, len(PARTS)]).permutation(len(lines))
    own = slice(HELD_OUT * PARTS[part], HELD_OUT * (PARTS[part] + 1))  # no text is in two parts
    count = int(wanted)
    if part == "train":
        own = slice(2 * HELD_OUT, None)
        letters = sum(len(line) for line in lines) / len(lines)
        count = max(1, round(wanted * 3600 / (letters * SECONDS_A_LETTER)))
    chosen = [lines[i] for i in order[own]]
    (arguments.work / part).mkdir(parents=True, exist_ok=True)
    tasks = [
        Task(arguments, part, index, chosen[index % len(chosen)], voices) for index in range(count)
    ]
    for number, made in enumerate(spoken(tasks, arguments.jobs or os.cpu_count() or 1), 1):
        if number % 1000 == 0:
            print(f"  {part}: {number} of {count} utterances", file=sys.stderr, flush=True)
        yield made


def spoken(tasks: list[Task], jobs: int) -> Iterator[Utterance]:
    """The utterances in order, made by so many processes (1: by this one)."""
    if jobs == 1:
        yield from map(speak_one, tasks)
        return
    # spawn: espeak-ng's and flite's state must not be shared between processes
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(speak_one, tasks, chunksize=16)


@dataclass(frozen=True)
class Task:
    """One utterance to be made."""

    arguments: argparse.Namespace
    part: str
    index: int
    text: str
    voices: list[Voice]


class Speaker:
    """Says texts with any voice; one in each process, as espeak-ng keeps a global state."""

    def __init__(self) -> None:
        self.espeak: Espeak | None = None
        self.flite = Flite()

    def say(self, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        """Samples (S,) at SAMPLE_RATE, float32, at a rate and pitch that are drawn."""
        pace = float(np.exp(rng.uniform(-0.25, 0.2)))  # above 1: faster
        if voice.engine == "espeak":
            self.espeak = self.espeak or Espeak()
            pitch, spread = (int(rng.integers(*bounds)) for bounds in ((15, 85), (20, 90)))
            rate = round(165 * pace)
            samples = self.espeak.say(text, voice=voice.name, rate=rate, pitch=pitch, range=spread)
            from_rate = self.espeak.sample_rate
        elif voice.engine == "flite":
            samples, from_rate = self.flite.say(text, voice=voice.name, stretch=1 / pace)
        else:
            samples, from_rate = festival(text, voice.name, 1 / pace)
        tract = rng.uniform(0.92, 1.1)  # another length of the vocal tract, and pitch
        return soxr.resample(samples, from_rate * tract, SAMPLE_RATE)


def festival(text: str, voice: str, stretch: float) -> tuple[np.ndarray, int]:
    """Samples and their rate, by the program festival's text2wave."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        setting = f"(begin (voice_{voice}) (Parameter.set 'Duration_Stretch {stretch:.3f}))"
        command = ["text2wave", "-eval", setting, "-o", str(path)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise RuntimeError(f"festival could not say {text!r} as {voice}: {done.stderr.strip()}")
        return soundfile.read(path, dtype="float32")


_speaker: Speaker | None = None  # one in each process


@functools.cache
def augmenter(work: Path) -> Augmenter:
    return Augmenter(disturbances(work), SAMPLE_RATE)


def speak_one(task: Task) -> Utterance:
    """Makes one utterance and writes it."""
    global _speaker
    arguments, part = task.arguments, task.part
    rng = np.random.default_rng([arguments.seed, PARTS[part], task.index])
    real = [voice for voice in task.voices if voice.engine != "espeak"]
    formant = [voice for voice in task.voices if voice.engine == "espeak"]
    from_real = rng.random() < arguments.real_share
    voices = (real if from_real else formant) or real or formant
    voice = voices[rng.integers(len(voices))]
    path = arguments.work / part / f"{task.index:06d}.wav"
    if path.exists():  # from a run that was stopped, or had fewer hours
        return Utterance(path, soundfile.info(path).duration, task.text, str(voice))
    _speaker = _speaker or Speaker()
    samples = _speaker.say(task.text, voice, rng)
    silences = rng.uniform(0.05, 0.35, 2) * SAMPLE_RATE
    samples = np.pad(samples, tuple(silences.astype(int)))
    samples = samples * np.float32(0.3 / max(float(np.abs(samples).max()), 1e-3))
    # Digital silence is what recordings hardly ever have.
    floor = np.float32(0.3 * 10 ** (rng.uniform(-70, -45) / 20))
    samples = samples + floor * rng.standard_normal(len(samples)).astype(np.float32)
    if not arguments.clean:
        samples = augmenter(arguments.work)(samples, arguments.seed, 0, f"{part}/{task.index}")
    with atomic_write(path, "wb") as file:
        soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return Utterance(path, len(samples) / SAMPLE_RATE, task.text, str(voice))


def disturbances(work: Path) -> AugmentConfig:
    """Where the voices are heard: half of them in a room, half near a noise."""
    return AugmentConfig(
        rir_probability=0.5,
        rir_folder=work / "rir",
        noise_probability=0.5,
        noise_folder=work / "noise",
        noise_snr_db=(8, 40),
        gain_probability=1.0,
        gain_db=(-14, 6),
        telephone_probability=0.05,
    )


if __name__ == "__main__":
    main()
