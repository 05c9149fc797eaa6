"""Files of n-gram models: ARPA's quirks and errors, the binaries, conversion, damaged files."""

import math
import random
import struct

import pytest
from test_language_model import SMALL, load, random_arpa, random_sentences

from ctcspeech import LanguageModel
from ctcspeech.errors import LanguageModelError
from ctcspeech.lm.convert import convert

SENTENCES = ["a b", "b a b", "a c zzz", "", "c c <unk> b </s> a"]


def scores(model, sentences=SENTENCES):
    return [model.full_scores(s, bos, True) for s in sentences for bos in (True, False)]


QUIRKS = {
    "CRLF": lambda t: t.replace("\n", "\r\n"),
    "spaces for tabs": lambda t: t.replace("\t", " "),
    "tabs for spaces": lambda t: t.replace(" b\t", "\tb\t"),
    "blank lines": lambda t: t.replace("\n", "\n\n"),
    "trailing spaces": lambda t: t.replace("\n", " \n"),
    "a byte order mark": lambda t: "\ufeff" + t,
    "a comment first": lambda t: "# made by hand\n\n" + t,
    "no newline at the end": lambda t: t.rstrip("\n"),
    "text after the end": lambda t: t + "\nand so on\n",
    "explicit zeros": lambda t: t.replace("-0.5\tb a\n", "-0.5\tb a\t0.0\n"),
    "zeros in the highest order": lambda t: t.replace("<s> a b\n", "<s> a b\t0\n"),
    "exponents": lambda t: t.replace("-0.3\t<s> a", "-3e-1\t<s> a").replace("-0.2\t", "-.2\t"),
    "many digits": lambda t: t.replace("-0.4\t", "-0.39999999999999999999999\t"),
    "spaces in counts": lambda t: t.replace("ngram 1=6", "ngram  1 = 6"),
    "<UNK>": lambda t: t.replace("<unk>", "<UNK>"),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_legal_quirks(tmp_path, quirk):
    text = QUIRKS[quirk](SMALL)
    assert text != SMALL
    model = load(tmp_path, text)
    for ours, plain in zip(scores(model), scores(load(tmp_path, SMALL, "plain")), strict=True):
        assert [s[1:] for s in ours] == [s[1:] for s in plain]
        assert [s.log10 for s in ours] == pytest.approx([s.log10 for s in plain], abs=1e-6)


def test_missing_unknown_word(tmp_path):
    text = SMALL.replace("-1.0\t<unk>\n", "").replace("ngram 1=6", "ngram 1=5")
    assert load(tmp_path, text).score("zzz", bos=False, eos=False) == -100
    other = load(tmp_path, text, unknown_log10=-7.5)
    assert other.score("zzz", bos=False, eos=False) == -7.5
    assert not other.info()["has_unknown"] and load(tmp_path, SMALL).info()["has_unknown"]


def test_zero_and_impossible_probabilities(tmp_path):
    text = SMALL.replace("-0.6\tc", "-inf\tc").replace("-0.3\t<s> a", "0\t<s> a")
    model = load(tmp_path, text)
    assert model.score("c", bos=False, eos=False) == -math.inf
    assert model.score("a", eos=False) == 0.0
    quantised = tmp_path / "small.bin"
    convert(tmp_path / "model.arpa", quantised, "trie", probability_bits=2, backoff_bits=2)
    assert LanguageModel.load(quantised).score("a b") == pytest.approx(model.score("a b"), abs=0.1)


def test_lower_orders_left_out(tmp_path):
    """Pruned models of SRILM lack suffixes of their n-grams; scores are those of backing off."""
    text = SMALL.replace("-0.4\ta b\t-0.03125\n", "").replace("ngram 2=4", "ngram 2=3")
    text = text.replace("-0.15\ta b </s>\n", "").replace("ngram 3=2", "ngram 3=1")
    model = load(tmp_path, text)
    assert model.score("a b", eos=False) == pytest.approx(-0.3 - 0.1)
    assert model.score("a b", bos=False, eos=False) == pytest.approx(-0.7 - 0.25 - 0.8)


def test_lower_orders_left_out_as_kenlm(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    lines = random_arpa(2, 3, share=0.3).split("\n")
    ngrams = [line.split("\t")[1].split() for line in lines if "\t" in line]
    contexts = {tuple(g[:2]) for g in ngrams if len(g) == 3}
    suffixes = {tuple(g[1:]) for g in ngrams if len(g) == 3}
    dropped = [
        i
        for i, line in enumerate(lines)
        if "\t" in line and tuple(line.split("\t")[1].split()) in suffixes - contexts
    ][:5]
    assert dropped
    lines = [line for i, line in enumerate(lines) if i not in dropped]
    count = next(i for i, line in enumerate(lines) if line.startswith("ngram 2="))
    lines[count] = f"ngram 2={int(lines[count][8:]) - len(dropped)}"
    model = load(tmp_path, "\n".join(lines))
    witness = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in random_sentences(0):
        ours, theirs = model.full_scores(sentence), list(witness.full_scores(sentence))
        assert [s.log10 for s in ours] == pytest.approx([t[0] for t in theirs], abs=1e-6)


def test_orders_one_and_twelve(tmp_path):
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\n-0.5\t</s>\n-0.25\ta\n\n\\end\\\n"
    model = load(tmp_path, text)
    assert model.score("a a") == pytest.approx(-1.0)
    assert model.begin_state() == model.null_state()
    lines = ["\\data\\", "ngram 1=3", *(f"ngram {n}=1" for n in range(2, 13)), "\\1-grams:"]
    lines += ["-1\t<s>", "-0.5\t</s>", "-0.25\ta\t-0.5"]
    for n in range(2, 13):
        lines += [f"\\{n}-grams:", f"-{n}\t" + " ".join("a" * n) + ("\t-0.5" if n < 12 else "")]
    load(tmp_path, "\n".join([*lines, "\\end\\"]), "long.arpa")
    for kind in ("probing", "trie"):
        convert(tmp_path / "long.arpa", tmp_path / "long.bin", kind)
        model = LanguageModel.load(tmp_path / "long.bin")
        orders = [s.order for s in model.full_scores(["a"] * 15, bos=False, eos=False)]
        assert orders == [*range(1, 13), 12, 12, 12]
        assert model.score(["a"] * 12, False, False) == pytest.approx(-0.25 - sum(range(2, 13)))


WRONG = {
    "empty": ("", "no .data."),
    "not ARPA": ("hello\nworld\n", "line 2: no .data. line"),
    "cut in the header": (SMALL[:17], "line 2: the file ends"),
    "cut in the n-grams": (SMALL[: SMALL.index("-0.5\tb a")], "truncated"),
    "no end": (SMALL.replace("\\end\\", ""), "line 24: the file ends where '.end.' should"),
    "too few": (SMALL.replace("ngram 2=4", "ngram 2=5"), "2-gram number 5 of 5"),
    "too many": (SMALL.replace("ngram 2=4", "ngram 2=3"), "expected '.3-grams:'"),
    "too many in the last": (SMALL.replace("ngram 3=2", "ngram 3=1"), "expected '.end.'"),
    "counts out of order": (SMALL.replace("ngram 2=4", "ngram 3=4"), "line 3: .*order 2"),
    "a count that is none": (SMALL.replace("ngram 2=4", "ngram 2=four"), "line 3: expected 'ngram"),
    "a huge count": (SMALL.replace("ngram 2=4", "ngram 2=99999999999999"), "line 3: .*too large"),
    "a negative count": (
        SMALL.replace("ngram 2=4", "ngram 2=-4"),
        "line 3: expected 'ngram N=count",
    ),
    "no counts": (SMALL.replace("ngram", "gram"), "line 2: expected 'ngram"),
    "not a number": (SMALL.replace("-0.4\ta b", "x\ta b"), "line 16: .*probability, found 'x'"),
    "a hexadecimal number": (SMALL.replace("-0.4\ta b", "-0x1p2\ta b"), "line 16: .*probability"),
    "nan": (SMALL.replace("-0.4\ta b", "nan\ta b"), "line 16: .*found 'nan'"),
    "above 1": (SMALL.replace("-0.4\ta b", "0.4\ta b"), "line 16: .*'0.4' is above 0"),
    "an infinite weight": (SMALL.replace("-0.0625", "-inf"), "line 15: .*back-off weight"),
    "a word too few": (SMALL.replace("-0.1\t<s> a b", "-0.1\t<s> a"), "line 21: fewer than 3"),
    "a word too many": (SMALL.replace("<s> a b", "<s> a b c"), "line 21: expected a .*found 'c'"),
    "a field too many": (SMALL.replace("-0.03125", "-0.03125 -1"), "line 16: more fields"),
    "a weight in the highest order": (
        SMALL.replace("<s> a b\n", "<s> a b\t-0.5\n"),
        "line 21: a back-off weight after an n-gram of the highest order",
    ),
    "an unlisted word": (SMALL.replace("-0.5\tb a", "-0.5\tb d"), "line 17: the word 'd' is not"),
    "a word twice": (SMALL.replace("-0.6\tc", "-0.6\tb"), "line 12: the word 'b' is listed twice"),
    "an n-gram twice": (SMALL.replace("-0.5\tb a", "-0.5\ta b"), "line 17: .*listed twice"),
    "no <s>": (SMALL.replace("<s>", "<bos>"), "do not list <s>"),
    "an order above 12": (
        "\\data\\\n" + "".join(f"ngram {n}=1\n" for n in range(1, 14)),
        "line 14: order 13, but at most 12",
    ),
    "KenLM's binary": ("mmap lm http://kheafield.com/code format version 5\n\0", "truncated"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_files_are_named(tmp_path, wrong):
    text, message = WRONG[wrong]
    with pytest.raises(LanguageModelError, match=message) as error:
        load(tmp_path, text)
    assert "model.arpa" in str(error.value)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_form_scores_alike(tmp_path, order):
    unigrams = "\\data\\\nngram 1=3\n\\1-grams:\n-1\t<s>\n-0.5\t</s>\n-0.25\ta\n\\end\\\n"
    arpa = unigrams if order == 1 else random_arpa(7, order)
    model = load(tmp_path, arpa)
    convert(tmp_path / "model.arpa", tmp_path / "p.bin")
    convert(tmp_path / "model.arpa", tmp_path / "t.bin", "trie")
    convert(tmp_path / "t.bin", tmp_path / "again.arpa.gz")
    convert(tmp_path / "t.bin", tmp_path / "again.bin", "probing")
    model.save(tmp_path / "saved.bin")
    LanguageModel.load(tmp_path / "t.bin").save(tmp_path / "saved.arpa", "arpa")
    sentences = random_sentences(1, 60)
    expected = scores(model, sentences)
    for name in ("p.bin", "t.bin", "again.arpa.gz", "again.bin", "saved.bin", "saved.arpa"):
        other = LanguageModel.load(tmp_path / name)
        other.verify()
        assert scores(other, sentences) == expected, name
        assert other.counts == model.counts and sorted(other.vocabulary) == sorted(model.vocabulary)
    assert (tmp_path / "p.bin").read_bytes() == (tmp_path / "saved.bin").read_bytes()


def test_states_do_not_depend_on_the_form(tmp_path):
    load(tmp_path, random_arpa(3, 4))
    models = []
    for kind in ("probing", "trie"):
        convert(tmp_path / "model.arpa", tmp_path / kind, kind)
        models.append(LanguageModel.load(tmp_path / kind))
    for sentence in random_sentences(2, 50):
        states = [m.begin_state() for m in models]
        for word in sentence.split():
            steps = [m.score_word(s, word) for m, s in zip(models, states, strict=True)]
            states = [state for _, state in steps]
            assert steps[0][0] == steps[1][0] and states[0].backoff == states[1].backoff
            words = [
                [m.vocabulary[i] for i in s.words] for m, s in zip(models, states, strict=True)
            ]
            assert words[0] == words[1]


def test_quantised_trie(tmp_path):
    model = load(tmp_path, random_arpa(5, 4, zero_backoffs=False))
    sentences = random_sentences(3, 100)
    before = [s.log10 for line in scores(model, sentences) for s in line]
    sizes = []
    for bits, tolerance in ((4, 1.0), (8, 0.1), (16, 1e-5)):
        path = tmp_path / f"{bits}.bin"
        convert(tmp_path / "model.arpa", path, "trie", probability_bits=bits, backoff_bits=bits)
        quantised = LanguageModel.load(path)
        after = [s.log10 for line in scores(quantised, sentences) for s in line]
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) < tolerance
        assert quantised.info()["probability_bits"] == bits
        sizes.append(path.stat().st_size)
    convert(tmp_path / "model.arpa", tmp_path / "full.bin", "trie")
    assert sizes[0] < (tmp_path / "full.bin").stat().st_size


def test_probing_cannot_be_listed(tmp_path):
    model = load(tmp_path, SMALL)
    model.save(tmp_path / "p.bin")
    with pytest.raises(LanguageModelError, match="only hashes"):
        convert(tmp_path / "p.bin", tmp_path / "out.arpa")
    assert not (tmp_path / "out.arpa").exists()


def test_arguments_are_checked(tmp_path):
    load(tmp_path, SMALL)
    arpa = tmp_path / "model.arpa"
    for message, arguments in (
        ("kind must be one of", {"kind": "hash"}),
        ("probability_bits must be", {"kind": "trie", "probability_bits": 25}),
        ("backoff_bits must be", {"kind": "trie", "backoff_bits": 1}),
        ("needs kind 'trie'", {"kind": "probing", "backoff_bits": 8}),
        ("unknown_log10", {"unknown_log10": 1.0}),
    ):
        with pytest.raises(ValueError, match=message):
            convert(arpa, tmp_path / "out", **arguments)
    with pytest.raises(FileNotFoundError):
        LanguageModel.load(tmp_path / "nowhere")


MASK = (1 << 64) - 1


def checksum(data):
    """The checksum of the format, as csrc/ngram/hash.h has it."""

    def mix(lane, chunk):
        lane = (lane ^ chunk) * 0x9E3779B97F4A7C15 & MASK
        return (lane << 31 | lane >> 33) & MASK

    lanes = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    whole = len(data) // 32 * 32
    for at in range(0, whole, 32):
        lanes = [mix(k, c) for k, c in zip(lanes, struct.unpack_from("<4Q", data, at), strict=True)]
    for i, at in enumerate(range(whole, len(data), 8)):
        lanes[i] = mix(lanes[i], int.from_bytes(data[at : at + 8], "little"))
    h = len(data)
    for lane in lanes:
        h = mix(h, lane)
        h ^= h >> 32
    return h


def sign_header(data):
    """Makes the header's checksum right again, as one would who means harm."""
    head = 184 + 40 * int.from_bytes(data[24:28], "little")
    if head + 8 <= len(data):
        data[head : head + 8] = checksum(bytes(data[:head])).to_bytes(8, "little")


def use(path):
    """Loads a file and asks for all that it has; a LanguageModelError is all that may happen."""
    try:
        model = LanguageModel.load(path, verify=False)
        list(model.vocabulary)
        for sentence in random_sentences(0, 30):
            model.full_scores(sentence)
        model.save(path.with_suffix(".out"), "arpa")
    except LanguageModelError:
        return False
    return True


@pytest.mark.parametrize("kind", ["probing", "trie", "quantised"])
def test_damaged_binaries(tmp_path, kind):
    load(tmp_path, random_arpa(1, 3, words=5))
    path = tmp_path / "model.bin"
    bits = 4 if kind == "quantised" else 0
    name = "trie" if kind == "quantised" else kind
    arguments = {"probability_bits": bits, "backoff_bits": bits}
    convert(tmp_path / "model.arpa", path, name, **arguments)
    good = path.read_bytes()
    assert use(path) == (name == "trie")  # a probing binary cannot be written as ARPA
    rng = random.Random(kind)
    for i in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 30))):
            limit = 184 + 40 * 10 if i % 2 else len(data)
            data[rng.randrange(8, limit)] = rng.choice((0, 1, 255, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        sign_header(data)
        path.write_bytes(data)
        use(path)
    for size in range(0, 700, 7):
        path.write_bytes(good[:size])
        assert not use(path)


def test_damage_is_found(tmp_path):
    load(tmp_path, random_arpa(1, 3, words=5))
    path = tmp_path / "model.bin"
    convert(tmp_path / "model.arpa", path, "trie")
    good = path.read_bytes()
    data = bytearray(good)
    data[40] ^= 1  # in the header
    path.write_bytes(data)
    with pytest.raises(LanguageModelError, match="checksum"):
        LanguageModel.load(path)
    data = bytearray(good)
    data[12] ^= 2  # another byte order, another version
    path.write_bytes(data)
    with pytest.raises(LanguageModelError, match="byte order"):
        LanguageModel.load(path)
    data = bytearray(good)
    data[8] = 2
    sign_header(data)
    path.write_bytes(data)
    with pytest.raises(LanguageModelError, match="format version 2"):
        LanguageModel.load(path)
    data = bytearray(good)
    data[-9] ^= 1  # in the last section
    path.write_bytes(data)
    with pytest.raises(LanguageModelError, match="section .* is damaged"):
        LanguageModel.load(path, verify=False).verify()
    with pytest.raises(LanguageModelError, match="section .* is damaged"):
        LanguageModel.load(path)
    with pytest.raises(LanguageModelError, match="truncated"):
        path.write_bytes(good[:-1])
        LanguageModel.load(path)


@pytest.mark.parametrize("kind", ["probing", "trie"])
def test_every_flipped_bit_is_found(tmp_path, kind):
    load(tmp_path, random_arpa(1, 3, words=5))
    path = tmp_path / "model.bin"
    convert(tmp_path / "model.arpa", path, kind)
    good = path.read_bytes()
    sections = int.from_bytes(good[24:28], "little")
    entries = [struct.unpack_from("<IIQQQQ", good, 184 + 40 * i) for i in range(sections)]
    meant = bytearray(len(good))  # zeros between the sections mean nothing
    meant[: 184 + 40 * sections + 8] = b"\1" * (184 + 40 * sections + 8)
    for _, _, offset, size, _, _ in entries:
        meant[offset : offset + size] = b"\1" * size
    rng = random.Random(kind)
    places = [i for i, used in enumerate(meant) if used]
    for at in [*range(0, 184, 5), *rng.choices(places, k=300)]:
        data = bytearray(good)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(LanguageModelError):
            LanguageModel.load(path)


@pytest.mark.parametrize("kind", ["probing", "trie", "quantised"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5])
def test_poisoned_values(tmp_path, kind, value):
    """Checksums made right again, as one would who means harm."""
    load(tmp_path, random_arpa(1, 3, words=5))
    path = tmp_path / "model.bin"
    bits = 4 if kind == "quantised" else 0
    convert(
        tmp_path / "model.arpa", path, "probing" if kind == "probing" else "trie",
        probability_bits=bits, backoff_bits=bits,
    )  # fmt: skip
    good = path.read_bytes()
    sections = int.from_bytes(good[24:28], "little")
    poisoned = 0
    for i in range(sections):
        entry = list(struct.unpack_from("<IIQQQQ", good, 184 + 40 * i))
        identity, _, offset, size = entry[:4]
        places = {
            4: range(
                0, size - 32, 8 if kind == "probing" else 16
            ),  # unigrams: probability, backoff
            7: range(0, 4),  # codes of probabilities, the first of which is in use
            8: range(8, 12),  # codes of back-off weights: the first that is not 0
        }.get(identity, ())
        for place in list(places)[:1]:
            for at, is_backoff in ((place, identity == 8), (place + 4, True)):
                if (identity in (7, 8)) and at != place:
                    continue
                if value == 1.5 and (is_backoff or identity == 4):
                    continue  # a weight may be above 0; the sign of a unigram is not stored
                if value == math.inf and not is_backoff:
                    continue  # -inf is a probability of 0
                data = bytearray(good)
                data[offset + at : offset + at + 4] = struct.pack("<f", value)
                entry[5] = checksum(bytes(data[offset : offset + size]))
                struct.pack_into("<IIQQQQ", data, 184 + 40 * i, *entry)
                sign_header(data)
                path.write_bytes(data)
                with pytest.raises(LanguageModelError, match="log10"):
                    LanguageModel.load(path)
                poisoned += 1
    assert poisoned or (kind != "quantised" and value == 1.5)


def test_damaged_arpa(tmp_path):
    rng = random.Random(0)
    text = random_arpa(1, 3, words=5).encode()
    path = tmp_path / "model.arpa"
    for _ in range(300):
        data = bytearray(text)
        for _ in range(rng.choice((1, 2, 10))):
            at = rng.randrange(len(data))
            action = rng.randrange(4)
            if action == 0:
                data[at] = rng.choice(b"\n\t \\-0.=e9\x00\xff")
            elif action == 1:
                del data[at : at + rng.randrange(1, 40)]
            elif action == 2:
                data[at:at] = rng.choice((b"\n", b"\t", b"-1e999", b"\\2-grams:\n", b" <unk> "))
            elif rng.random() < 0.3:
                del data[at:]
                data += b"\n"
        path.write_bytes(data)
        use(path)
