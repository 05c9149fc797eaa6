"""`ctcspeech lm build`: estimate an n-gram language model from text."""

import re
from collections.abc import Callable
from pathlib import Path

import typer

from ctcspeech.progress import Progress

__all__ = ["build"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def build(
    texts: list[str] = typer.Argument(
        ..., metavar="TEXT...", help="Text files (plain, .gz, .bz2, .xz): UTF-8, a sentence a line."
    ),
    output: Path = typer.Option(
        ..., "--output", "-o", help="The model: .arpa or .arpa.gz; any other name, a binary."
    ),
    order: int = typer.Option(3, min=1, max=12, help="Length of the longest n-grams."),
    prune: str = typer.Option(
        "0",
        metavar="N...",
        help="Leave out n-grams met this often or less: a number an order, unigrams first (0), the "
        "last one for all higher orders.",
    ),
    vocabulary: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        help="Keep only the words in this file (any white space).",
    ),
    vocabulary_size: int | None = typer.Option(
        None, min=1, help="Keep only this many words, the most frequent ones."
    ),
    discount_fallback: str | None = typer.Option(
        None,
        metavar="D1,D2,D3",
        help="Discounts for an order whose counts give none (very little text), say 0.5,1,1.5.",
    ),
    characters: bool = typer.Option(
        False, help="A model of characters: each is a word, a space becomes --space."
    ),
    space: str = typer.Option("|", help="What stands for a space in a model of characters."),
    alphabet: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        help="A model of this alphabet's labels (characters or pieces), by its encoding of the "
        "text; a space becomes --space.",
    ),
    skip_symbols: bool = typer.Option(
        False, help="Drop <s>, </s> and <unk> in the text; else they are an error."
    ),
    kind: str | None = typer.Option(None, help="Of a binary: probing (fast) or trie (small)."),
    probability_bits: int = typer.Option(0, help="Quantise a trie's probabilities to these bits."),
    backoff_bits: int = typer.Option(0, help="Quantise a trie's back-off weights to these bits."),
    memory: str = typer.Option("2G", help="Memory to use, roughly: 500M, 4G."),
    temp_dir: Path | None = typer.Option(
        None, exists=True, file_okay=False, help="Folder for what does not fit in memory."
    ),
) -> None:
    """Estimate a model from text: interpolated modified Kneser-Ney.

    The model is the one that KenLM's lmplz estimates with the same options.

    \b
        ctcspeech lm build --order 4 --prune 0 0 1 1 text.txt.gz -o lm.bin
        ctcspeech lm build --order 6 --characters transcripts.txt -o characters.arpa
        zcat *.gz | ctcspeech lm build --order 3 /dev/stdin -o lm.arpa.gz
    """
    from ctcspeech.lm.build import build_language_model

    thresholds, paths = _split_prune(prune, texts)
    report = _Report()
    arpa = output if output.name.endswith(".arpa") else output.with_name(f".{output.name}.arpa")
    try:
        summary = build_language_model(
            paths,
            arpa,
            order=order,
            prune=thresholds,
            vocabulary=vocabulary.read_text(encoding="utf-8").split() if vocabulary else None,
            vocabulary_size=vocabulary_size,
            discount_fallback=_numbers("--discount-fallback", discount_fallback),
            skip_symbols=skip_symbols,
            memory=_bytes(memory),
            temp_dir=temp_dir,
            map_line=_line_mapper(characters, space, alphabet),
            progress=report,
        )
        report.close()
        if arpa != output:
            from ctcspeech.lm.convert import convert

            convert(
                arpa,
                output,
                "arpa" if output.name.endswith(".arpa.gz") else kind,
                probability_bits=probability_bits,
                backoff_bits=backoff_bits,
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    finally:
        report.close()
        if arpa != output:
            arpa.unlink(missing_ok=True)
    print(f"{summary.sentences} sentences, {summary.words} words")
    for n, level in enumerate(summary.orders, 1):
        discounts = ", ".join(f"{d:.4f}" for d in level.discounts)
        print(f"{n}-grams: {level.ngrams} met, {level.kept} kept, discounts {discounts}")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _split_prune(prune: str, arguments: list[str]) -> tuple[list[int], list[Path]]:
    """`--prune 0 0 1 text.txt`: the numbers after the option's first arrive among the texts."""
    numbers = re.split(r"[\s,]+", prune.strip())
    rest = list(arguments)
    while rest and rest[0].isdigit() and not Path(rest[0]).exists():
        numbers.append(rest.pop(0))
    if not all(number.isdigit() for number in numbers):
        raise typer.BadParameter(f"must be whole numbers, got {prune!r}", param_hint="--prune")
    paths = [Path(argument) for argument in rest]
    if not paths:
        raise typer.BadParameter("no text file is named", param_hint="TEXT")
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="TEXT")
    return [int(number) for number in numbers], paths


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in re.split(r"[\s,]+", text.strip())]
    except ValueError:
        raise typer.BadParameter(f"must be numbers, got {text!r}", param_hint=option) from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"must be like 500M or 4G, got {text!r}", param_hint="--memory")
    return int(float(match[1]) * _UNITS[match[2]])


def _line_mapper(
    characters: bool, space: str, alphabet: Path | None
) -> Callable[[str], str] | None:
    if alphabet is not None:
        from ctcspeech.text.alphabet import Alphabet

        known = Alphabet.load(alphabet)
        names = [space if i == known.space else label for i, label in enumerate(known.labels)]
        return lambda line: " ".join(names[i] for i in known.encode(" ".join(line.split())))
    if characters:
        return lambda line: " ".join(space if c == " " else c for c in " ".join(line.split()))
    return None


class _Report:
    """One progress display a stage."""

    def __init__(self) -> None:
        self.stage = ""
        self.display: Progress | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.display is None or stage != self.stage:
            self.close()
            unit = "byte" if stage == "counting" else "n-gram"
            self.stage, self.display = stage, Progress(stage, unit=unit)
        self.display.total = total or None
        self.display.advance(done - self.display.done)

    def close(self) -> None:
        if self.display is not None:
            self.display.close()
        self.display = None
