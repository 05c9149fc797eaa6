"""A language model of words in a search over labels: against sums over whole texts."""

import itertools
import math

import numpy as np
import pytest
from attention_table import Table, ctc_probabilities, distributions
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.decode.attention import AttentionSearch
from ctcspeech.decode.fusion import WordFusion
from ctcspeech.errors import DecoderError
from ctcspeech.lm.model import LanguageModel
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet.from_text(["ab ba"])
PIECES = Alphabet.of_pieces(["<blank>", "▁a", "▁ab", "a", "b"], 0)
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.3\t<unk>
-99\t<s>\t-0.4
-0.9\t</s>
-0.5\ta\t-0.3
-0.8\tab\t-0.2
-1.1\tbba\t-0.1

\\2-grams:
-0.2\t<s> ab
-0.6\tab a
-0.3\ta </s>
-0.7\ta bba

\\end\\
"""


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(ARPA)
    return LanguageModel.load(path)


def share(lm, text, weight, word_score, unk_score):
    """What the definition gives a whole text, by the language model's scores of sentences."""
    words = text.split()
    unknown = sum(word not in ("a", "ab", "bba") for word in words)
    if unknown and unk_score is None:
        return -math.inf
    more = word_score * len(words) + (unknown * unk_score if unknown else 0.0)
    return weight * lm.score(words) * math.log(10) + more


def prefix_of(fusion, labels):
    prefix = fusion.start()
    for label in labels:
        prefix = fusion.extended(prefix, label)
    return prefix


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.integers(1, 3), max_size=9),
    weight=st.sampled_from([0.0, 0.4, 2.0]),
    word_score=st.sampled_from([0.0, -0.7, 1.5]),
    unk_score=st.sampled_from([None, 0.0, -2.0]),
)
@pytest.mark.parametrize("alphabet", [ALPHABET, PIECES], ids=["letters", "pieces"])
def test_a_whole_text_is_worth_what_the_definition_says(
    lm, alphabet, labels, weight, word_score, unk_score
):
    fusion = WordFusion(alphabet, lm, weight=weight, word_score=word_score, unk_score=unk_score)
    whole = fusion.ended(prefix_of(fusion, labels))
    want = share(lm, alphabet.decode(labels), weight, word_score, unk_score)
    assert fusion.value(whole) == pytest.approx(want, abs=1e-9)
    if math.isfinite(want):
        assert whole.pending == 0


def test_a_begun_word_is_worth_the_likeliest_that_it_can_become(lm):
    a, b = (ALPHABET.labels.index(x) for x in "ab")
    closed = WordFusion(ALPHABET, lm, weight=0.5, word_score=0.25)
    of_a, of_bba = -0.5 * math.log(10), -1.1 * math.log(10)
    for labels, want in (([a], of_a), ([a, b], -0.8 * math.log(10)), ([b, b], of_bba)):
        value = closed.value(prefix_of(closed, labels))
        assert value == pytest.approx(0.5 * want + 0.25, abs=1e-6)
    assert closed.value(prefix_of(closed, [b, a])) == -math.inf  # no word begins so
    open_ = WordFusion(ALPHABET, lm, weight=0.5, unk_score=-2.0)
    unknown = 0.5 * -1.3 * math.log(10) - 2.0
    assert open_.value(prefix_of(open_, [b, a])) == pytest.approx(unknown, abs=1e-6)
    assert open_.value(prefix_of(open_, [b])) == pytest.approx(0.5 * of_bba, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
@pytest.mark.parametrize("word_score", [0.0, 1.2])
@pytest.mark.parametrize("unk_score", [None, -1.0])
def test_a_wide_beam_finds_the_best_of_all_texts(
    lm, seed, ctc_weight, word_score, unk_score, monkeypatch
):
    monkeypatch.setattr("ctcspeech.decode.attention.SPARE", 5)  # labels of a text, at most
    log_probs = distributions(6, len(ALPHABET), seed, 0.5)
    table, ctc = Table(len(ALPHABET), 6), ctc_probabilities(log_probs, ALPHABET.blank)
    labels = [i for i in range(len(ALPHABET)) if i != ALPHABET.blank]

    def value(text):
        with np.errstate(divide="ignore"):
            of_ctc = ctc_weight * float(np.log(ctc.get(text, 0.0))) if ctc_weight else 0.0
        written = ALPHABET.decode(text)
        return (
            of_ctc
            + (1 - ctc_weight) * table.score(text)
            + share(lm, written, 0.6, word_score, unk_score)
        )

    every = [t for n in range(6) for t in itertools.product(labels, repeat=n)]
    ranked = sorted(every, key=value, reverse=True)[:3]
    fusion = WordFusion(ALPHABET, lm, weight=0.6, word_score=word_score, unk_score=unk_score)
    decoder = AttentionSearch(
        ALPHABET, 40.0, table, ctc_weight=ctc_weight, beam_size=10_000, longest=0.0, n_best=3,
        fusion=fusion,
    )  # fmt: skip
    (found,) = decoder.decode([np.concatenate([log_probs, np.zeros((6, 2))], axis=1)])
    assert [tuple(item.tokens) for item in found] == ranked
    for item in found:
        assert item.score == pytest.approx(value(tuple(item.tokens)), abs=1e-9)
        assert item.lm_score == pytest.approx(lm.score(item.text) * math.log(10), abs=1e-9)


def test_what_cannot_be_used_is_named(lm):
    with pytest.raises(DecoderError, match="no word that the labels"):
        WordFusion(Alphabet.from_text(["xyz"]), lm)
    for name, value in (("weight", -1.0), ("word_score", math.nan), ("unk_score", 1.0)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            WordFusion(ALPHABET, lm, **{name: value})
