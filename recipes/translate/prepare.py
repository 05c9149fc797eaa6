"""Data of the translate recipe: pairs of messages of programs, English and another language.

    python recipes/translate/prepare.py runs/translate/data --language de
    python recipes/translate/prepare.py runs/translate/data --language de --data catalogues/

Pairs come from the catalogues (.mo and .po) of gettext that are found under --data: by default
those that are installed on this machine, /usr/share/locale. Of a message only its first form is
taken; messages with markup or formats (%s), longer than --longest characters, or that stay as
they are in the other language, and the lists of names of iso-codes are left out. A message is in
one of the splits alone, by a digest of its English text; messages that differ by case or
punctuation alone are in the same one.

Writes the numbers of the English letters, (T, 1), one .npy a message, the manifests train.jsonl,
dev.jsonl and test.jsonl (the text is the translation, the field "source" the English), and
symbols.json, the letter of each number; 0 is any letter that training does not have.
"""

import argparse
import gettext
import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctcspeech import Utterance, write_manifest

FRAME_SECONDS = 0.01  # a letter counts as 10 ms, as a frame of features does
RARE = 5  # letters that are seen less often are left out, with their messages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--language", default="de", help="as catalogues name it: de, fr, pt_BR")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/locale"))
    parser.add_argument("--longest", type=int, default=40, help="characters, of either text")
    parser.add_argument("--limit", type=int, default=0, help="pairs of training; 0 takes all")
    arguments = parser.parse_args()
    pairs = collect(arguments.data, arguments.language, arguments.longest)
    if len(pairs) < 100:
        sys.exit(
            f"prepare.py: {len(pairs)} messages of language {arguments.language} under "
            f"{arguments.data}: too few. Give another --language, or --data with a folder of "
            "catalogues, LANGUAGE/LC_MESSAGES/*.mo or LANGUAGE.po"
        )
    splits = divide(pairs)
    if arguments.limit:
        splits["train"] = splits["train"][: arguments.limit]
    symbols = ["?", *letters(source for source, _ in splits["train"])]
    for name, items in splits.items():
        write(arguments.folder, name, items, symbols)
    text = json.dumps(symbols, ensure_ascii=False)
    (arguments.folder / "symbols.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(symbols)} symbols (model.symbols)")


def collect(data: Path, language: str, longest: int) -> list[tuple[str, str]]:
    """All pairs, each English text once, with its most frequent translation; sorted."""
    found: dict[str, Counter[str]] = {}
    for english, translated in messages(data, language):
        source, target = cleaned(english), cleaned(translated)
        if source != target and fits(source, longest) and fits(target, longest):
            found.setdefault(source, Counter())[target] += 1
    pairs = [(s, min(t, key=lambda text: (-t[text], text))) for s, t in sorted(found.items())]
    common = set(letters(target for _, target in pairs))
    return [(s, t) for s, t in pairs if set(t) <= common]


def messages(data: Path, language: str) -> Iterator[tuple[str, str]]:
    catalogues = sorted(data.rglob(f"{language}/LC_MESSAGES/*.mo"))
    for path in catalogues:
        if path.name.startswith("iso_"):  # names of countries and languages by the thousand
            continue
        try:
            with open(path, "rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, UnicodeError) as error:
            print(f"prepare.py: left out {path}: {error}", file=sys.stderr)
            continue
        for key, text in catalogue.items():
            english = key[0] if isinstance(key, tuple) else key
            if english and not (isinstance(key, tuple) and key[1] != 0):
                yield english.rpartition("\x04")[2], text
    sources = [*data.rglob(f"{language}.po"), *data.rglob(f"{language}/**/*.po")]
    for path in sorted(set(sources)):
        yield from read_po(path.read_text(encoding="utf-8", errors="replace"))


def read_po(text: str) -> Iterator[tuple[str, str]]:
    """The pairs of a .po file, without plural forms and what is marked as fuzzy."""
    for block in re.split(r"\n\s*\n", text):
        if re.search(r"^#,.*fuzzy", block, re.MULTILINE) or "msgid_plural" in block:
            continue
        parts = {}
        for name in ("msgid", "msgstr"):
            match = re.search(rf'^{name}\s+((?:"(?:[^"\\]|\\.)*"\s*)+)', block, re.MULTILINE)
            if match:
                pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', match[1])
                joined = "".join(pieces)
                parts[name] = re.sub(
                    r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), joined
                )
        if parts.get("msgid") and parts.get("msgstr"):
            yield parts["msgid"], parts["msgstr"]


def cleaned(text: str) -> str:
    """One line, without the mark of a key (_Open, &Open), an ellipsis or a colon at the end."""
    text = unicodedata.normalize("NFC", text.strip())
    text = re.sub(r"(?<!\w)[_&](?=\w)|(?<=\w)_(?=\w)", "", text)
    return re.sub(r"\s*(\.\.\.|…|:|\.)$", "", text)


def fits(text: str, longest: int) -> bool:
    """Whether it is text: letters and spaces mostly, no format, no markup, no command."""
    if not 2 <= len(text) <= longest or re.search(r"[%<>{}\\$=\n\t|@#/\[\]~^*+`]|--", text):
        return False
    return sum(c.isalpha() or c == " " for c in text) >= 0.8 * len(text)


def letters(texts: Iterator[str]) -> list[str]:
    """Those that are not rare, sorted."""
    counts = Counter(c for text in texts for c in text)
    return sorted(c for c, count in counts.items() if count >= RARE)


def divide(pairs: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """A twentieth for the test and a fiftieth for dev, by what a text says, not how it is set."""
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    for pair in pairs:
        said = "".join(c for c in pair[0].casefold() if c.isalnum())
        place = int(hashlib.sha256(said.encode()).hexdigest()[:8], 16) % 100
        splits["test" if place < 5 else "dev" if place < 7 else "train"].append(pair)
    order = {pair: hashlib.sha256("\t".join(pair).encode()).digest() for pair in splits["train"]}
    splits["train"].sort(key=order.__getitem__)  # so that a limit takes any of them
    splits["dev"] = splits["dev"][:200]
    splits["test"] = splits["test"][:600]
    return splits


def write(folder: Path, name: str, pairs: list[tuple[str, str]], symbols: list[str]) -> None:
    numbers = {letter: i for i, letter in enumerate(symbols)}
    (folder / name).mkdir(parents=True, exist_ok=True)
    utterances = []
    for i, (source, target) in enumerate(pairs):
        row = np.array([[numbers.get(c, 0)] for c in source], np.float32)  # (T, 1)
        path = folder / name / f"{i:05}.npy"
        np.save(path, row)
        utterances.append(
            Utterance(
                None,
                len(row) * FRAME_SECONDS,
                target,
                features_filepath=path.absolute(),
                extra={"source": source},
            )
        )
    write_manifest(folder / f"{name}.jsonl", utterances)
    print(f"{folder / name}.jsonl: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
