"""KenLM's own binaries, against the kenlm package on the same files and against the ARPA files.

The files are in golden/ngram/kenlm, with the script that makes them.
"""

import gzip
import importlib.util
import pickle
import random
import struct
from pathlib import Path

import pytest

from ctcspeech import LanguageModel
from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.convert import convert

GOLDEN = Path(__file__).parent / "golden" / "ngram" / "kenlm"
_spec = importlib.util.spec_from_file_location("kenlm_golden", GOLDEN / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
READABLE = [name for name in generate.BINARIES if name != "without-words"]


@pytest.fixture
def binary(tmp_path):
    def unpack(name):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(gzip.decompress((GOLDEN / f"{name}.bin.gz").read_bytes()))
        return path

    return unpack


def sentences(model, count=150):
    rng = random.Random(5)
    words = [w for w in model.vocabulary if w != "<s>"] + ["zebra", "<unk>"]
    text = (GOLDEN.parent / "text.txt").read_text().splitlines()
    random_ones = [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(count)]
    return random_ones + rng.sample(text, count)


def all_scores(model, texts):
    return [model.full_scores(text, bos, True) for text in texts for bos in (True, False)]


@pytest.mark.parametrize("name", READABLE)
def test_scores_are_kenlms(binary, name):
    kenlm = pytest.importorskip("kenlm")
    path = binary(name)
    theirs, ours = kenlm.Model(str(path)), LanguageModel.load(path)
    assert ours.order == theirs.order
    for text in sentences(ours):
        for bos in (True, False):
            expected = list(theirs.full_scores(text, bos=bos))
            scores = ours.full_scores(text, bos)
            assert [(s.order, s.oov) for s in scores] == [(n, oov) for _, n, oov in expected]
            for score, (log10, _, _) in zip(scores, expected, strict=True):
                assert score.log10 == pytest.approx(log10, abs=1e-5)


@pytest.mark.parametrize("name", [n for n in READABLE if "quantised" not in n])
def test_scores_are_those_of_the_arpa_file(binary, tmp_path, name):
    arpa = tmp_path / "m.arpa"
    arpa.write_bytes(generate.arpa(generate.BINARIES[name][0]))
    expected, model = LanguageModel.load(arpa), LanguageModel.load(binary(name))
    assert sorted(model.vocabulary) == sorted(expected.vocabulary)
    assert model.counts == expected.counts
    texts = sentences(expected)
    assert all_scores(model, texts) == all_scores(expected, texts)


@pytest.mark.parametrize("name", READABLE)
def test_conversion(binary, tmp_path, name):
    path = binary(name)
    model = LanguageModel.load(path)
    texts = sentences(model)
    expected = all_scores(model, texts)
    for kind in ("probing", "trie", "arpa"):
        target = tmp_path / f"out.{kind}"
        if name.startswith("probing") and kind != "probing":
            with pytest.raises(LanguageModelError, match="cannot list"):
                convert(path, target, kind)
            continue
        convert(path, target, kind)
        again = LanguageModel.load(target)
        assert again.kind == ("trie" if kind == "trie" else "probing")
        assert all_scores(again, texts) == expected
    assert all_scores(pickle.loads(pickle.dumps(model)), texts) == expected
    copied = pickle.loads(pickle.dumps(model.core))
    assert copied.fingerprint == model.core.fingerprint


def test_what_is_refused(binary):
    with pytest.raises(LanguageModelError, match="without its words .*-v"):
        LanguageModel.load(binary("without-words"))
    path = binary("trie")
    good = path.read_bytes()
    for at, value, message in [
        (48, b"4", "format version"),
        (0x3C, b"\0\0\0\0", "byte order"),
        (0x60, b"\1", "rest costs"),
        (0x68, b"\7", "search has version 7"),
        (0x58, b"\1", "order 1"),
        (0x6C, b"\xff" * 8, "too large"),
    ]:
        path.write_bytes(good[:at] + value + good[at + len(value) :])
        with pytest.raises(LanguageModelError, match=message) as caught:
            LanguageModel.load(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["probing", "trie"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_poisoned_numbers(binary, name, value):
    path = binary(name)
    data = bytearray(path.read_bytes())
    known = LanguageModel.load(path)
    # The unigram of "</s>" stands in the file as its two floats.
    scores = {w: known.full_scores(w, False, False)[0].log10 for w in known.vocabulary}
    wanted = scores["</s>"]
    for sign in (-1, 1):
        at = data.find(struct.pack("<f", sign * wanted))
        while at >= 0:
            poisoned = bytearray(data)
            poisoned[at + 4 : at + 8] = struct.pack("<f", value)  # the back-off weight
            path.write_bytes(poisoned)
            with pytest.raises(LanguageModelError, match="not finite|not a number|damaged"):
                LanguageModel.load(path)
            at = data.find(struct.pack("<f", sign * wanted), at + 1)


@pytest.mark.parametrize("name", READABLE)
def test_damaged_files(binary, name):
    path = binary(name)
    good = path.read_bytes()
    rng = random.Random(name)
    for i in range(80):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 30))):
            limit = 0x100 if i % 2 else len(data)
            data[rng.randrange(56, limit)] = rng.choice((0, 1, 255, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            model = LanguageModel.load(path)
        except LanguageModelError as error:
            assert str(path) in str(error)
            continue
        model.verify()
        for sentence in sentences(model, 3):
            for score in model.full_scores(sentence):
                assert score.log10 == score.log10  # no NaN
    for size in range(0, len(good), len(good) // 60):
        path.write_bytes(good[:size])
        with pytest.raises(LanguageModelError):
            LanguageModel.load(path)
