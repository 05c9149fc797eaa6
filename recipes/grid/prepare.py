"""Manifests of one talker of the GRID corpus (Cooke et al. 2006).

    python prepare.py OUT --data DIR            DIR/grid_s1 holds manifests and recordings
    python prepare.py OUT --download CORPUS     fetches the audio of all talkers (about 4 GB)

Each recording's name tells its text: `swab8p` is "set white at b eight please".
"""

import argparse
import random
import sys
from pathlib import Path

from ctcspeech import CtcSpeechError, Utterance, read_manifest, write_manifest
from ctcspeech.audio.read import info

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch import fetch, unpack  # noqa: E402

ARCHIVE = "https://zenodo.org/records/3625687/files/audio_25k.zip"
COMMAND = {"b": "bin", "l": "lay", "p": "place", "s": "set"}
COLOUR = {"b": "blue", "g": "green", "r": "red", "w": "white"}
PREPOSITION = {"a": "at", "b": "by", "i": "in", "w": "with"}
DIGIT = dict(
    zip(
        "z123456789",
        "zero one two three four five six seven eight nine".split(),
        strict=True,
    )
)
ADVERB = {"a": "again", "n": "now", "p": "please", "s": "soon"}
SPLITS = ("train", "dev", "test")


def text_of(name: str) -> str:
    """The command that a recording's name spells."""
    try:
        command, colour, preposition, letter, digit, adverb = name
        words = [COMMAND[command], COLOUR[colour], PREPOSITION[preposition], letter]
        return " ".join([*words, DIGIT[digit], ADVERB[adverb]])
    except (KeyError, ValueError):
        raise ValueError(f"{name!r} is no name of a GRID recording, such as swab8p") from None


def from_recordings(folder: Path, talker: str) -> dict[str, list[Utterance]]:
    """750 utterances to train, 50 to validate and the rest to test, by a fixed shuffle."""
    recordings = sorted(folder.rglob("*.wav"))
    recordings = [path for path in recordings if talker in path.parts and len(path.stem) == 6]
    if not recordings:
        sys.exit(f"{folder} holds no recordings of talker {talker} (.../{talker}/*.wav)")
    utterances, failed = [], 0
    for path in recordings:
        try:
            duration = info(path).duration
        except CtcSpeechError as error:
            print(f"left out: {error}", file=sys.stderr)
            failed += 1
            continue
        utterances.append(
            Utterance(
                audio_filepath=path, duration=duration, text=text_of(path.stem), speaker=talker
            )
        )
    random.Random(0).shuffle(utterances)
    print(f"{len(utterances)} recordings of talker {talker}, {failed} left out", file=sys.stderr)
    return {"train": utterances[:750], "dev": utterances[750:800], "test": utterances[800:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for train, dev and test.jsonl")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder with grid_s1/{train,dev,test}.jsonl")
    source.add_argument("--download", type=Path, help="folder to fetch the corpus into")
    parser.add_argument("--talker", default="s1", help="s1 to s34 (with --download)")
    arguments = parser.parse_args()
    if arguments.data is not None:
        folder = arguments.data / "grid_s1"
        if not folder.is_dir():
            sys.exit(f"{folder} does not exist: --data must name the folder that holds grid_s1")
        splits = {split: read_manifest(folder / f"{split}.jsonl") for split in SPLITS}
    else:
        if not (arguments.download / "audio_25k").is_dir():
            unpack(fetch(ARCHIVE, arguments.download), arguments.download)
        splits = from_recordings(arguments.download, arguments.talker)
    for split in SPLITS:
        write_manifest(arguments.out / f"{split}.jsonl", splits[split])
        print(f"{arguments.out / split}.jsonl: {len(splits[split])} utterances", file=sys.stderr)


if __name__ == "__main__":
    main()
