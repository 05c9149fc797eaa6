"""The beam decoder against enumeration of all labellings on tiny inputs, and its laws."""

import copy
import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import BeamDecoder, LanguageModel
from ctcspeech.decode.hypothesis import Hypothesis
from ctcspeech.emissions import Emissions
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

LN10 = math.log(10)
LABELS = ["-", " ", "a", "b"]
UNPRUNED = {"beam_size": 10**6, "beam_threshold": math.inf, "token_min_logp": -math.inf}

ARPA = r"""\data\
ngram 1=7
ngram 2=8

\1-grams:
-2.0	<unk>
-99	<s>	-0.3
-0.9	</s>
-0.5	a	-0.2
-0.8	b	-0.4
-1.1	ab	-0.1
-1.3	ba	-0.25

\2-grams:
-0.6	<s> a
-0.3	<s> ab
-0.9	a b
-0.2	b a
-0.4	ab ba
-0.7	ba ab
-0.35	ba </s>
-0.5	a </s>

\end\
"""

CHARACTERS = r"""\data\
ngram 1=6
ngram 2=5

\1-grams:
-2.0	<unk>
-99	<s>	-0.3
-0.9	</s>
-0.5	a	-0.2
-0.8	b	-0.4
-1.1	|	-0.1

\2-grams:
-0.6	<s> a
-0.9	a b
-0.2	b |
-0.4	| a
-0.35	b </s>

\end\
"""


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text(ARPA)
    return LanguageModel.load(path)


@pytest.fixture(scope="module")
def character_lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "characters.arpa"
    path.write_text(CHARACTERS)
    return LanguageModel.load(path)


def random_emissions(seed, frames, classes, scale=2.0):
    logits = scale * np.random.default_rng(seed).normal(size=(frames, classes))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def all_labellings(log_probs, blank=0):
    """{labelling: P_ctc} over every path."""
    frames, classes = log_probs.shape
    probabilities = np.exp(log_probs.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    out = {}
    for path in itertools.product(range(classes), repeat=frames):
        labelling = tuple(k for k, _ in itertools.groupby(path) if k != blank)
        p = math.prod(probabilities[t, c] for t, c in enumerate(path))
        out[labelling] = out.get(labelling, 0.0) + p
    return out


def texts_of(log_probs, labels=LABELS, blank=0):
    """{text: P_ctc}: every labelling counts, also those with separators at either end or several in
    a row, and every way of writing the text in pieces."""
    out = {}
    for labelling, p in all_labellings(log_probs, blank).items():
        text = "".join(labels[c] for c in labelling).replace("▁", " ").replace("|", " ")
        text = " ".join(text.split())
        out[text] = out.get(text, 0.0) + p
    return out


def best_by_enumeration(log_probs, score, labels=LABELS):
    """All (Q, text) with score(words) -> ln of everything but P_ctc or None, best first."""
    scored = []
    for text, p in texts_of(log_probs, labels).items():
        extra = score(text.split())
        if extra is not None and p > 0:
            scored.append((math.log(p) + extra, text))
    return sorted(scored, reverse=True)


def check_best(decoder, log_probs, score, labels=LABELS):
    """The best by enumeration is found, with its score; its tokens write it, in normal form."""
    ((top, *_),) = decoder.decode(log_probs)
    expected = best_by_enumeration(log_probs, score, labels)
    assert top.score == pytest.approx(expected[0][0], abs=1e-5)
    assert dict(map(reversed, expected))[top.text] == pytest.approx(expected[0][0], abs=1e-5)
    written = "".join(labels[token] for token in top.tokens).replace("▁", " ").replace("|", " ")
    assert " ".join(written.split()) == top.text
    assert not written.endswith(" ") and ("▁" in labels or "  " not in written)
    exact = math.log(texts_of(log_probs, labels)[top.text])
    assert decoder.exact_ctc_score(log_probs, top) == pytest.approx(exact, abs=1e-5)
    return top, expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(2, 4), st.floats(0.1, 6))
def test_unpruned_search_without_lm_finds_the_most_probable_labelling(seed, frames, classes, scale):
    log_probs = random_emissions(seed, frames, classes, scale)
    blank = seed % classes
    labels = [chr(ord("a") + c) for c in range(classes)]
    decoder = BeamDecoder(labels, blank=blank, **UNPRUNED)
    ((top,),) = decoder.decode(log_probs)
    probability = all_labellings(log_probs, blank)
    assert math.exp(top.score) == pytest.approx(max(probability.values()), rel=1e-5)
    assert probability[tuple(top.tokens)] == pytest.approx(max(probability.values()), rel=1e-5)
    assert top.text == "".join(labels[c] for c in top.tokens)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(-1, 3), st.booleans())
def test_unpruned_search_with_words_finds_the_highest_q(lm, seed, lm_weight, word_score, eos):
    log_probs = random_emissions(seed, 6, 4)
    decoder = BeamDecoder(
        LABELS, lm, lm_weight=lm_weight, word_score=word_score, recombine=False,
        end_of_sentence=eos, **UNPRUNED,
    )  # fmt: skip

    def score(words):
        if any(word not in ("a", "b", "ab", "ba") for word in words):
            return None
        return lm_weight * LN10 * lm.score(words, True, eos) + word_score * len(words)

    top, _ = check_best(decoder, log_probs, score)
    assert top.lm_score == pytest.approx(LN10 * lm.score(top.text, True, eos), abs=1e-5)
    assert top.ctc_score == pytest.approx(decoder.exact_ctc_score(log_probs, top), abs=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(-3, 1), st.sampled_from([0.5, math.inf]))
def test_open_vocabulary_charges_unknown_words(lm, seed, unk_score, at_once):
    log_probs = random_emissions(seed, 6, 4)
    decoder = BeamDecoder(
        LABELS, lm, lexicon=["a", "ab"], open_vocabulary=True, unk_score=unk_score, word_score=0.5,
        recombine=False, unknown_at_once=at_once, **UNPRUNED,
    )  # fmt: skip

    def score(words):
        known = [word if word in ("a", "ab") else "<unk>" for word in words]
        unknown = known.count("<unk>")
        return 0.5 * LN10 * lm.score(known) + 0.5 * len(words) + unk_score * unknown

    check_best(decoder, log_probs, score)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_model_over_characters(character_lm, seed):
    log_probs = random_emissions(seed, 5, 4)
    decoder = BeamDecoder(
        LABELS, character_lm, lm_unit="token", lm_weight=0.8, word_score=0.3, recombine=False,
        **UNPRUNED,
    )  # fmt: skip

    def score(words):
        names = list("|".join(words))
        return 0.8 * LN10 * character_lm.score(names) + 0.3 * len(words)

    check_best(decoder, log_probs, score)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(-2, 4), st.floats(-2, 4))
def test_hot_words_and_phrases_by_enumeration(lm, seed, phrase_weight, word_weight):
    log_probs = random_emissions(seed, 6, 4)
    decoder = BeamDecoder(
        LABELS, lm, lm_weight=0.7, word_score=0.2, recombine=False,
        hot_words={"a b": phrase_weight, "bb": word_weight}, **UNPRUNED,
    )  # fmt: skip

    def score(words):
        if any(word not in ("a", "b", "ab", "ba", "bb") for word in words):
            return None
        phrases = sum(pair == ("a", "b") for pair in itertools.pairwise(words))
        hot = phrase_weight * phrases + word_weight * words.count("bb")
        return 0.7 * LN10 * lm.score(words) + 0.2 * len(words) + hot

    check_best(decoder, log_probs, score)


def test_n_best_is_the_enumerated_list(lm):
    log_probs = random_emissions(3, 5, 4)
    decoder = BeamDecoder(LABELS, lm, n_best=6, recombine=False, **UNPRUNED)

    def score(words):
        if any(word not in ("a", "b", "ab", "ba") for word in words):
            return None
        return 0.5 * LN10 * lm.score(words) + 1.5 * len(words)

    (hypotheses,) = decoder.decode(log_probs)
    expected = best_by_enumeration(log_probs, score)[:6]
    assert [h.text for h in hypotheses] == [text for _, text in expected]
    assert [h.score for h in hypotheses] == pytest.approx([q for q, _ in expected], abs=1e-5)
    for h in hypotheses:
        assert h.ctc_score == pytest.approx(decoder.exact_ctc_score(log_probs, h), abs=1e-4)


PIECES = ["<pad>", "▁", "▁a", "a", "▁ab", "b"]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_all_pieces_that_write_a_text_count(lm, data):
    """Every way to write a text in pieces, with marks of words that nothing follows; separators
    among characters of more than one letter."""
    labels = data.draw(st.sampled_from([PIECES, ["-", "|", "a", "ab", "b"], ["-", "a", "aa", "b"]]))
    log_probs = random_emissions(data.draw(st.integers(0, 10**6)), 5, len(labels))
    kind = data.draw(st.sampled_from(["none", "closed", "open", "own"]))
    arguments = {"lm": lm, "word_score": 0.5, "lexicon": ["a", "b", "ab", "ba"]}
    if kind == "none":
        arguments = {}
    elif kind == "own":
        arguments["lm"] = NgramAsObject(lm)
    n_best = data.draw(st.sampled_from([1, 4]))
    decoder = BeamDecoder(
        labels, **arguments, recombine=False, n_best=n_best, open_vocabulary=kind == "open",
        unk_score=-1.0, **UNPRUNED,
    )  # fmt: skip

    def score(words):
        if kind == "none":
            return 0.0
        unknown = [word for word in words if word not in ("a", "b", "ab", "ba")]
        if unknown and kind != "open":
            return None
        known = ["<unk>" if word in unknown else word for word in words]
        return 0.5 * LN10 * lm.score(known) + 0.5 * len(words) - 1.0 * len(unknown)

    best_by_texts = best_by_enumeration(log_probs, score, labels)
    check_best(decoder, log_probs, score, labels)
    if n_best > 1:
        found = decoder.decode(log_probs)[0]
        assert [h.text for h in found] == [text for _, text in best_by_texts[:4]]
        for h, (q, _) in zip(found, best_by_texts, strict=False):
            assert h.score == pytest.approx(q, abs=1e-4)


def test_separators_at_the_start_and_in_a_row_write_nothing():
    emissions = np.log([[0.002, 0.99, 0.006, 0.002], [0.99, 0.002, 0.004, 0.004]])
    emissions = np.vstack([emissions, np.log([[0.004, 0.003, 0.003, 0.99]])])
    ((top,),) = BeamDecoder(LABELS, frame_shift_ms=10).decode(emissions)
    assert (top.text, top.tokens) == ("b", [3])
    assert [(w.start, w.end) for w in top.words] == [(pytest.approx(0.02), pytest.approx(0.03))]
    path = [1, 0, 1, 2, 0, 1, 1, 0, 1, 0, 1, 3, 1, 0, 1]
    for more in ({}, {"lexicon": ["a", "b"]}, {"n_best": 3}):
        top = BeamDecoder(LABELS, frame_shift_ms=10, **more).decode(spoken(path, 4))[0][0]
        assert (top.text, top.tokens) == ("a b", [2, 1, 3])
        frames = [(round(w.start * 100), round(w.end * 100)) for w in top.words]
        assert frames == [(3, 4), (11, 12)]


def test_n_best_with_recombination_has_different_texts_in_order(lm):
    batch = [random_emissions(seed, 60, 4) for seed in range(5)]
    one = BeamDecoder(LABELS, lm, beam_size=20).decode(batch)
    many = BeamDecoder(LABELS, lm, beam_size=20, n_best=12).decode(batch)
    for (top,), hypotheses in zip(one, many, strict=True):
        assert hypotheses[0].score >= top.score - 1e-4  # all alignments, also those pruned
        assert any(h.text == top.text for h in hypotheses)
        assert len({h.text for h in hypotheses}) == len(hypotheses) == 12
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for h in hypotheses:
            assert h.lm_score == pytest.approx(LN10 * lm.score(h.text), abs=1e-4)
            assert [word.text for word in h.words] == h.text.split()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_scores_of_an_n_best_list_are_exact(lm, data):
    """Readings set aside by a recombination, too: score parts against the forward algorithm and
    the language model; alone, a reading's sum may be lower, never higher."""
    frames = data.draw(st.integers(1, 150))
    log_probs = random_emissions(data.draw(st.integers(0, 10**6)), frames, 4, scale=3)
    hot = data.draw(st.sampled_from([None, {"a b": 2.0, "bb": -1.0}]))
    decoder = BeamDecoder(
        LABELS,
        data.draw(st.sampled_from([lm, NgramAsObject(lm), None])),
        lexicon=["a", "b", "ab", "ba"],
        open_vocabulary=data.draw(st.booleans()),
        unk_score=-2.0,
        hot_words=hot,
        beam_size=data.draw(st.sampled_from([2, 20, 200])),
        n_best=8,
        word_times=data.draw(st.booleans()),
        word_score=0.7,
    )
    hypotheses = decoder.decode(log_probs)[0]
    alone = decoder.replace(n_best=1).decode(log_probs)[0][0]
    assert alone.ctc_score <= decoder.exact_ctc_score(log_probs, alone) + 1e-4
    scores = [h.score for h in hypotheses]
    assert scores == sorted(scores, reverse=True)
    for h in hypotheses:
        if len(hypotheses) > 1:
            exact = decoder.exact_ctc_score(log_probs, h)
            assert h.ctc_score == pytest.approx(exact, abs=1e-4, rel=1e-6)
        words = h.text.split()
        bonus = 0.7 * len(words)
        if hot:
            bonus += 2.0 * sum(pair == ("a", "b") for pair in itertools.pairwise(words))
            bonus -= words.count("bb")
        known = ["a", "b", "ab", "ba"] + (["bb"] if hot else [])
        bonus -= 2.0 * sum(word not in known for word in words)
        if decoder.lm is not None:
            # A model of the user's own sees the words outside the lexicon, too.
            spelled = (
                words if decoder.lm is not lm else [w if w in known else "<unk>" for w in words]
            )
            assert h.lm_score == pytest.approx(LN10 * lm.score(spelled), abs=1e-4)
            bonus += 0.5 * h.lm_score
        if len(hypotheses) > 1:
            assert h.score - h.ctc_score == pytest.approx(bonus, abs=1e-3)


def test_n_best_with_recombination_finds_the_best_readings(lm):
    arguments = {"n_best": 10, "beam_size": 2000, "beam_threshold": 60.0, "token_min_logp": -60.0}
    found = possible = 0
    for seed in range(10):
        log_probs = random_emissions(seed, 14, 4, scale=3)
        decoder = BeamDecoder(LABELS, lm, **arguments)
        ours = {h.text: h.score for h in decoder.decode(log_probs)[0]}
        truth = decoder.replace(recombine=False, n_best=10).decode(log_probs)[0]
        possible += len(truth)
        for h in truth:
            assert ours.get(h.text, -math.inf) <= h.score + 1e-3
            found += ours.get(h.text, -math.inf) >= h.score - 1e-3
    assert found >= 0.97 * possible


@pytest.mark.parametrize("kind", ["object", "unigram"])
def test_alternatives_to_the_empty_prefix_survive_a_compaction(tmp_path, kind):
    # In a model without a state of its own at the start, "a " and nothing at all are one prefix.
    # What lost against the empty one must be kept with the others when prefixes are forgotten.
    folder = Path(__file__).parent / "golden" / "decoders"
    golden = json.loads((folder / "golden.json").read_text())
    lines = ["\\data\\", "ngram 1=5", "", "\\1-grams:", "-2\t<unk>", "-99\t<s>", "-1\t</s>"]
    lines += ["-0.5\tbad", "-0.6\ta", "", "\\end\\", ""]
    path = tmp_path / "unigram.arpa"
    path.write_text("\n".join(lines))
    lm = LanguageModel.load(path)
    decoder = BeamDecoder(
        golden["characters"], lm if kind == "unigram" else NgramAsObject(lm), word_score=3.0,
        lexicon=["bad", "a"], open_vocabulary=True, unk_score=1.0, beam_size=500,
        beam_threshold=30.0, token_min_logp=-15.0, n_best=20,
    )  # fmt: skip
    for item in golden["spoken"]:
        flat = 0.3 * np.array(item, dtype=np.float32)
        found = decoder.decode(flat)[0]
        assert len(found) == 20
        for h in found:
            assert h.ctc_score == pytest.approx(decoder.exact_ctc_score(flat, h), abs=1e-3)


class NgramAsObject:
    """The n-gram model by the protocol for models of the user's own."""

    def __init__(self, lm):
        self.lm = lm

    def begin_state(self):
        return self.lm.begin_state()

    def score(self, state, word):
        log10, state = self.lm.score_word(state, word)
        return LN10 * log10, state

    def finish(self, state):
        return LN10 * self.lm.score_end(state)


@pytest.mark.parametrize("open_vocabulary", [False, True])
def test_a_model_of_the_users_own(lm, open_vocabulary):
    arguments = {
        "lexicon": ["a", "b", "ab", "ba"],
        "open_vocabulary": open_vocabulary,
        "unk_score": -1.0,
        **UNPRUNED,
        "beam_size": 3000,
    }
    batch = [random_emissions(seed, 8, 4) for seed in range(4)]
    native = BeamDecoder(LABELS, lm, **arguments).decode(batch)
    own = BeamDecoder(LABELS, NgramAsObject(lm), **arguments).decode(batch)
    for (a,), (b,) in zip(native, own, strict=True):
        assert a.text == b.text
        assert a.score == pytest.approx(b.score, abs=1e-5)


def test_failure_in_a_model_of_the_users_own_reaches_the_caller():
    class Broken(NgramAsObject):
        def score(self, state, word):
            raise RuntimeError("no weights")

    class Nan(NgramAsObject):
        def score(self, state, word):
            return math.nan, state

    class Unhashable:
        def begin_state(self):
            return []

        def score(self, state, word):
            return -1.0, [*state, word]

    emissions = random_emissions(0, 10, 4)

    class Empty:
        def begin_state(self):
            return 0

    def decoder(model, state=0):
        model.begin_state = lambda: state
        return BeamDecoder(LABELS, model, threads=2)

    with pytest.raises(RuntimeError, match="no weights"):
        decoder(Broken(None)).decode([emissions] * 2)
    with pytest.raises(ValueError, match=r"score\(state, '[ab]+'\) .* returned NaN"):
        decoder(Nan(None)).decode(emissions)

    class Infinite(Nan):
        def score(self, state, word):
            return math.inf if word == "bb" else -1.0, state

        def begin_state(self):
            return 0

        def finish(self, state):
            return 0.0

    searching = decoder(Infinite(None))
    said_bb = spoken([0, 3, 0, 3, 0], 4)
    with pytest.raises(ValueError, match=r"score\(state, 'bb'\) .* returned \+inf"):
        searching.decode(said_bb)
    assert searching.decode(spoken([0, 2, 0], 4, 0.9999))[0][0].text == "a"  # it is not broken
    with pytest.raises(ValueError, match="'bb'"):
        searching.rescore([Hypothesis("bb", [3, 0, 3], 0.0, 0.0)], Infinite(None))
    with pytest.raises(TypeError, match="begin_state"):
        BeamDecoder(LABELS, Empty())
    ((top,),) = BeamDecoder(LABELS, Unhashable()).decode(emissions)
    assert top.lm_score == pytest.approx(-len(top.words))


# -- streams, batches, threads ------------------------------------------------------------------


def chunks_of(emissions, rng):
    start = 0
    while start < len(emissions):
        size = int(rng.integers(0, 40))
        yield emissions[start : start + size]
        start += size


@pytest.mark.parametrize("n_best", [1, 5])
@pytest.mark.parametrize("open_vocabulary", [False, True])
def test_stream_equals_offline(lm, n_best, open_vocabulary):
    decoder = BeamDecoder(
        LABELS, lm, beam_size=20, n_best=n_best, open_vocabulary=open_vocabulary, unk_score=-3
    )
    rng = np.random.default_rng(1)
    for seed, frames in enumerate([0, 1, 64, 333, 900]):
        emissions = random_emissions(seed, frames, 4, scale=3)
        (offline,) = decoder.decode(emissions)
        stream = decoder.stream()
        finals = []
        for chunk in chunks_of(emissions, rng):
            stream.accept(chunk)
            partial = stream.partial()
            assert partial.text.startswith(partial.final)
            assert not finals or partial.final.startswith(finals[-1])
            finals.append(partial.final)
        assert stream.num_frames == frames
        assert stream.finish() == offline
        if n_best == 1:
            assert all(offline[0].text.startswith(final) for final in finals)
        if frames == 900:
            assert len(finals[-1]) > 0.5 * len(offline[0].text)


def test_long_stream_stays_small(lm):
    decoder = BeamDecoder(LABELS, lm, beam_size=100, open_vocabulary=True)
    stream = decoder.stream()
    emissions = random_emissions(5, 20_000, 4, scale=2)
    for start in range(0, len(emissions), 500):
        stream.accept(emissions[start : start + 500])
        assert stream.num_bytes < 2_000_000
    (offline,) = decoder.decode(emissions)
    assert stream.finish() == offline
    ends = [word.end for word in offline[0].words]
    starts = [word.start for word in offline[0].words]
    assert all(a <= b for a, b in itertools.pairwise(starts)) and ends[-1] <= 20_000 * 0.02
    assert all(end <= start + 1e-9 for end, start in zip(ends, starts[1:], strict=False))


def test_threads_and_order_change_nothing(lm):
    batch = [random_emissions(seed, 20 + 31 * seed, 4) for seed in range(9)]
    decoder = BeamDecoder(LABELS, lm, beam_size=15, threads=1)
    expected = [decoder.decode(item)[0] for item in batch]
    for threads in (1, 2, 5):
        many = decoder.replace(threads=threads)
        assert many.decode(batch) == expected
        assert many.decode(batch[::-1]) == expected[::-1]


def test_padded_batches_and_kinds_of_arrays(lm):
    batch = [random_emissions(seed, 10 + 7 * seed, 4) for seed in range(3)]
    decoder = BeamDecoder(LABELS, lm)
    expected = decoder.decode(batch)
    lengths = [len(item) for item in batch]
    padded = np.full((3, max(lengths), 4), np.nan, np.float32)
    for i, item in enumerate(batch):
        padded[i, : len(item)] = item
    assert decoder.decode(padded, lengths) == expected
    tensor = torch.from_numpy(padded)
    assert decoder.decode(tensor, torch.tensor(lengths)) == expected
    assert decoder.decode([torch.from_numpy(item).requires_grad_() for item in batch]) == expected
    transposed = torch.from_numpy(np.ascontiguousarray(batch[2].T)).T
    assert decoder.decode(transposed) == expected[2:]
    logits = [item.astype(np.float64) + 3.25 for item in batch]
    for (a,), (b,) in zip(decoder.decode(logits), expected, strict=True):
        assert a.text == b.text and a.score == pytest.approx(b.score, abs=1e-4)

    class OnlyDlpack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    assert decoder.decode(OnlyDlpack(batch[1])) == expected[1:2]
    half = decoder.decode(torch.from_numpy(batch[0]).bfloat16())
    assert half == decoder.decode(torch.from_numpy(batch[0]).bfloat16().float().numpy())


def test_ties_are_broken_the_same_way():
    emissions = np.full((30, 4), -math.log(4), np.float32)
    first = BeamDecoder(LABELS, beam_size=7, n_best=5).decode([emissions] * 3)
    assert first[0] == first[1] == first[2]
    assert BeamDecoder(LABELS, beam_size=7, n_best=5).decode([emissions] * 3) == first


def test_context_carries_the_state(lm):
    emissions = random_emissions(11, 12, 4)
    decoder = BeamDecoder(LABELS, lm, **(UNPRUNED | {"beam_size": 2000}), recombine=False)
    for context in ("ba", "a b", "zz a"):
        ((top,),) = decoder.decode(emissions, context=context)
        both = LN10 * lm.score(f"{context} {top.text}", True, True)
        before = LN10 * lm.score(context, True, False)
        assert top.lm_score == pytest.approx(both - before, abs=1e-5)
    two = decoder.decode([emissions, emissions], context=["ba", None])
    assert two[0] == decoder.decode(emissions, context="ba")[0]
    assert two[1] == decoder.decode(emissions)[0]
    stream = decoder.stream(context="ba")
    stream.accept(emissions)
    assert stream.finish() == two[0]


def test_rescoring_by_another_model(lm):
    emissions = random_emissions(4, 40, 4)
    plain = BeamDecoder(LABELS, lexicon=["a", "b", "ab", "ba"], n_best=20, word_score=0.5)
    (hypotheses,) = plain.decode(emissions)
    rescored = plain.rescore(hypotheses, lm, lm_weight=2.0, word_score=1.0)
    assert sorted(h.text for h in rescored) == sorted(h.text for h in hypotheses)
    for h in rescored:
        expected = h.ctc_score + 2 * LN10 * lm.score(h.text) + 1.0 * len(h.text.split())
        assert h.score == pytest.approx(expected, abs=1e-4)
    scores = [h.score for h in rescored]
    assert scores == sorted(scores, reverse=True)
    same = plain.rescore(hypotheses, NgramAsObject(lm), lm_weight=2.0, word_score=1.0)
    assert [h.text for h in same] == [h.text for h in rescored]
    assert [h.score for h in same] == pytest.approx(scores, abs=1e-4)


# -- kinds of labels ----------------------------------------------------------------------------


def spoken(path, classes, confidence=0.9):
    """Emissions that say this path of labels."""
    rest = (1 - confidence) / (classes - 1)
    out = np.full((len(path), classes), math.log(rest), np.float32)
    out[np.arange(len(path)), path] = math.log(confidence)
    return out


def test_pieces(lm):
    labels = ["▁a", "b", "▁", "a", "▁b", "<unk>", "<pad>"]
    emissions = spoken([0, 6, 1, 6, 2, 3, 6, 4, 4, 3], 7)  # ▁a b, ▁ a, ▁b a
    decoder = BeamDecoder(labels, lm, blank=6)
    ((top,),) = decoder.decode(emissions)
    assert top.text == "ab a ba"
    assert top.tokens == [0, 1, 2, 3, 4, 3]
    frames = [(round(w.start / 0.02), round(w.end / 0.02)) for w in top.words]
    assert frames == [(0, 3), (5, 6), (7, 10)]
    assert BeamDecoder(labels, blank=6).decode(emissions)[0][0].text == "ab a ba"
    # The lexicon decides: "bb" is no word of the model.
    closed = BeamDecoder(labels, lm, blank=6).decode(spoken([4, 6, 1, 6], 7, 0.6))[0][0]
    assert closed.text in ("b", "b b", "ba", "b a")


def test_word_pieces():
    labels = ["[PAD]", "[UNK]", "a", "##b", "b"]
    emissions = spoken([2, 3, 0, 4, 3, 0, 3], 5)
    assert BeamDecoder(labels).decode(emissions)[0][0].text == "ab bbb"


def test_bytes():
    alphabet = Alphabet.from_text([], kind="bytes")
    path = []
    for label in alphabet.encode("é ü日"):
        path += [label, 0]
    emissions = spoken(path, len(alphabet))
    ((top,),) = BeamDecoder(alphabet).decode(emissions)
    assert top.text == "é ü日"
    ((top,),) = BeamDecoder(alphabet, lexicon=["é", "è", "ü日", "ü"]).decode(emissions)
    assert top.text == "é ü日"
    ((top,),) = BeamDecoder(alphabet, lexicon=["é", "ü"]).decode(emissions)
    assert set(top.text.split()) <= {"é", "ü"}


def test_many_labels_need_the_wide_trie():
    characters = [chr(0x4E00 + i) for i in range(3000)]
    labels = ["-", " ", *characters]
    words = ["".join(characters[i : i + 3]) for i in range(0, 3000, 3)]
    path = [2 + 30, 2 + 31, 2 + 32, 1, 2 + 300, 2 + 301, 2 + 302]
    emissions = spoken(path, len(labels), 0.5)
    emissions[1] = emissions[0]  # one character is heard as another
    ((top,),) = BeamDecoder(labels, lexicon=words, token_min_logp=-10).decode(emissions)
    assert top.text == f"{words[10]} {words[100]}"
    assert BeamDecoder(labels).decode(emissions)[0][0].text == "".join(
        labels[c] for c in [32, 34, 1, 302, 303, 304]
    )


def test_labels_without_word_marks(lm):
    labels = ["-", "a", "b"]
    emissions = spoken([1, 0, 2, 0], 3)
    ((top,),) = BeamDecoder(labels).decode(emissions)
    assert [word.text for word in top.words] == ["ab"]
    ((top,),) = BeamDecoder(labels, lexicon=["ba", "ab"]).decode(spoken([1, 0, 1, 0], 3, 0.4))
    assert top.text in ("ab", "ba")


def test_word_times_are_those_of_the_best_path(lm):
    path = [0, 2, 2, 3, 0, 0, 1, 0, 3, 3, 0, 2, 0]  # " ab ba"
    ((top,),) = BeamDecoder(LABELS, lm, frame_shift_ms=10).decode(spoken(path, 4))
    assert [(w.text, w.start, w.end) for w in top.words] == [
        ("ab", pytest.approx(0.01), pytest.approx(0.04)),
        ("ba", pytest.approx(0.08), pytest.approx(0.12)),
    ]
    ((plain,),) = BeamDecoder(LABELS, frame_shift_ms=10).decode(spoken(path, 4))
    assert all(w.confidence == pytest.approx(0.9, abs=1e-5) for w in plain.words)


def test_confidence_falls_where_another_word_is_as_likely(lm):
    path = [2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 3, 2, 0, 1, 0, 2, 0, 1, 0, 3]  # a b a ba a b
    sure = spoken(path, 4, 0.9999)
    unsure = sure.copy()
    unsure[4, 2] = unsure[4, 3]  # the second word is as much "a" as "b"
    decoder = BeamDecoder(LABELS, lm, lm_weight=0.1, end_of_sentence=False)
    ((clear,),) = decoder.decode(sure)
    ((doubtful,),) = decoder.decode(unsure)
    assert clear.text == "a b a ba a b"
    assert all(word.confidence > 0.9 for word in clear.words)
    confidences = [word.confidence for word in doubtful.words]
    assert confidences[1] < 0.7 and min(confidences[:1] + confidences[2:]) > 0.9


# -- hostile input --------------------------------------------------------------------------------


def test_frames_that_cannot_be_used(lm):
    good = random_emissions(0, 12, 4)
    decoder = BeamDecoder(LABELS, lm)
    for value, text in ((np.nan, "NaN"), (np.inf, r"\+inf")):
        bad = good.copy()
        bad[7, 2] = value
        with pytest.raises(DecoderError, match=rf"emissions\[1\]: frame 7 holds {text}"):
            decoder.decode([good, bad])
    bad = good.copy()
    bad[3] = -np.inf
    with pytest.raises(DecoderError, match="frame 3 holds nothing but -inf"):
        decoder.decode(bad)
    stream = decoder.stream()
    stream.accept(good)
    with pytest.raises(DecoderError, match="frame 15"):
        stream.accept(bad)
    with pytest.raises(DecoderError, match="has failed"):
        stream.partial()
    stream = decoder.stream()
    assert stream.finish()[0].text == ""
    with pytest.raises(DecoderError, match="is finished"):
        stream.accept(good)


def test_edges(lm):
    decoder = BeamDecoder(LABELS, lm, word_score=0.0)
    assert decoder.decode([]) == []
    ((empty,),) = decoder.decode(np.zeros((0, 4), np.float32))
    assert (empty.text, empty.tokens, empty.words) == ("", [], [])
    assert empty.score == pytest.approx(0.5 * LN10 * lm.score(""), abs=1e-6)
    with np.errstate(divide="ignore"):
        silence = np.log(np.array([[1.0, 0.0, 0.0, 0.0]] * 9))
    ((top,),) = decoder.decode(silence)
    assert top.text == "" and top.ctc_score == pytest.approx(0, abs=1e-6)
    # Certain letters that no word has: no hypothesis can produce them.
    with np.errstate(divide="ignore"):
        only_b = np.log(np.array([[0.0, 0.0, 0.0, 1.0]] * 3, np.float32))
    ((top,),) = BeamDecoder(LABELS, lexicon=["a"]).decode(only_b)
    assert top.score == -math.inf and top.text == ""
    # The recording ends within a word of a closed vocabulary, as it ought not.
    cut = spoken([2, 3, 1, 3, 3, 0], 4, 0.9999)
    ((top,),) = BeamDecoder(LABELS, lexicon=["ab", "ba"], beam_threshold=3).decode(cut)
    assert top.text == "ab" and [word.text for word in top.words] == ["ab"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_no_input_crashes(lm, data):
    frames = data.draw(st.integers(0, 30))
    special = st.sampled_from([0.0, -1.0, -80.0, 1e30, -1e30, 88.0, float("-inf")])
    rows = data.draw(
        st.lists(st.lists(special, min_size=4, max_size=4), min_size=frames, max_size=frames)
    )
    emissions = np.array(rows, np.float32).reshape(frames, 4)
    decoder = BeamDecoder(
        LABELS,
        data.draw(st.sampled_from([lm, None])),
        lexicon=data.draw(st.sampled_from([None, ["a"], ["ab", "b"]])),
        open_vocabulary=data.draw(st.booleans()),
        beam_size=data.draw(st.integers(1, 5)),
        beam_threshold=data.draw(st.sampled_from([0.1, 5.0, math.inf])),
        n_best=data.draw(st.integers(1, 3)),
        lm_weight=data.draw(st.sampled_from([0.0, 0.5, 30.0, -1.0])),
    )
    if np.isneginf(emissions).all(axis=1).any():
        with pytest.raises(DecoderError):
            decoder.decode(emissions)
        return
    for h in decoder.decode(emissions)[0]:
        assert not math.isnan(h.score) and h.score < math.inf


def test_a_frame_that_only_a_special_label_can_say(lm):
    emissions = random_emissions(0, 12, 5)
    emissions[6] = [-1e4, -1e4, -1e4, -1e4, 0.0]  # <unk>, which is never hypothesised
    for recombine in (False, True):
        ((top,),) = BeamDecoder([*LABELS, "<unk>"], lm, recombine=recombine).decode(emissions)
        assert top.score == -math.inf
        stream = BeamDecoder([*LABELS, "<unk>"], lm, recombine=recombine).stream()
        stream.accept(emissions)
        assert stream.partial().text.startswith(stream.partial().final)


@pytest.mark.parametrize("lm_weight", [0.0, -1.0, 0.5])
def test_words_that_are_impossible_to_a_model(lm, lm_weight):
    class NoA(NgramAsObject):
        def score(self, state, word):
            ln, state = super().score(state, word)
            return (-math.inf if word == "a" else ln), state

    emissions = random_emissions(4, 30, 4, scale=4)
    decoder = BeamDecoder(
        LABELS, NoA(lm), lexicon=["a", "b", "ba"], lm_weight=lm_weight, n_best=5, beam_threshold=30
    )
    found = decoder.decode(emissions)[0]
    assert all(math.isfinite(h.score) for h in found)
    # With a weight of 0 the model has no say.
    assert any("a" in h.text.split() for h in found) == (lm_weight == 0)


class CountsWords:
    """A model that can be pickled."""

    def begin_state(self):
        return 0

    def score(self, state, word):
        return -0.5 * len(word), state + 1


def test_copies_and_pickles(lm):
    emissions = random_emissions(2, 25, 4)
    for model in (lm, CountsWords(), None):
        decoder = BeamDecoder(
            LABELS, model, lexicon=["a", "b", "ab"],
            hot_words={"a b": 1.0}, n_best=3, frame_shift_ms=10,
        )  # fmt: skip
        expected = decoder.decode(emissions)
        for other in (copy.copy(decoder), copy.deepcopy(decoder), pickled(decoder)):
            assert other is not decoder and other.decode(emissions) == expected
        with pytest.raises(TypeError, match="stream"):
            pickle.dumps(decoder.stream())
    item = Emissions(emissions, LABELS, 0, 20.0)
    for other in (copy.deepcopy(item), pickled(item)):
        assert other.labels == LABELS and np.array_equal(other.scores, item.scores)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def test_wrong_arguments(lm, tmp_path):
    emissions = random_emissions(0, 5, 4)
    decoder = BeamDecoder(LABELS, lm)
    for bad, error in [
        (emissions[:, :3], ValueError),
        (emissions[0], ValueError),
        (emissions.astype(complex), TypeError),
        ([emissions, emissions[0]], ValueError),
    ]:
        with pytest.raises(error, match="emissions"):
            decoder.decode(bad)
    for lengths in ([6], [-1], [1, 2], [1.5]):
        with pytest.raises(ValueError, match="lengths"):
            decoder.decode(emissions, lengths)
    for name, value in [
        ("beam_size", 0), ("beam_threshold", -1.0), ("token_min_logp", 1.0), ("n_best", 0),
        ("lm_weight", math.nan), ("word_score", math.inf), ("blank", 4), ("lm_unit", "letter"),
        ("frame_shift_ms", 0.0), ("threads", 0), ("separator", "|"), ("hot_words", {" ": 1.0}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            BeamDecoder(LABELS, lm, **{name: value})
    with pytest.raises(TypeError, match="lexicon"):
        BeamDecoder(LABELS, lexicon="words")
    with pytest.raises(TypeError, match="lm must be"):
        BeamDecoder(LABELS, 3)
    with pytest.raises(DecoderError, match="none of the 4 words"):
        BeamDecoder(["-", " ", "A", "B"], lm)
    with pytest.raises(ValueError, match="context"):
        decoder.decode([emissions, emissions], context="a")
    with pytest.raises(FileNotFoundError):
        BeamDecoder(LABELS, tmp_path / "none.arpa")


def test_lexicon_counts(lm):
    decoder = BeamDecoder(LABELS, lm, lexicon=["a", "ab", "a", "abc"], hot_words=["bbb"])
    assert (decoder.lexicon_size, decoder.words_skipped) == (3, 1)


# -- real work ------------------------------------------------------------------------------------


@pytest.mark.data
def test_wider_beams_never_lose_q(data_folder, tmp_path):
    """On the simulated emissions with a bigram of their own references: mean exact Q by beam."""
    stored = np.load(data_folder / "emissions_sim" / "dev.npz")
    emissions = [stored[f"e{i}"] for i in range(20)]
    words = sorted({word for text in stored["refs"] for word in str(text).split()})
    arpa = ["\\data\\", f"ngram 1={len(words) + 3}", "", "\\1-grams:", "-99\t<s>", "-2\t</s>"]
    arpa += ["-9\t<unk>", *(f"-3.2\t{word}" for word in words), "", "\\end\\", ""]
    path = tmp_path / "unigram.arpa"
    path.write_text("\n".join(arpa))
    wide = BeamDecoder(list(stored["labels"]), str(path), lm_weight=0.6, word_score=2.5)

    def mean_q(beam, threshold, minimum):
        decoder = wide.replace(
            beam_size=beam, beam_threshold=threshold, token_min_logp=minimum, word_times=False
        )
        total = 0.0
        for item, (top,) in zip(emissions, decoder.decode(emissions), strict=True):
            total += top.score - top.ctc_score + decoder.exact_ctc_score(item, top)
        return total / len(emissions)

    beams = [mean_q(beam, 15, -8) for beam in (4, 16, 64, 256)]
    assert beams == sorted(beams)
    all_wider = [mean_q(4, 8, -4), mean_q(16, 10, -5), mean_q(100, 15, -8), mean_q(400, 18, -9)]
    assert all_wider == sorted(all_wider)


def test_no_alternative_goes_round_in_circles():
    # "dad a" and "dad a dad a" are one state of the model: going on from one in place of the other
    # must not be done again where it would end.
    folder = Path(__file__).parent / "golden" / "decoders"
    golden = json.loads((folder / "golden.json").read_text())
    decoder = BeamDecoder(
        golden["characters"], LanguageModel.load(folder / "lm.arpa"), word_score=1.0,
        open_vocabulary=True, unk_score=-14.0, beam_size=500, beam_threshold=30.0,
        token_min_logp=-15.0, n_best=20,
    )  # fmt: skip
    for item in golden["spoken"]:
        flat = 0.5 * np.array(item, dtype=np.float32)
        for found in decoder.decode(flat)[0]:
            # Enough frames for its labels: an alignment exists.
            assert np.isfinite(decoder.exact_ctc_score(flat, found)), found.text
