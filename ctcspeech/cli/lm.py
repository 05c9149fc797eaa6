"""`ctcspeech lm`: n-gram language models."""

import contextlib
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.cli.lm_build import build
from ctcspeech.cli.lm_neural import sample, train

if TYPE_CHECKING:
    from ctcspeech.lm.model import LanguageModel, TextScore

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Language models: n-grams (estimation, conversion, interpolation) and neural ones; "
    "perplexity of a text.",
)

app.command()(build)
app.command()(train)
app.command()(sample)

MODEL = typer.Argument(
    help="An ARPA file (plain, gz, bz2, xz) or a binary (also KenLM's).",
    exists=True,
    dir_okay=False,
)


@app.command()
def query(
    model: Path = MODEL,
    texts: list[Path] = typer.Argument(
        None, help="Text files (plain, gz, bz2, xz), a sentence a line; - is stdin."
    ),
    sentences: bool = typer.Option(False, "--sentences", help="Print log10 P of each sentence."),
    words: bool = typer.Option(
        False, "--words", help="Print log10 P of each word (of a neural model: each label)."
    ),
    no_bos: bool = typer.Option(False, "--no-bos", help="Do not start in the context of <s>."),
    no_eos: bool = typer.Option(False, "--no-eos", help="Do not end with </s>."),
) -> None:
    """Perplexity of a text, and how much of it is out of the vocabulary.

    \b
    ctcspeech lm query lm.bin dev.txt
    echo "the quick brown fox" | ctcspeech lm query lm.bin --words

    With --sentences a line is: log10 P, tokens, words out of the vocabulary, the sentence. With
    --words: the word, log10 P, the length of the n-gram used, OOV where it is unknown; an empty
    line ends a sentence. The summary goes to stderr then.
    """
    from ctcspeech.lm.model import LanguageModel
    from ctcspeech.lm.neural import is_neural

    lines = read_lines(texts or [Path("-")])
    if is_neural(model):
        if no_bos or no_eos:
            raise typer.BadParameter("a neural model scores whole sentences")
        return query_neural(model, lines, sentences, words)
    lm = LanguageModel.load(model)
    total = None
    while chunk := list(islice(lines, 4096)):
        if words or sentences:
            for line in chunk:
                print_sentence(lm, line, words, not no_bos, not no_eos)
        score = lm.score_text(chunk, not no_bos, not no_eos)
        total = score if total is None else total + score
    if total is None:
        raise typer.BadParameter("the text is empty", param_hint="texts")
    print_summary(total, sys.stderr if words or sentences else sys.stdout)


def query_neural(model: Path, lines: Iterator[bytes], sentences: bool, labels: bool) -> None:
    """The same for a neural model, whose words are labels."""
    from ctcspeech.lm.neural import LN10, UNKNOWN, NeuralLanguageModel

    lm = NeuralLanguageModel.load(model)
    count = words = tokens = unknown = 0
    total = 0.0  # ln P
    for line in lines:
        text = line.decode("utf-8", "replace")
        ids, ln_p = lm.encode(text), lm.log_probs(text)
        oov = ids.count(UNKNOWN)
        if labels:
            names = [*(lm.config.vocabulary[i] for i in ids), "</s>"]
            for name, value in zip(names, ln_p, strict=True):
                print(f"{name}\t{value / LN10:.6f}")
            print()
        elif sentences:
            print(f"{float(ln_p.sum()) / LN10:.6f}\t{len(ln_p)}\t{oov}\t{text}")
        count, tokens, unknown = count + 1, tokens + len(ln_p), unknown + oov
        words, total = words + len(text.split()) + 1, total + float(ln_p.sum(dtype=float))
    if not count:
        raise typer.BadParameter("the text is empty", param_hint="texts")
    rows = [
        ("sentences", f"{count}"),
        ("labels", f"{tokens} (with </s>), {unknown} of them unknown"),
        ("log10 P", f"{total / LN10:.4f}"),
        ("bits a label", f"{-total / math.log(2) / tokens:.4f}"),
        ("perplexity", f"{math.exp(-total / tokens):.4f} a label"),
        ("", f"{math.exp(min(-total / words, 700.0)):.4f} a word ({words}, with </s>)"),
    ]
    for name, value in rows:
        print(f"{name:<18} {value}", file=sys.stderr if sentences or labels else sys.stdout)


def read_lines(paths: list[Path]) -> Iterator[bytes]:
    """The lines of files (plain, gzip, bzip2, xz) that hold something besides white space."""
    from ctcspeech.errors import LanguageModelError
    from ctcspeech.files import DECOMPRESSION_ERRORS, decompressed, open_compressed

    for path in paths:
        try:
            with contextlib.ExitStack() as stack:
                if str(path) == "-":
                    file = decompressed(sys.stdin.buffer)
                else:
                    file = stack.enter_context(open_compressed(path))
                for line in file:
                    if stripped := line.strip():
                        yield stripped
        except DECOMPRESSION_ERRORS as error:
            raise LanguageModelError(
                f"{path}: {getattr(error, 'strerror', None) or error}"
            ) from error


def print_sentence(lm: "LanguageModel", line: bytes, words: bool, bos: bool, eos: bool) -> None:
    text = line.decode("utf-8", "replace")
    tokens = [word.decode("utf-8", "replace") for word in line.split()]
    scores = lm.full_scores(tokens, bos, eos)
    if words:
        for word, score in zip([*tokens, "</s>"], scores, strict=False):
            oov = "\tOOV" if score.oov else ""
            print(f"{word}\t{score.log10:.6f}\t{score.order}{oov}")
        print()
    else:
        log10 = sum(score.log10 for score in scores)
        print(f"{log10:.6f}\t{len(scores)}\t{sum(score.oov for score in scores)}\t{text}")


def print_summary(total: "TextScore", file) -> None:  # noqa: ANN001
    known = total.tokens - total.oov
    rows = [
        ("sentences", f"{total.sentences}"),
        ("tokens", f"{total.tokens} (words, and </s> where it is scored)"),
        ("out of vocabulary", f"{total.oov} ({100 * total.oov / max(total.tokens, 1):.2f}%)"),
        ("log10 P", f"{total.log10:.4f}"),
        ("perplexity", f"{total.perplexity:.4f}"),
        ("  without OOV", f"{total.perplexity_without_oov:.4f} (over {known} tokens)"),
    ]
    for n, count in enumerate(total.by_order, 1):
        rows.append((f"{n}-gram used", f"{count} ({100 * count / max(total.tokens, 1):.2f}%)"))
    for name, value in rows:
        print(f"{name:<18} {value}", file=file)


KIND = typer.Option(
    None,
    help="arpa, probing (fastest) or trie (smallest). By default arpa if the target's name ends "
    "in .arpa or .arpa.gz, else probing.",
)


@app.command()
def convert(
    source: Path = typer.Argument(
        help="An ARPA file, a binary, or a binary of KenLM.", exists=True, dir_okay=False
    ),
    target: Path = typer.Argument(help="The file to write."),
    kind: str = KIND,
    probability_bits: int = typer.Option(0, help="Quantise a trie's probabilities; 8 is usual."),
    backoff_bits: int = typer.Option(0, help="Quantise a trie's back-off weights; 8 is usual."),
    unknown: float = typer.Option(-100.0, help="log10 P(<unk>) where the ARPA file lists none."),
) -> None:
    """Write a model in another form.

    \b
    ctcspeech lm convert lm.arpa.gz lm.bin
    ctcspeech lm convert lm.arpa small.bin --kind trie --probability-bits 8 --backoff-bits 8
    ctcspeech lm convert small.bin lm.arpa
    ctcspeech lm convert kenlm.bin lm.bin

    A KenLM binary of kind trie can become anything, one of kind probing only another probing
    binary: it keeps hashes of its n-grams.
    """
    from ctcspeech.lm.convert import convert as convert_model

    try:
        convert_model(
            source,
            target,
            kind,
            probability_bits=probability_bits,
            backoff_bits=backoff_bits,
            unknown_log10=unknown,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


@app.command()
def info(
    model: Path = MODEL,
    verify: bool = typer.Option(False, "--verify", help="Read all of it and check its checksums."),
) -> None:
    """What a model holds.

    \b
    ctcspeech lm info lm.bin --verify
    """
    from ctcspeech.lm.files import file_kind
    from ctcspeech.lm.model import LanguageModel

    lm = LanguageModel.load(model, verify=False)
    facts = lm.info()
    binary = facts["mapped"]
    print(f"{'file':<18} {model} ({model.stat().st_size / 1e6:.1f} MB)")
    foreign = {"kenlm": f"KenLM's {facts['kind']}", "arpa": "ARPA"}
    print(f"{'kind':<18} {foreign.get(file_kind(model), facts['kind'])}")
    print(f"{'order':<18} {facts['order']}")
    for n, count in enumerate(facts["counts"], 1):
        print(f"{f'{n}-grams':<18} {count}")
    unknown = lm.full_scores(["\ufffd\ufffd"], bos=False, eos=False)[0].log10
    listed = "" if facts["has_unknown"] else " (not listed in the source: a default)"
    print(f"{'log10 P(<unk>)':<18} {unknown:.4f}{listed}")
    for name in ("probability_bits", "backoff_bits"):
        if facts[name]:
            print(f"{name.replace('_', ' '):<18} {facts[name]}")
    if binary:
        print(f"{'format version':<18} {facts['version']}")
    if verify:
        lm.verify()
        print(f"{'checksums':<18} right")


@app.command()
def mix(
    first: Path = typer.Argument(
        help="An ARPA file or a trie binary.", exists=True, dir_okay=False
    ),
    second: Path = typer.Argument(help="The other.", exists=True, dir_okay=False),
    target: Path = typer.Argument(help="The file to write."),
    text: Path = typer.Option(None, help="Fit the weight on this text, a sentence a line."),
    weight: float = typer.Option(None, min=0.0, max=1.0, help="The first model's weight."),
    kind: str = KIND,
) -> None:
    """Interpolate two models into one.

    \b
    ctcspeech lm mix general.arpa domain.arpa mixed.bin --text dev.txt
    ctcspeech lm mix general.arpa domain.arpa mixed.arpa --weight 0.3

    The result lists the n-grams of both with P = weight P1 + (1 - weight) P2. Fit the weight on
    text that neither model was estimated from, else it goes to the model that has seen it.
    """
    from ctcspeech.lm.convert import fit_mixture
    from ctcspeech.lm.convert import mix as mix_models
    from ctcspeech.lm.model import LanguageModel

    if (text is None) == (weight is None):
        raise typer.BadParameter("give one of --text and --weight")
    lines: list[bytes] = [] if text is None else list(read_lines([text]))
    if weight is None:
        models = [LanguageModel.load(path) for path in (first, second)]
        sentences = [line.decode("utf-8", "replace") for line in lines]
        weight = fit_mixture(models[0], models[1], sentences)
        for path, lm in zip((first, second), models, strict=True):
            print(f"{path}: perplexity {lm.score_text(lines).perplexity_without_oov:.2f}")
        print(f"weight of {first}: {weight:.4f}")
    if kind is None:
        kind = "arpa" if target.name.endswith((".arpa", ".arpa.gz")) else "probing"
    try:
        mix_models(first, second, target, weight, kind)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if text is not None:
        score = LanguageModel.load(target).score_text(lines)
        print(f"{target}: perplexity {score.perplexity_without_oov:.2f} (without OOV)")
