"""Estimated models against KenLM's lmplz (golden files, tests/golden/ngram/generate.py)."""

import bz2
import gzip
import importlib.util
import lzma
import math
import random
from pathlib import Path

import pytest

from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.build import build_language_model

GOLDEN = Path(__file__).parent / "golden" / "ngram"
_spec = importlib.util.spec_from_file_location("generate", GOLDEN / "generate.py")
assert _spec and _spec.loader
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

OPTIONS = {
    "order1": {"order": 1},
    "order3": {"order": 3},
    "order4_pruned": {"order": 4, "prune": (0, 0, 1, 1)},
    "order5_pruned": {"order": 5, "prune": (0, 1, 1, 2, 2)},
    "order3_vocabulary": {"order": 3, "vocabulary": generate.VOCABULARY},
    "order3_fallback": {"order": 3, "discount_fallback": (0.5, 1.0, 1.5)},
}


def read_arpa(lines):
    """{n-gram: (log10 probability, log10 back-off)}, and the counts of the header."""
    ngrams, counts = {}, {}
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith("ngram "):
            order, count = line[6:].split("=")
            counts[int(order)] = int(count)
        elif line and not line.startswith("\\"):
            fields = line.split("\t")
            ngrams[fields[1]] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return ngrams, counts


def build(tmp_path, text, **options):
    report = build_language_model([text], tmp_path / "lm.arpa", **options)
    with open(tmp_path / "lm.arpa", encoding="utf-8") as file:
        return (*read_arpa(file), report)


@pytest.mark.parametrize("name", generate.MODELS)
def test_equals_lmplz(name, tmp_path):
    text = GOLDEN / f"{generate.MODELS[name][0]}.txt"
    ngrams, counts, report = build(tmp_path, text, **OPTIONS[name])
    with gzip.open(GOLDEN / f"{name}.arpa.gz", "rt", encoding="utf-8") as file:
        expected, expected_counts = read_arpa(file)
    assert counts == expected_counts
    assert [o.kept for o in report.orders] == list(expected_counts.values())
    assert ngrams.keys() == expected.keys()
    for ngram, values in expected.items():
        assert ngrams[ngram] == pytest.approx(values, abs=1e-5), ngram


def test_spilling_to_disk_changes_nothing(tmp_path):
    """A text whose n-grams need several times the memory that is allowed."""
    chance = random.Random(1)
    text = tmp_path / "text.txt"
    with open(text, "w") as file:
        for _ in range(60_000):
            file.write(
                " ".join(f"w{int(chance.paretovariate(0.4)) % 9973}" for _ in range(12)) + "\n"
            )
    build_language_model([text], tmp_path / "all.arpa", order=4)
    report = build_language_model([text], tmp_path / "spilled.arpa", order=4, memory=16 << 20)
    assert report.bytes_on_disk > 16 << 20
    assert (tmp_path / "all.arpa").read_bytes() == (tmp_path / "spilled.arpa").read_bytes()


def test_probabilities_sum_to_one(tmp_path):
    """Over the vocabulary, behind every context, with back-off: the definition of a model."""
    ngrams, _, _ = build(tmp_path, GOLDEN / "text.txt", order=3, prune=(0, 0, 1))
    words = [w for w in ngrams if " " not in w and w != "<s>"]

    def probability(context, word):
        ngram = " ".join([*context, word])
        if ngram in ngrams:
            return 10 ** ngrams[ngram][0]
        backoff = 10 ** ngrams[" ".join(context)][1] if " ".join(context) in ngrams else 1.0
        return backoff * probability(context[1:], word)

    contexts = [(), ("<s>",), ("w0",), ("w0", "w1"), ("<s>", "w0"), ("w299", "w298")]
    contexts += [tuple(n.split()) for n in list(ngrams)[400:900:50] if n.count(" ") == 1]
    for context in contexts:
        assert math.fsum(probability(context, w) for w in words) == pytest.approx(1.0, abs=1e-5)


def test_pieces_compression_and_missing_newline(tmp_path):
    text = (GOLDEN / "text.txt").read_bytes()
    plain, counts, report = build(tmp_path, GOLDEN / "text.txt", order=2)
    with gzip.open(tmp_path / "text.txt.gz", "wb") as file:
        file.write(text.rstrip(b"\n"))
    assert build(tmp_path, tmp_path / "text.txt.gz", order=2) == (plain, counts, report)
    for name, packer in (("a.bz2", bz2), ("b.xz", lzma), ("c.txt", lzma)):  # told by the content
        (tmp_path / name).write_bytes(packer.compress(text))
        assert build(tmp_path, tmp_path / name, order=2) == (plain, counts, report)
    pieces = [text[i : i + 777] for i in range(0, len(text), 777)]
    build_language_model(pieces, tmp_path / "lm.arpa", order=2)
    assert read_arpa((tmp_path / "lm.arpa").read_text().splitlines())[0] == plain


def test_one_path_or_one_text(tmp_path):
    plain, _, report = build(tmp_path, GOLDEN / "text.txt", order=2)
    text = (GOLDEN / "text.txt").read_bytes()
    for one in (GOLDEN / "text.txt", str(GOLDEN / "text.txt"), text, bytearray(text)):
        again = build_language_model(one, tmp_path / "lm.arpa", order=2)
        assert again.orders == report.orders and again.words == report.words
        assert read_arpa((tmp_path / "lm.arpa").read_text().splitlines())[0] == plain


def test_vocabulary_size_keeps_the_most_frequent_words(tmp_path):
    ngrams, _, _ = build(tmp_path, GOLDEN / "text.txt", order=2, vocabulary_size=10)
    counts = {}
    for word in (GOLDEN / "text.txt").read_text().split():
        counts[word] = counts.get(word, 0) + 1
    frequent = sorted(counts, key=lambda w: -counts[w])
    kept = {n for n in ngrams if " " not in n} - {"<unk>", "<s>", "</s>"}
    assert len(kept) == 10
    assert min(counts[w] for w in kept) >= counts[frequent[10]]


def test_lines_can_be_split_into_characters(tmp_path):
    build_language_model(
        [b"ab ba\n" * 3 + b"abab\n"],
        tmp_path / "lm.arpa",
        order=2,
        discount_fallback=(0.5, 1, 1.5),
        map_line=lambda line: " ".join(line.replace(" ", "|")),
    )
    ngrams, _ = read_arpa((tmp_path / "lm.arpa").read_text().splitlines())
    assert {n for n in ngrams if " " not in n} == {"<unk>", "<s>", "</s>", "a", "b", "|"}


@pytest.mark.parametrize(
    "text, options, words",
    [
        (b"", {}, "empty"),
        (b"a b c\n", {"order": 2}, "--discount-fallback"),
        (b"x\na <s> b\n", {}, r'line 2 .*"<s>"'),
        (b"\xff\n", {"map_line": str}, "not UTF-8"),
    ],
)
def test_texts_without_a_model(text, options, words, tmp_path):
    with pytest.raises(LanguageModelError, match=words):
        build_language_model([text], tmp_path / "lm.arpa", **options)
    assert list(tmp_path.iterdir()) == []


def test_symbols_can_be_skipped(tmp_path):
    options = {"order": 1, "discount_fallback": (0.5, 1, 1.5)}
    build_language_model([b"a <s> b\n"], tmp_path / "a", skip_symbols=True, **options)
    build_language_model([b"a b\n"], tmp_path / "b", **options)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"order": 0}, "order"),
        ({"order": 13}, "order"),
        ({"prune": (1,)}, "begin with 0"),
        ({"order": 3, "prune": (0, 2, 1)}, "decrease"),
        ({"order": 1, "prune": (0, 0)}, "2 numbers"),
        ({"memory": 1000}, "memory"),
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"discount_fallback": (0.5, 1.0, 4.0)}, "discount_fallback"),
    ],
)
def test_wrong_options(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        build_language_model([b"a\n"], tmp_path / "lm.arpa", **options)


def test_interrupting_leaves_no_file(tmp_path):
    def interrupt(stage, done, total):
        if stage == "sorting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_language_model([GOLDEN / "text.txt"], tmp_path / "lm.arpa", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def run_lm_build(*arguments):
    from typer.testing import CliRunner

    from ctcspeech.cli import app

    return CliRunner().invoke(app, ["lm", "build", *map(str, arguments)])


def test_verb_writes_arpa_and_binaries_of_the_same_model(tmp_path):
    from ctcspeech.lm.model import LanguageModel

    text = GOLDEN / "text.txt"
    for name in ("lm.arpa", "lm.arpa.gz", "lm.bin"):
        prune = ["--prune", 0, 0, 1] if name == "lm.bin" else ["--prune", "0,0,1"]
        result = run_lm_build("--order", 3, *prune, text, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert "3-grams: " in result.output and "720 sentences" in result.output
    scores = {
        name: LanguageModel.load(tmp_path / name).score("w0 w3 w1")
        for name in ("lm.arpa", "lm.arpa.gz", "lm.bin")
    }
    assert len(set(scores.values())) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(scores)


def test_verb_makes_models_of_characters_and_of_an_alphabet(tmp_path):
    from ctcspeech.lm.model import LanguageModel
    from ctcspeech.text.alphabet import Alphabet

    text = tmp_path / "text.txt"
    text.write_text("ab ba\nabab\n" * 3)
    Alphabet.from_text(["ab ba"]).save(tmp_path / "alphabet.json")
    common = ["--order", 2, "--discount-fallback", "0.5,1,1.5", text, "-o"]
    for option in (["--characters"], ["--alphabet", tmp_path / "alphabet.json"]):
        result = run_lm_build(*option, *common, tmp_path / "lm.arpa")
        assert result.exit_code == 0, result.output
        words = set(LanguageModel.load(tmp_path / "lm.arpa").vocabulary)
        assert words == {"<unk>", "<s>", "</s>", "a", "b", "|"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing.txt"], "does not exist"),
        (["--prune", "x", GOLDEN / "text.txt"], "whole numbers"),
        (["--memory", "much", GOLDEN / "text.txt"], "500M"),
        (["--prune", 1, GOLDEN / "text.txt"], "begin with 0"),
    ],
)
def test_verb_refuses(arguments, words, tmp_path):
    result = run_lm_build(*arguments, "-o", tmp_path / "lm.arpa")
    assert result.exit_code == 2
    assert words in result.output
