"""Copies and pickles of language models, their states, and alphabets."""

import copy
import pickle

import pytest
from test_language_model import SMALL, random_arpa, random_sentences

from ctcspeech import Alphabet, LanguageModel
from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.convert import convert


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "m.arpa"
    path.write_text(random_arpa(3))
    return path


def scores(model):
    return [model.full_scores(text) for text in random_sentences(1)]


@pytest.mark.parametrize("kind", ["arpa", "probing", "trie"])
def test_models_by_path(arpa, tmp_path, monkeypatch, kind):
    path = tmp_path / f"m.{kind}"
    convert(arpa, path, kind)
    monkeypatch.chdir(tmp_path)
    model = LanguageModel.load(path.name)
    pickled = pickle.dumps(model)
    assert len(pickled) < 1000  # the path, not the n-grams
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert scores(again) == scores(model)
    assert copy.copy(model) is model and copy.deepcopy({"lm": model})["lm"] is model


def test_models_without_a_path(arpa):
    with open(arpa, "rb") as file:
        model = LanguageModel.read_arpa(file)
    again = pickle.loads(pickle.dumps(model))
    assert again.path is None and scores(again) == scores(model)
    assert list(pickle.loads(pickle.dumps(model.vocabulary))) == list(model.vocabulary)


def test_unknown_word_is_kept(tmp_path):
    path = tmp_path / "m.arpa"
    path.write_text(SMALL.replace("-1.0\t<unk>\n", "").replace("1=6", "1=5"))
    model = LanguageModel.load(path, unknown_log10=-7.5)
    again = pickle.loads(pickle.dumps(model))
    assert again.score("zebra", bos=False, eos=False) == -7.5


def test_another_file_in_its_place(arpa):
    pickled = pickle.dumps(LanguageModel.load(arpa))
    arpa.write_text(random_arpa(4))
    with pytest.raises(LanguageModelError, match="another model"):
        pickle.loads(pickled)
    arpa.unlink()
    with pytest.raises(LanguageModelError, match="the pickled model refers to this file"):
        pickle.loads(pickled)


def test_states(arpa):
    model = LanguageModel.load(arpa)
    _, state = model.score_word(model.begin_state(), "w1")
    _, state = model.score_word(state, "w2")
    for again in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state), copy.copy(state)):
        assert again == state and hash(again) == hash(state) and again.backoff == state.backoff
        for word in model.vocabulary:
            assert model.score_word(again, word) == model.score_word(state, word)
    for damaged in [([1], []), ([1] * 12, [0.0] * 12), ([1], [float("nan")])]:
        with pytest.raises(LanguageModelError):
            type(state).__new__(type(state)).__setstate__(damaged)


@pytest.mark.parametrize("kind", ["characters", "bytes", "sentencepiece"])
def test_alphabets(kind):
    texts = ["the cat sat on the mat", "a dog ate the cat"] * 5
    if kind == "sentencepiece":
        pytest.importorskip("sentencepiece")
    alphabet = Alphabet.from_text(texts, kind, size=15)
    ids = alphabet.encode("the dog sat")
    for again in (pickle.loads(pickle.dumps(alphabet)), copy.deepcopy(alphabet)):
        assert again == alphabet and hash(again) == hash(alphabet)
        assert again.encode("the dog sat") == ids and again.decode(ids) == "the dog sat"
