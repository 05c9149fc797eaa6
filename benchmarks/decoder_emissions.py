"""Simulated letter emissions of given sentences, for benchmarks of the decoder.

    python benchmarks/decoder_emissions.py sentences.txt emissions.npz --utterances 60 --seed 0
    python benchmarks/decoder_emissions.py sentences.txt unknown.npz --unknown 0.15 --clarity 6

Each letter lasts one to three frames with blanks in between, as the output of CTC networks does, at
50 frames a second. A frame's logits are `clarity` for what is said (times `--separator-clarity` for
a separator) over Gaussian noise of unit variance, and some of it for the blank; of a share
`--confused` each letter is heard as a neighbour of the alphabet as much as itself, a separator as a
blank. With `--separators`, some stand before the first word, after the last, or twice with
blanks between. `--unknown` words are replaced by words of shuffled letters. emissions.npz holds
`labels` (the blank first, then the space), `refs`, and e0, e1, ...: natural-log probabilities.
"""

import argparse
from pathlib import Path

import numpy as np

LABELS = ["<blank>", " ", "'", *"abcdefghijklmnopqrstuvwxyz"]


def made_up(word, known, rng):
    """A word of the same length that is not known."""
    for _ in range(100):
        letters = [*word, *rng.choice(list("aeioulnrst"), size=max(0, 4 - len(word)))]
        rng.shuffle(letters)
        candidate = "".join(letters)
        if candidate not in known and "'" not in candidate:
            return candidate
    return word


def path_of(text, separators, rng):
    """A class for each frame."""
    path = [0] * int(rng.integers(1, 5))
    if rng.random() < separators:
        path += [1] * int(rng.integers(1, 4)) + [0] * int(rng.integers(0, 3))
    for letter in text:
        number = LABELS.index(letter)
        if path and path[-1] == number:
            path.append(0)
        path += [number] * int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        path += [0] * int(rng.choice([0, 1, 2, 4], p=[0.3, 0.3, 0.2, 0.2]))
        if letter == " " and rng.random() < separators:
            path += [0] * int(rng.integers(1, 4)) + [1] * int(rng.integers(1, 3))
    if rng.random() < separators:
        path += [0, *[1] * int(rng.integers(1, 4))]
    return path + [0] * int(rng.integers(1, 5))


def emissions_of(path, clarity, separator_clarity, confused, rng):
    """(T, C) natural-log probabilities."""
    logits = rng.standard_normal((len(path), len(LABELS)))
    start = 0
    while start < len(path):
        end = start
        while end < len(path) and path[end] == path[start]:
            end += 1
        said = path[start]
        logits[start:end, said] += clarity * (separator_clarity if said == 1 else 1.0)
        logits[start:end, 0] += 0.4 * clarity
        if said > 1 and rng.random() < confused:
            other = int(np.clip(said + rng.choice([-2, -1, 1, 2]), 2, len(LABELS) - 1))
            logits[start:end, other] += clarity
        if said == 1 and separator_clarity < 1 and rng.random() < confused:
            logits[start:end, 0] += 0.6 * clarity
        start = end
    logits -= logits.max(axis=1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def simulate(text, utterances, seed, clarity=6.0, confused=0.15, separator_clarity=0.75,
             separators=0.0, unknown=0.0):  # fmt: skip
    """References and emissions of sentences drawn from a text."""
    rng = np.random.default_rng(seed)
    lines = [
        " ".join(line.split())
        for line in text.splitlines()
        if 6 <= len(line.split()) <= 30 and set(line) <= set(LABELS[1:])
    ]
    known = {word for line in lines for word in line.split()}
    chosen = [lines[i] for i in rng.permutation(len(lines))[:utterances]]
    references, emissions = [], []
    for line in chosen:
        words = [
            made_up(word, known, rng) if rng.random() < unknown else word for word in line.split()
        ]
        references.append(" ".join(words))
        path = path_of(references[-1], separators, rng)
        emissions.append(emissions_of(path, clarity, separator_clarity, confused, rng))
    return references, emissions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sentences", type=Path, help="a text, one sentence a line, lower case")
    parser.add_argument("output", type=Path)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--clarity", type=float, default=6.0, help="logit of what is said")
    parser.add_argument("--confused", type=float, default=0.15, help="share of letters")
    parser.add_argument("--separator-clarity", type=float, default=0.75, help="times clarity")
    parser.add_argument("--separators", type=float, default=0.0, help="share of places")
    parser.add_argument("--unknown", type=float, default=0.0, help="share of words")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    text = arguments.pop("sentences").read_text(encoding="utf-8")
    output = arguments.pop("output")
    references, emissions = simulate(text, **arguments)
    stored = {f"e{i}": item for i, item in enumerate(emissions)}
    np.savez_compressed(
        output, labels=np.array(LABELS), frame_shift_s=0.02, refs=np.array(references), **stored
    )


if __name__ == "__main__":
    main()
