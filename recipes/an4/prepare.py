"""Manifests of CMU AN4: train, dev and test.

    python prepare.py OUT --mfcc DIR            Sphinx MFCC features in DIR/feat, texts in DIR/etc
    python prepare.py OUT --download CORPUS     fetches the recordings (64 MB) into CORPUS

The training set's last speakers by a fixed shuffle are set aside, the model is chosen by them; the
standard test set (130 utterances) is used for nothing but the result.
"""

import argparse
import random
import sys
from pathlib import Path

from ctcspeech import Utterance, write_manifest
from ctcspeech.data.corpora import import_corpus
from ctcspeech.text.normalize import Normalizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch import fetch, unpack  # noqa: E402

ARCHIVE = "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz"


def set_aside(train: list[Utterance], speakers: int) -> tuple[list[Utterance], list[Utterance]]:
    """The utterances without those of some speakers, and theirs."""
    names = sorted({str(utterance.speaker) for utterance in train})
    if not 1 <= speakers < len(names):
        raise ValueError(f"speakers must be 1 to {len(names) - 1}, got {speakers}")
    random.Random(0).shuffle(names)
    chosen = set(names[-speakers:])
    kept = [utterance for utterance in train if utterance.speaker not in chosen]
    return kept, [utterance for utterance in train if utterance.speaker in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for train, dev and test.jsonl")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mfcc", type=Path, help="AN4's folder with etc and feat")
    source.add_argument("--download", type=Path, help="folder to fetch the recordings into")
    parser.add_argument("--dev-speakers", type=int, default=5, help="set aside of 74")
    arguments = parser.parse_args()
    folder = arguments.mfcc
    if folder is None:
        folder = arguments.download
        if not (folder / "an4" / "etc").is_dir():
            unpack(fetch(ARCHIVE, folder), folder)
    corpus = import_corpus("an4", folder, normalizer=Normalizer())
    for problem in corpus.problems:
        print(f"left out: {problem}", file=sys.stderr)
    train, dev = set_aside(corpus.splits["train"], arguments.dev_speakers)
    for name, utterances in {"train": train, "dev": dev, "test": corpus.splits["test"]}.items():
        write_manifest(arguments.out / f"{name}.jsonl", utterances)
        print(f"{arguments.out / name}.jsonl: {len(utterances)} utterances", file=sys.stderr)


if __name__ == "__main__":
    main()
