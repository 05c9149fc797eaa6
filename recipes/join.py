"""Recordings one after another with pauses, as a microphone hears them: for streaming models.

    python recipes/join.py data/train.jsonl data/joined [--count 500] [--least 1] [--most 10]
        [--longest 1.5]

writes data/joined/*.wav and data/joined.jsonl. Recordings of corpora end soon after their last
word, and a network that has heard nothing else learns to write that word when the recording ends:
live, when the next person speaks; nor has its state ever lasted for more than a few seconds. What
training on these changes of that is measured in recipes/digits/README.md.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from ctcspeech import Utterance, read_manifest, write_manifest
from ctcspeech.audio.read import info, load


def join(
    utterances: list[Utterance], folder: Path, count: int, least: int, most: int, longest: float
) -> list[Utterance]:
    """Writes `count` wav files of `least` to `most` recordings each, with up to `longest` seconds
    of faint noise after each recording. All have the sample rate of the first one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, joined = np.random.default_rng(0), []
    rate = info(utterances[0].path).sample_rate
    order: list[int] = []
    for number in range(count):
        parts, words = [], []
        for _ in range(int(rng.integers(least, most + 1))):
            order = order or rng.permutation(len(utterances)).tolist()
            utterance = utterances[order.pop()]
            samples = load(utterance.path, rate)[0]
            floor = np.abs(samples).max(initial=1e-3) * 10 ** (rng.uniform(-75, -45) / 20)
            pause = rng.standard_normal(int(rng.uniform(0, longest) * rate))
            parts += [samples, floor * pause]
            words.append(utterance.text)
        path = folder / f"{number:05d}.wav"
        samples = np.concatenate(parts).astype(np.float32)
        soundfile.write(path, samples, rate)
        joined.append(Utterance(path, len(samples) / rate, " ".join(words)))
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path, help="folder to write; the manifest is OUT.jsonl")
    parser.add_argument("--count", type=int, default=500, help="files to write")
    parser.add_argument("--least", type=int, default=1, help="recordings in a file")
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds of a pause")
    arguments = parser.parse_args()
    if not 1 <= arguments.least <= arguments.most:
        parser.error("--least must be at least 1 and at most --most")
    utterances = read_manifest(arguments.manifest)
    joined = join(
        utterances, arguments.out, arguments.count, arguments.least, arguments.most,
        arguments.longest,
    )  # fmt: skip
    manifest = arguments.out.with_name(arguments.out.name + ".jsonl")
    write_manifest(manifest, joined)
    print(f"{manifest}: {sum(item.duration for item in joined) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
