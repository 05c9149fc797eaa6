"""N-gram models: reading ARPA files and scoring, against the kenlm package and by hand."""

import gzip
import itertools
import random

import pytest

from ctcspeech import LanguageModel
from ctcspeech.errors import LanguageModelError

SMALL = """\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.9\t</s>
-0.7\ta\t-0.25
-0.8\tb\t-0.125
-0.6\tc

\\2-grams:
-0.3\t<s> a\t-0.0625
-0.4\ta b\t-0.03125
-0.5\tb a
-0.2\tb </s>

\\3-grams:
-0.1\t<s> a b
-0.15\ta b </s>

\\end\\
"""


def load(tmp_path, text, name="model.arpa", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return LanguageModel.load(path, **options)


def random_arpa(seed, order=4, words=12, share=0.5, zero_backoffs=True):
    """A random, closed set of n-grams: each has its prefix and its suffix."""
    rng = random.Random(seed)
    vocabulary = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(words)]
    levels = [[(w,) for w in vocabulary]]
    for _ in range(1, order):
        known = set(levels[-1])
        longer = []
        for gram, word in itertools.product(levels[-1], vocabulary):
            if word in ("<s>",) or gram[-1] == "</s>" or gram[1:] + (word,) not in known:
                continue
            if rng.random() < share:
                longer.append(gram + (word,))
        rng.shuffle(longer)
        levels.append(longer[:400])
        # keep it closed: a prefix may have been cut off
    lines = ["\\data\\"] + [f"ngram {n + 1}={len(g)}" for n, g in enumerate(levels)]
    for n, grams in enumerate(levels):
        lines += ["", f"\\{n + 1}-grams:"]
        for gram in grams:
            line = f"{-rng.random() * 4:.6f}\t{' '.join(gram)}"
            if n + 1 < order and rng.random() < 0.8:
                weight = 0 if zero_backoffs and rng.random() < 0.3 else -rng.random()
                line += f"\t{weight:.6g}"
            lines.append(line)
    return "\n".join([*lines, "", "\\end\\", ""])


def random_sentences(seed, count=200, words=12):
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(words)] + ["oov", "<unk>", "</s>"]
    return [" ".join(rng.choices(vocabulary, k=rng.randrange(12))) for _ in range(count)]


def test_scores_by_hand(tmp_path):
    model = load(tmp_path, SMALL)
    assert model.order == 3 and model.counts == [6, 4, 2]
    assert list(model.vocabulary) == ["<unk>", "<s>", "</s>", "a", "b", "c"]
    # <s> a, <s> a b, a b </s>: all listed
    assert model.score("a b") == pytest.approx(-0.3 - 0.1 - 0.15)
    # a after b is listed; b a b backs off to a b; b </s> after a is listed as a trigram
    assert model.score("b a b", bos=False) == pytest.approx(-0.8 - 0.5 - 0.4 - 0.15)
    # c after <s> a: backoffs of "<s> a" and "a", then the unigram
    scores = model.full_scores("a c zzz", eos=False)
    assert [s.order for s in scores] == [2, 1, 1] and [s.oov for s in scores] == [
        False,
        False,
        True,
    ]
    assert [s.log10 for s in scores] == pytest.approx([-0.3, -0.6 - 0.0625 - 0.25, -1.0])
    assert model.perplexity("a b") == pytest.approx(10 ** ((0.3 + 0.1 + 0.15) / 3))


def test_states_are_minimal(tmp_path):
    model = load(tmp_path, SMALL)
    _, after_c = model.score_word(model.begin_state(), "c")
    assert after_c == model.null_state() and after_c.words == []  # nothing continues c
    _, one = model.score_word(model.score_word(model.null_state(), "c")[1], "a")
    _, two = model.score_word(model.null_state(), "a")
    assert one == two and hash(one) == hash(two)
    assert two.words == [model.vocabulary.index("a")] and two.backoff == [-0.25]


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_kenlm(tmp_path, seed, order):
    kenlm = pytest.importorskip("kenlm")
    text = random_arpa(seed, order)
    model = load(tmp_path, text)
    witness = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in random_sentences(seed):
        for bos, eos in itertools.product((True, False), repeat=2):
            ours = model.full_scores(sentence, bos, eos)
            theirs = list(witness.full_scores(sentence, bos, eos))
            assert [s.log10 for s in ours] == pytest.approx([t[0] for t in theirs], abs=1e-6)
            assert [s[1:] for s in ours] == [t[1:] for t in theirs]
            assert model.score(sentence, bos, eos) == pytest.approx(
                witness.score(sentence, bos, eos), abs=1e-5
            )


def test_words_as_they_come(tmp_path):
    model = load(tmp_path, SMALL)
    assert model.vocabulary.index("") == 0 and "" not in model and "a" in model.vocabulary
    assert model.full_scores(["a", "b a", ""], eos=False)[1].oov  # a word of a list is not split
    assert model.score("  a\t b\n") == model.score(["a", "b"])
    assert model.score("a\u00a0b", eos=False) == model.score(["a\u00a0b"], eos=False)
    assert model.full_scores("\ud800")[0].oov
    with pytest.raises(IndexError):
        model.vocabulary[6]
    assert model.vocabulary[-1] == "c" and model.vocabulary[1:3] == ["<s>", "</s>"]


def test_gzip(tmp_path):
    plain = load(tmp_path, SMALL)
    packed = load(tmp_path, gzip.compress(SMALL.encode()), "model.arpa.gz")
    assert packed.score("a b c") == plain.score("a b c")
    with pytest.raises(LanguageModelError, match="decompressed"):
        load(tmp_path, gzip.compress(SMALL.encode())[:-12], "cut.gz")
