"""Language models of one's own in torchaudio's interface, against enumeration and torchaudio."""

import copy
import itertools
import math
import pickle
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from ctcspeech.compat import torchaudio as ours
from ctcspeech.compat.torchaudio import CTCDecoderLM, CTCDecoderLMState, ctc_decoder

TOKENS = ["-", "|", "a", "b"]
LEXICON = "ab a b |\nba b a |\na a |\n"
END = -1


def table(size):
    """Scores of an index after another; END before the first and after the last."""
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(size + 1, size + 1, generator=generator) * -2).tolist()


class Tutorial:
    """States are nodes of the tree, as in torchaudio's tutorial; for either module's classes."""

    State: type

    def __init__(self, size):
        super().__init__()
        self.table = table(size)
        self.last = {}

    def start(self, start_with_nothing):
        assert start_with_nothing is False
        state = self.State()
        self.last[state] = END
        return state

    def score(self, state, usr_token_idx):
        after = state.child(usr_token_idx)
        self.last[after] = usr_token_idx
        return after, self.table[self.last[state]][usr_token_idx]

    def finish(self, state):
        return self.score(state, END)


class Bigrams(Tutorial, CTCDecoderLM):
    State = CTCDecoderLMState


def ln_lm(indices, size):
    path = [END, *indices, END]
    scores = table(size)
    return sum(scores[a][b] for a, b in itertools.pairwise(path))


def enumerate_texts(emissions, item_of):
    """ln of the summed probability of each reading, whatever item_of makes of a text."""
    sums = defaultdict(list)
    for path in itertools.product(range(len(TOKENS)), repeat=len(emissions)):
        labels = [k for k, _ in itertools.groupby(path) if k != 0]
        words = tuple("".join(TOKENS[k] for k in labels).replace("|", " ").split())
        item = item_of(words)
        if item is not None:
            sums[item].append(sum(float(row[k]) for row, k in zip(emissions, path, strict=True)))
    return {
        item: torch.tensor(values).double().logsumexp(0).item() for item, values in sums.items()
    }


def utterances(count, frames):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, frames, len(TOKENS), generator=generator) * 2
    return noise.log_softmax(-1)


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(LEXICON)
    return str(path)


@pytest.mark.parametrize("lm_weight", [0.5, 2.0])
def test_words_against_enumeration(lexicon, lm_weight):
    numbers = {"ab": 0, "ba": 1, "a": 2}
    options = {"lm_weight": lm_weight, "word_score": 0.7, "log_add": True, "beam_size": 1000}
    decoder = ctc_decoder(lexicon, TOKENS, lm=Bigrams(4), **options)
    for emissions in utterances(8, 5):
        sums = enumerate_texts(emissions, lambda w: w if set(w) <= set(numbers) else None)
        wanted = {
            words: value + lm_weight * ln_lm([numbers[w] for w in words], 4) + 0.7 * len(words)
            for words, value in sums.items()
        }
        best = max(wanted, key=wanted.get)
        (found,) = decoder(emissions[None])[0]
        assert tuple(found.words) == best
        assert found.score == pytest.approx(wanted[best], abs=1e-4)


def test_the_words_of_lm_dict_and_the_unknown_word(lexicon, tmp_path):
    names = tmp_path / "dict.txt"
    names.write_text("<unk>\na\nzebra\nba\nab\n")
    model = Bigrams(5)
    asked = set()
    score = model.score
    model.score = lambda state, index: asked.add(index) or score(state, index)
    ctc_decoder(lexicon, TOKENS, lm=model, lm_dict=str(names))(utterances(4, 8))
    assert asked == {END, 1, 3, 4}
    ctc_decoder(lexicon, TOKENS, lm=model, lm_dict=str(names), unk_score=0.0)(utterances(4, 8))
    assert asked == {END, 0, 1, 3, 4}
    names.write_text("a\nba\n")
    with pytest.raises(ValueError, match="has no 'ab'"):
        ctc_decoder(lexicon, TOKENS, lm=model, lm_dict=str(names))
    names.write_text("a\nba\nab\n")
    with pytest.raises(ValueError, match="has no '<unk>'"):
        ctc_decoder(lexicon, TOKENS, lm=model, lm_dict=str(names), unk_score=0.0)


def test_tokens_against_enumeration():
    decoder = ctc_decoder(None, TOKENS, lm=Bigrams(4), lm_weight=0.5, log_add=True, beam_size=1000)
    for emissions in utterances(8, 5):
        wanted = {
            words: value + 0.5 * ln_lm([TOKENS.index(c) for c in "|".join(words)], 4)
            for words, value in enumerate_texts(emissions, lambda words: words).items()
        }
        best = max(wanted, key=wanted.get)
        (found,) = decoder(emissions[None])[0]
        text = "".join(decoder.idxs_to_tokens(found.tokens))
        assert tuple(text.replace("|", " ").split()) == best
        assert found.score == pytest.approx(wanted[best], abs=1e-4)


def like_torchaudio(module, lexicon, **options):
    """The same class of a user's, derived from either module's."""

    class Model(Tutorial, module.CTCDecoderLM):
        State = module.CTCDecoderLMState

    return module.ctc_decoder(lexicon, TOKENS, lm=Model(4), **options), Model(4)


def test_words_against_torchaudio(lexicon, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    theirs = pytest.importorskip("torchaudio.models.decoder")
    names = tmp_path / "dict.txt"
    names.write_text("ab\nba\na\n<unk>\n")
    options = {"lm_weight": 1.3, "word_score": -0.2, "beam_size": 500, "lm_dict": str(names)}
    decoder, _ = like_torchaudio(ours, lexicon, **options)
    expected, model = like_torchaudio(theirs, lexicon, **options)
    mixed = ctc_decoder(lexicon, TOKENS, lm=model, **options)  # torchaudio's class, our decoder
    end = torch.full((1, len(TOKENS)), -20.0)  # theirs needs silence after the last word
    end[0, 1] = 0
    same = 0
    for emissions in utterances(30, 9):
        emissions = torch.cat([emissions, end])
        (found,), (wanted,) = decoder(emissions[None])[0], expected(emissions[None])[0]
        (third,) = mixed(emissions[None])[0]
        assert third.words == found.words and third.score == pytest.approx(found.score)
        if found.words == wanted.words:  # ours is the best by its sum, theirs by its best path
            same += 1
            assert found.score == pytest.approx(wanted.score, abs=1e-4)
    assert same >= 20


def test_states():
    state = CTCDecoderLMState()
    child = state.child(3)
    assert state.child(3) is child and state.children == {3: child}
    assert state.compare(state) == 0
    assert {state.compare(child), child.compare(state)} == {-1, 1}
    with pytest.raises(TypeError, match="abstract"):
        CTCDecoderLM()


def test_a_model_that_answers_nan_is_an_error_that_names_the_word(lexicon):
    model = Bigrams(4)
    model.score = lambda state, index: (state, math.nan)
    with pytest.raises(
        ValueError, match=r"score\(state, '(ab|ba|a)'\) of the language model returned NaN"
    ):
        ctc_decoder(lexicon, TOKENS, lm=model)(utterances(1, 9))


def test_copies_and_pickles(lexicon):
    arpa = Path(__file__).parent / "golden" / "decoders" / "lm.arpa"
    for lm in (Bigrams(4), str(arpa), None):
        decoder = ctc_decoder(lexicon, TOKENS, lm=lm, nbest=3)
        emissions = utterances(2, 10)
        wanted = [[(h.words, h.score) for h in item] for item in decoder(emissions)]
        for copied in (
            copy.copy(decoder), copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))
        ):  # fmt: skip
            found = copied(emissions)
            assert [[(h.words, h.score) for h in item] for item in found] == wanted
    decoder.decode_begin()
    with pytest.raises(TypeError, match="a stream cannot be copied"):
        pickle.dumps(decoder)
    decoder.decode_step(emissions[0])
    decoder.decode_end()
    ended = pickle.loads(pickle.dumps(decoder)).get_final_hypothesis()
    assert ended[0].words == wanted[0][0][0]
