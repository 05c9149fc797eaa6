"""N-gram models in another form, and two models as one.

convert("lm.arpa.gz", "lm.bin", kind="trie")
mix("general.arpa", "domain.arpa", "mixed.bin", first_weight=0.3)
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from ctcspeech._core import NgramTable
from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.files import DEFAULT_UNKNOWN, check_kind, file_kind, read_table, write_table
from ctcspeech.lm.model import LanguageModel

__all__ = ["convert", "fit_mixture", "mix"]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str | None = None,
    *,
    probability_bits: int = 0,
    backoff_bits: int = 0,
    unknown_log10: float = DEFAULT_UNKNOWN,
) -> None:
    """Writes the model of one file (ARPA, a binary of this package or of KenLM) in another form.

    `kind` is `arpa`, `probing` or `trie`; by default `arpa` if the target's name ends in `.arpa`
    (then perhaps `.gz`), else `probing`. A trie may be quantised: `probability_bits` (1 to 24) and
    `backoff_bits` (2 to 24) are the bits of a number, 0 keeps the 32 of a float; 8 and 8 change
    scores by about 0.01 each.

    Raises LanguageModelError if the source is damaged, or is of kind `probing` and the target is
    not: a probing binary keeps hashes of its n-grams and cannot list them.
    """
    source, target = Path(source), Path(target)
    if kind is None:
        name = target.name.lower()
        kind = "arpa" if name.endswith((".arpa", ".arpa.gz")) else "probing"
    check_kind(kind, probability_bits, backoff_bits)
    if kind == "probing" and file_kind(source) != "arpa":
        model = LanguageModel.load(source)
        if model.kind == "probing":
            return model.save(target)
    write_table(read_table(source, unknown_log10), target, kind, probability_bits, backoff_bits)


def mix(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    target: str | os.PathLike[str],
    first_weight: float,
    kind: str = "probing",
) -> None:
    """Writes one model that interpolates two: P = w P1 + (1 - w) P2 for every n-gram that either
    lists, with back-off weights that make the sum over all words 1 (Stolcke 2002, "SRILM").

    A word that one model lacks has the probability 0 there. The files may be ARPA or tries.
    """
    if not 0 <= first_weight <= 1:
        raise ValueError(f"first_weight must be from 0 to 1, got {first_weight}")
    check_kind(kind, 0, 0)
    tables = [read_table(Path(path)) for path in (first, second)]
    write_table(NgramTable.mix(tables[0], tables[1], first_weight), Path(target), kind)


def fit_mixture(
    first: LanguageModel,
    second: LanguageModel,
    sentences: Sequence[str],
    tolerance: float = 1e-5,
) -> float:
    """The weight of the first model with which `mix` gives the sentences the highest probability,
    by expectation maximisation (Dempster et al. 1977). Words that neither has are left out."""
    pairs = _mixture_pairs(first, second, sentences)
    if not pairs:
        raise LanguageModelError("no word of the text is in a vocabulary of the two models")
    weight = 0.5
    for _ in range(1000):
        total = 0.0
        for a, b in pairs:
            ours = weight * a
            total += ours / (ours + (1.0 - weight) * b)
        updated = total / len(pairs)
        change, weight = abs(updated - weight), updated
        if change < tolerance:
            break
    return weight


def _mixture_pairs(
    first: LanguageModel, second: LanguageModel, sentences: Sequence[str]
) -> list[tuple[float, float]]:
    pairs = []
    for sentence in sentences:
        scores = zip(first.full_scores(sentence), second.full_scores(sentence), strict=True)
        for a, b in scores:
            p, q = (0.0 if s.oov else math.pow(10.0, s.log10) for s in (a, b))
            if p > 0 or q > 0:
                pairs.append((p, q))
    return pairs
