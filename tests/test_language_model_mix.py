"""Interpolation of two n-gram models."""

import math

import pytest
from test_language_model import load, random_arpa, random_sentences

from ctcspeech import LanguageModel
from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.convert import convert, fit_mixture, mix


def normalised(tmp_path, name, words, counts):
    """A proper bigram model: each distribution sums to 1."""
    unigrams = {"<unk>": 0.1, "</s>": 0.2} | {w: 0.7 / len(words) for w in words}
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(counts)}", "\\1-grams:"]
    contexts = {h for h, _ in counts}
    weights = {}
    for h in contexts:
        listed = {w: p for (g, w), p in counts.items() if g == h}
        below = 1 - sum(unigrams[w] for w in listed)
        weights[h] = math.log10((1 - sum(listed.values())) / below)
    for w, p in [("<s>", 1e-99), *unigrams.items()]:
        lines.append(f"{math.log10(p):.7f}\t{w}\t{weights.get(w, 0):.7f}")
    lines += ["\\2-grams:"]
    lines += [f"{math.log10(p):.7f}\t{h} {w}" for (h, w), p in counts.items()]
    return load(tmp_path, "\n".join([*lines, "\\end\\", ""]), name)


@pytest.fixture
def pair(tmp_path):
    first = {("<s>", "a"): 0.5, ("a", "b"): 0.4, ("a", "a"): 0.3, ("b", "</s>"): 0.9}
    second = {("<s>", "c"): 0.7, ("a", "b"): 0.1, ("c", "b"): 0.6, ("b", "a"): 0.25}
    return (
        normalised(tmp_path, "first.arpa", ["a", "b"], first),
        normalised(tmp_path, "second.arpa", ["a", "b", "c"], second),
        [*first, *second],
    )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_listed_bigrams_and_sums(tmp_path, pair, weight):
    first, second, listed = pair
    mix(first.path, second.path, tmp_path / "mixed.arpa", weight, "arpa")
    mixed = LanguageModel.load(tmp_path / "mixed.arpa")
    words = ["a", "b", "c", "</s>", "<unk>"]

    def probability(model, history, word):
        if word != "<unk>" and word not in model:
            return 0.0
        return 10 ** model.full_scores([history, word], False, False)[1].log10

    for history, word in listed:
        expected = weight * probability(first, history, word)
        expected += (1 - weight) * probability(second, history, word)
        assert probability(mixed, history, word) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    for history in ("<s>", "a", "b", "c", "<unk>"):
        assert sum(probability(mixed, history, w) for w in words) == pytest.approx(1, abs=1e-5)


def test_sums_of_a_larger_model(tmp_path):
    """Proper models mix into a proper model, in contexts of every length."""
    load(tmp_path, random_arpa(1, 3, words=4), "r1.arpa")
    load(tmp_path, random_arpa(2, 4, words=6), "r2.arpa")
    # The random models are not proper; a mix with weight 1 puts that right above the unigrams.
    for name in ("r1", "r2"):
        mix(
            tmp_path / f"{name}.arpa",
            tmp_path / f"{name}.arpa",
            tmp_path / f"{name}.bin",
            1,
            "trie",
        )
    mix(tmp_path / "r1.bin", tmp_path / "r2.bin", tmp_path / "mixed.bin", 0.4)
    mixed = LanguageModel.load(tmp_path / "mixed.bin")
    words = [w for w in mixed.vocabulary if w != "<s>"]
    unigrams = sum(10 ** mixed.score([w], False, False) for w in words)
    checked = 0
    for sentence in random_sentences(4, 60, 6):
        state = mixed.begin_state()
        for word in sentence.split():
            state = mixed.score_word(state, word)[1]
            total = sum(10 ** mixed.score_word(state, w)[0] for w in words)
            if len(state.words) == 0:
                assert total == pytest.approx(unigrams, rel=1e-4)
                checked += 1
    assert checked > 0


def test_weight_is_the_most_probable(pair):
    first, second, _ = pair
    text = ["a b", "c b", "a b b", "c a", "zzz a"]
    weight = fit_mixture(first, second, text)

    def log10(w):
        total = 0.0
        for line in text:
            for a, b in zip(first.full_scores(line), second.full_scores(line), strict=True):
                p = (0 if a.oov else w * 10**a.log10) + (0 if b.oov else (1 - w) * 10**b.log10)
                total += math.log10(p) if p > 0 else 0
        return total

    best = max((k / 1000 for k in range(1, 1000)), key=log10)
    assert weight == pytest.approx(best, abs=2e-3)
    with pytest.raises(LanguageModelError, match="no word"):
        fit_mixture(first, second, [])


def test_wrong_arguments(tmp_path, pair):
    first, second, _ = pair
    with pytest.raises(ValueError, match="first_weight"):
        mix(first.path, second.path, tmp_path / "m", 1.5)
    convert(first.path, tmp_path / "p.bin")
    with pytest.raises(LanguageModelError, match="only hashes"):
        mix(tmp_path / "p.bin", second.path, tmp_path / "m", 0.5)
