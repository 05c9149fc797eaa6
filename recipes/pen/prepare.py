"""Data of the pen recipe: handwriting synthesised from Hershey fonts, or a published collection.

    python recipes/pen/prepare.py runs/pen/data                        # synthesised words
    python recipes/pen/prepare.py runs/pen/data --uji ujipenchars2.txt # UJI Pen Characters 2
    python recipes/pen/prepare.py runs/pen/data --unipen folder/       # UNIPEN files: their words
    python recipes/pen/prepare.py runs/pen/data --unipen folder/ --level CHARACTER

Writes InkML files and the manifests train.jsonl, dev.jsonl and test.jsonl. The writers of test are
in neither of the others; of a collection these are the last fifth, by name.
"""

import argparse
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import hands

from ctcspeech import CtcSpeechError, Utterance, write_manifest
from ctcspeech.pen import SPACING, Ink, ink_features, write_inkml
from ctcspeech.pen.collections import read_uji, read_unipen

FRAME_SECONDS = 0.01  # a frame of ink counts as 10 ms, as one of features does


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uji", type=Path, help="ujipenchars2.txt")
    parser.add_argument("--unipen", type=Path, help="a UNIPEN file, or a folder of them")
    parser.add_argument("--level", default="WORD", help="of UNIPEN's segments: CHARACTER, TEXT")
    parser.add_argument("--words", type=Path, help="a text whose words are written")
    parser.add_argument("--pieces", type=int, default=3000, help="synthesised for training")
    parser.add_argument("--hands", type=int, default=60, help="that write them")
    arguments = parser.parse_args()
    try:
        splits = collected(arguments) if arguments.uji or arguments.unipen else made(arguments)
        for name, pieces in splits.items():
            save(arguments.folder, name, pieces)
    except CtcSpeechError as error:
        sys.exit(f"prepare.py: {error}")


def made(arguments: argparse.Namespace) -> dict[str, Iterable[Ink]]:
    """Train and dev by the same hands with other words each time, test by others."""
    words = word_list(arguments.words)
    draw = random.Random(1)

    def pieces(count: int, number_of_hands: int, held_out: bool, begin: int) -> Iterable[Ink]:
        for i in range(count):
            hand = hands.Hand.of(draw.randrange(number_of_hands), held_out)
            text = " ".join(draw.choices(words, k=draw.choice((1, 1, 2, 3))))
            yield hands.write(text, hand, begin + i)

    return {
        "train": pieces(arguments.pieces, arguments.hands, False, 0),
        "dev": pieces(max(50, arguments.pieces // 20), arguments.hands, False, 10**6),
        "test": pieces(max(50, arguments.pieces // 20), 10, True, 2 * 10**6),
    }


def word_list(path: Path | None) -> list[str]:
    """The words of a text, or of the recipe's own list; letters a to z alone."""
    path = path or Path(__file__).parent / "words.txt"
    words = {
        w for w in path.read_text(encoding="utf-8").lower().split() if w.isascii() and w.isalpha()
    }
    if not words:
        sys.exit(f"prepare.py: {path} has no word of the letters a to z")
    return sorted(words)


def collected(arguments: argparse.Namespace) -> dict[str, list[Ink]]:
    """By writers: the last fifth of them, in the order of their names, is the test."""
    pieces: list[Ink] = []
    if arguments.uji:
        pieces += read_uji(arguments.uji)
    if arguments.unipen:
        folder = arguments.unipen
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]
        for file in files:
            pieces += read_unipen(file, arguments.level)
    if arguments.unipen and not pieces:
        sys.exit(
            f"prepare.py: {arguments.unipen} has no labelled segment of level {arguments.level}; "
            "another --level, perhaps"
        )
    writers = sorted({piece.writer or "" for piece in pieces})
    test = set(writers[-max(1, len(writers) // 5) :])
    rest = [piece for piece in pieces if (piece.writer or "") not in test]
    if not rest:
        sys.exit("prepare.py: all pieces are by one writer: there is none to hold out for the test")
    random.Random(1).shuffle(rest)
    cut = max(1, len(rest) // 10)
    return {
        "train": rest[cut:],
        "dev": rest[:cut],
        "test": [piece for piece in pieces if (piece.writer or "") in test],
    }


def save(folder: Path, name: str, pieces: Iterable[Ink]) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, ink in enumerate(pieces):
        path = folder / name / f"{number:05}.inkml"
        write_inkml(path, ink)
        seconds = len(ink_features(ink, SPACING)) * FRAME_SECONDS
        utterances.append(
            Utterance(None, seconds, ink.text, ink.writer, features_filepath=path.absolute())
        )
    write_manifest(folder / f"{name}.jsonl", utterances)
    writers = len({utterance.speaker for utterance in utterances})
    print(f"{folder / name}.jsonl: {len(utterances)} pieces by {writers} writers")


if __name__ == "__main__":
    main()
