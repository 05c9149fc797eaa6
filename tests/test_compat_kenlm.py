"""ctcspeech.compat.kenlm against the kenlm package, in the same run."""

import copy
import pickle

import pytest
from test_language_model import random_arpa, random_sentences

from ctcspeech.compat import kenlm as ours
from ctcspeech.errors import LanguageModelError

theirs = pytest.importorskip("kenlm")


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "m.arpa"
    path.write_text(random_arpa(2, order=4))
    return ours.Model(str(path)), theirs.Model(str(path))


def close(value):
    return pytest.approx(value, abs=1e-5)


def test_sentences(pair):
    model, expected = pair
    assert model.order == expected.order and model.path == expected.path
    for text in random_sentences(1, 100):
        for sentence in (text, text.encode()):
            assert model.perplexity(sentence) == pytest.approx(expected.perplexity(sentence), 1e-4)
            for bos in (True, False):
                for eos in (True, False):
                    total = expected.score(sentence, bos=bos, eos=eos)
                    assert model.score(sentence, bos=bos, eos=eos) == close(total)
                    rows = list(model.full_scores(sentence, bos=bos, eos=eos))
                    wanted = list(expected.full_scores(sentence, bos=bos, eos=eos))
                    assert [r[1:] for r in rows] == [w[1:] for w in wanted]
                    assert [r[0] for r in rows] == [close(w[0]) for w in wanted]


def test_words(pair):
    model, expected = pair
    for word in ["w0", "w11", "zebra", "<s>", "</s>", "<unk>", b"w0", b"zebra", b"\xff\xfe"]:
        assert (word in model) == (word in expected)


def test_states(pair):
    model, expected = pair
    for begin in ("BeginSentenceWrite", "NullContextWrite"):
        for text in random_sentences(2, 50):
            states = {ours: (ours.State(), ours.State()), theirs: (theirs.State(), theirs.State())}
            getattr(model, begin)(states[ours][0])
            getattr(expected, begin)(states[theirs][0])
            for word in text.split():
                (a, b), (c, d) = states[ours], states[theirs]
                assert model.BaseScore(a, word, b) == close(expected.BaseScore(c, word, d))
                full, wanted = model.BaseFullScore(a, word, b), expected.BaseFullScore(c, word, d)
                assert full.log_prob == close(wanted.log_prob)
                assert (full.ngram_length, full.oov) == (wanted.ngram_length, wanted.oov)
                states = {ours: (b, a), theirs: (d, c)}


def test_states_are_values(pair):
    model, expected = pair
    for package, lm in ((ours, model), (theirs, expected)):
        first, second, other = package.State(), package.State(), package.State()
        lm.BeginSentenceWrite(first)
        lm.BeginSentenceWrite(second)
        assert first == second and hash(first) == hash(second)
        lm.BaseScore(first, "w1", other)
        assert other != first and (first < other or other < first)
        assert copy.copy(other) == other
        lm.BaseScore(other, "w2", other)  # in place


def test_states_can_be_copied_deeply(pair):  # kenlm's cannot: its __deepcopy__ takes no argument
    state = ours.State()
    pair[0].BeginSentenceWrite(state)
    assert copy.deepcopy([state]) == [state] == pickle.loads(pickle.dumps([state]))


def test_loading(pair, tmp_path):
    model, expected = pair
    assert pickle.loads(pickle.dumps(model)).score("w1 w2") == model.score("w1 w2")
    assert pickle.loads(pickle.dumps(expected)).score("w1 w2") == close(model.score("w1 w2"))
    config = ours.Config()
    config.load_method = ours.LoadMethod.LAZY
    assert ours.LanguageModel(model.path, config).order == expected.order
    (tmp_path / "no.arpa").write_text("no model")
    for path in ("no.arpa", "nowhere.arpa"):
        with pytest.raises(OSError, match="Cannot read model"):
            theirs.Model(str(tmp_path / path))
        with pytest.raises(OSError, match="Cannot read model") as caught:
            ours.Model(str(tmp_path / path))
        assert isinstance(caught.value, LanguageModelError)


def test_every_name_is_there(pair):
    for name in theirs.__dict__:
        if not name.startswith("_") and name != "os":
            assert hasattr(ours, name), name
    for name in dir(theirs.Model):
        assert name.startswith("__") or hasattr(pair[0], name), name
