"""Searches with an attention decoder against enumeration of all texts."""

import itertools

import numpy as np
import pytest
from attention_table import Table, ctc_probabilities, distributions

from ctcspeech.decode.attention import AttentionRescorer, AttentionSearch
from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.ctc_prefix import CtcPrefixScorer
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet.from_text(["ab"])  # the blank, a, b (and a separator, if there is one)
BLANK = ALPHABET.blank
LABELS = [i for i in range(len(ALPHABET)) if i != BLANK]


def texts_up_to(length):
    for count in range(length + 1):
        yield from itertools.product(LABELS, repeat=count)


def rows_of(log_probs):
    return np.concatenate([log_probs, np.zeros((len(log_probs), 2))], axis=1)


def search(table, **options):
    wide = {"beam_size": 10_000, "longest": 0.0}
    decoder = AttentionSearch(ALPHABET, 40.0, table, **{**wide, **options})
    # So short a limit for the tests: all texts can be listed.
    return decoder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_prefix_probabilities_by_enumeration(seed, frames):
    log_probs = distributions(frames, len(ALPHABET), seed)
    truth = ctc_probabilities(log_probs, BLANK)
    scorer = CtcPrefixScorer(log_probs, BLANK)
    states = {(): scorer.start()}
    for text in texts_up_to(min(frames + 1, 4)):
        if text:
            scores, state = scorer.extend(states[text[:-1]], np.array([[text[-1]]]))
            states[text] = state
            begins = sum(p for other, p in truth.items() if other[: len(text)] == text)
            np.testing.assert_allclose(np.exp(scores[0, 0]), begins, atol=1e-12)
            if begins:
                assert scores[0, 0] == pytest.approx(np.log(begins), abs=1e-9)
        whole = truth.get(text, 0.0)
        np.testing.assert_allclose(np.exp(states[text].complete[0]), whole, atol=1e-12)


def test_prefixes_together_are_as_each_alone():
    log_probs = distributions(7, len(ALPHABET), 5)
    scorer = CtcPrefixScorer(log_probs, BLANK)
    labels = np.array([LABELS])
    scores, state = scorer.extend(scorer.start(), labels)
    again, both = scorer.extend(state.select(np.array([1, 0])), np.array([LABELS, LABELS]))
    for i, first in enumerate((LABELS[1], LABELS[0])):
        _, alone = scorer.extend(scorer.start(), np.array([[first]]))
        for k, second in enumerate(LABELS):
            want, after = scorer.extend(alone, np.array([[second]]))
            assert again[i, k] == pytest.approx(want[0, 0], abs=1e-12)
            row = both.select(np.array([i * len(LABELS) + k]))
            assert row.complete[0] == pytest.approx(after.complete[0], abs=1e-12)
    assert scores.shape == (1, len(LABELS))


def test_prefix_probabilities_of_labels_that_cannot_be():
    """-inf emissions, and frames by the thousand: no NaN, and what is possible stays exact."""
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]))
    scorer = CtcPrefixScorer(log_probs, 0)
    scores, state = scorer.extend(scorer.start(), np.array([[1, 2]]))
    np.testing.assert_allclose(np.exp(scores[0]), [0.5, 0.25], atol=1e-12)
    many = CtcPrefixScorer(distributions(3000, 3, 1), 0)
    scores, state = many.extend(many.start(), np.array([[1, 2]]))
    assert np.isfinite(scores).all() and np.isfinite(state.complete).all()
    assert (scores <= 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("more", [{}, {"length_normalization": 0.8}, {"coverage": 0.7}])
def test_a_wide_beam_finds_the_best_of_all_texts(seed, weight, more, monkeypatch):
    monkeypatch.setattr("ctcspeech.decode.attention.SPARE", 5)  # labels of a text, at most
    frames = 5
    log_probs = distributions(frames, len(ALPHABET), seed, 0.5)
    ctc, table = ctc_probabilities(log_probs, BLANK), Table(len(ALPHABET), frames, seed)

    def value(text):
        with np.errstate(divide="ignore"):
            of_ctc = float(np.log(ctc.get(text, 0.0)))
        mixed = (1 - weight) * table.score(text) if weight < 1 else 0.0
        mixed += weight * of_ctc if weight else 0.0
        norm = ((5 + len(text) + 1) / 6) ** more.get("length_normalization", 0.0)
        return mixed / norm + more.get("coverage", 0.0) * table.covered(text)

    ranked = sorted(texts_up_to(5), key=value, reverse=True)
    (found,) = search(table, ctc_weight=weight, n_best=3, **more).decode([rows_of(log_probs)])
    assert [tuple(item.tokens) for item in found] == ranked[:3]
    for item in found:
        text = tuple(item.tokens)
        assert item.score == pytest.approx(value(text), abs=1e-9)
        assert item.attention_score == pytest.approx(table.score(text), abs=1e-9)
        if weight:
            assert item.ctc_score == pytest.approx(np.log(ctc[text]), abs=1e-9)


def test_a_narrow_beam_is_the_greedy_text():
    table = Table(len(ALPHABET), 6, 3)
    text = []
    for _ in range(4):
        row = table.row(tuple(text))
        row[[BLANK, table.end]] = -np.inf
        text.append(int(row.argmax()))
    decoder = search(table, beam_size=1, n_best=50)
    (found,) = decoder.decode([rows_of(distributions(6, len(ALPHABET), 0))])
    assert {tuple(text[:k]) for k in range(4)} <= {tuple(item.tokens) for item in found}


def test_rescoring_by_both_opinions():
    frames = 5
    log_probs = distributions(frames, len(ALPHABET), 11, 0.5)
    ctc, table = ctc_probabilities(log_probs, BLANK), Table(len(ALPHABET), frames, 4)
    beam = BeamDecoder(ALPHABET, beam_size=500, beam_threshold=1e9, token_min_logp=-1e9, n_best=30)
    for weight in (0.0, 0.3, 1.0):
        rescorer = AttentionRescorer(beam, table, ctc_weight=weight, n_best=30)
        (found,) = rescorer.decode([rows_of(log_probs)])
        ((*listed,),) = beam.decode([log_probs])
        assert sorted(item.text for item in found) == sorted(item.text for item in listed)
        scores = {item.text: item for item in listed}
        for item in found:
            own = table.score(tuple(item.tokens))
            assert item.attention_score == pytest.approx(own, abs=1e-9)
            want = weight * scores[item.text].score + (1 - weight) * own
            assert item.score == pytest.approx(want, abs=1e-9)
        values = [item.score for item in found]
        assert values == sorted(values, reverse=True)
    # By the attention decoder alone: the best of what CTC can say at all, among those listed.
    (found,) = AttentionRescorer(beam, table, ctc_weight=0).decode([rows_of(log_probs)])
    listed_tokens = [tuple(item.tokens) for item in listed]
    assert tuple(found[0].tokens) == max(listed_tokens, key=table.score)
    assert all(ctc[text] > 0 for text in listed_tokens)


def test_times_of_words():
    alphabet = Alphabet.from_text(["ab ba"])
    a, b, space = (alphabet.labels.index(x) for x in "ab ")
    path = [0, a, a, b, 0, 0, space, b, b, 0, a, 0]
    log_probs = np.full((12, len(alphabet)), np.log(0.02))
    log_probs[np.arange(12), path] = np.log(1 - 0.02 * (len(alphabet) - 1))

    class Certain:
        end = len(alphabet)
        wanted = [a, b, space, b, a, end]

        def attend(self, states):
            return self

        def start(self):
            return [0]

        def step(self, labels, state):
            rows = np.full((len(labels), self.end + 1), np.log(0.01))
            weights = np.full((len(labels), 12), 0.01)
            for i, k in enumerate(state):
                rows[i, self.wanted[min(k, 5)]] = np.log(0.9)
                weights[i, 2 * min(k, 5)] = 0.9
            return rows, weights, [k + 1 for k in state]

        def select(self, state, rows):
            return [state[i] for i in rows]

        def read(self, texts):
            values = np.full((1, len(texts[0]) + 1), np.log(0.9))
            return values, np.zeros((1, len(texts[0]) + 1, 12))

    rows = np.concatenate([log_probs, np.zeros((12, 1))], axis=1)
    for weight, times in ((0.5, [(1, 4), (7, 11)]), (0.0, [(0, 3), (6, 9)])):
        decoder = AttentionSearch(alphabet, 10.0, Certain(), ctc_weight=weight)
        ((best,),) = decoder.decode([rows])
        assert best.text == "ab ba"
        assert [word.text for word in best.words] == ["ab", "ba"]
        got = [(round(word.start * 100), round(word.end * 100)) for word in best.words]
        assert got == times
        assert all(word.confidence == pytest.approx(0.9) for word in best.words)


def test_bad_input_is_refused():
    table = Table(len(ALPHABET), 3)
    with pytest.raises(ValueError, match="ctc_weight must be 0 to 1, got 1.5"):
        AttentionSearch(ALPHABET, 40.0, table, ctc_weight=1.5)
    with pytest.raises(ValueError, match="beam_size must be 1"):
        AttentionSearch(ALPHABET, 40.0, table, beam_size=0)
    decoder = AttentionSearch(ALPHABET, 40.0, table)
    with pytest.raises(ValueError, match=r"emissions\[0\] must be \(frames, 3 \+ H\)"):
        decoder.decode([np.zeros((3, len(ALPHABET)))])
    rows = rows_of(distributions(3, len(ALPHABET), 0))
    rows[1, -1] = np.nan
    with pytest.raises(DecoderError, match="frame 1"):
        decoder.decode([rows])
    ((empty,),) = decoder.decode([np.zeros((0, len(ALPHABET) + 2))])
    assert empty.text == "" and empty.words == []
