import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import Alphabet
from ctcspeech.errors import AlphabetError
from ctcspeech.text.alphabet import BLANK_LABEL

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "it's a dog's life",
    "she sells sea shells by the sea shore",
    "how much wood would a woodchuck chuck",
]


@pytest.fixture(scope="module")
def pieces():
    pytest.importorskip("sentencepiece")
    return Alphabet.from_text(TEXTS, "sentencepiece", size=50, model_type="bpe")


def test_characters():
    alphabet = Alphabet.from_text(["ba", "c a'"])
    assert alphabet.labels == [BLANK_LABEL, " ", "'", "a", "b", "c"]
    assert (alphabet.blank, alphabet.space, len(alphabet)) == (0, 1, 6)
    assert alphabet.encode("ab c") == [3, 4, 1, 5]
    assert alphabet.decode([3, 0, 4, 1, 5, 5]) == "ab cc"


def test_blank_may_stand_anywhere():
    alphabet = Alphabet(["a", "b", "_"], blank=2)
    assert alphabet.encode("abba") == [0, 1, 1, 0]
    assert alphabet.collapse([2, 0, 0, 2, 1, 2, 1, 0]) == [0, 1, 1, 0]
    with pytest.raises(AlphabetError):
        alphabet.encode("_")  # the blank is not to be written
    assert Alphabet.from_text(["ab"], blank=2).labels == ["a", "b", BLANK_LABEL]
    assert Alphabet.of_bytes(blank=256).encode("A") == [65]
    assert Alphabet.of_bytes(blank=65).encode("@AB") == [64, 66, 67]


@pytest.mark.parametrize(
    ("path", "labelling"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 1, 2, 2, 0, 2], [1, 2, 2]),
    ],
)
def test_collapse(path, labelling):
    assert Alphabet(["-", "a", "b"]).collapse(path) == labelling


def test_separator():
    alphabet = Alphabet(["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b"], separator="|")
    assert alphabet.space == 4
    assert alphabet.encode("a b") == [5, 4, 6]
    assert alphabet.decode([5, 4, 6]) == "a b"


def test_unknown_characters_are_named():
    alphabet = Alphabet.from_text(["abc"])
    with pytest.raises(AlphabetError, match=r"'a😀éa'.*'😀' \(U\+1F600, GRINNING FACE\), 'é'"):
        alphabet.encode("a😀éa")
    assert alphabet.missing("xaxb y") == ["x", " ", "y"]


def test_from_text_refuses_control_characters():
    with pytest.raises(AlphabetError, match="U\\+0009"):
        Alphabet.from_text(["a\tb"])
    with pytest.raises(AlphabetError, match="empty"):
        Alphabet.from_text(["", ""])
    with pytest.raises(TypeError):
        Alphabet.from_text("abc")


@given(st.text())
@settings(max_examples=100, derandomize=True)
def test_bytes_write_any_text(text):
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    alphabet = Alphabet.of_bytes()
    ids = alphabet.encode(text)
    assert ids == [byte + 1 for byte in text.encode()]
    assert alphabet.decode(ids) == text


def test_bytes_that_are_no_utf8():
    alphabet = Alphabet.of_bytes()
    assert alphabet.decode([0xC3 + 1]) == "\ufffd"
    assert alphabet.labels[alphabet.space] == " "


@given(st.text(alphabet="abcé 'ß", max_size=30))
@settings(max_examples=100, derandomize=True)
def test_characters_round_trip(text):
    alphabet = Alphabet.from_text(["abcé 'ß"])
    assert alphabet.decode(alphabet.encode(text)) == text


def test_pieces(pieces):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces._model)
    assert len(pieces) == 51 and pieces.space is None
    for text in [*TEXTS, "woodchucks sell quick shells", "a"]:
        ids = pieces.encode(text)
        assert [pieces.labels[i] for i in ids] == processor.encode(text, out_type=str)
        assert pieces.decode(ids) == processor.decode(processor.encode(text)) == text
    with pytest.raises(AlphabetError, match="'é'"):
        pieces.encode("caé")


def test_pieces_with_byte_fallback(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "m"),
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    alphabet = Alphabet.from_sentencepiece(tmp_path / "m.model")
    assert alphabet.decode(alphabet.encode("the é😀 fox")) == "the é😀 fox"
    assert alphabet.missing("é") == []


def test_too_many_pieces():
    pytest.importorskip("sentencepiece")
    with pytest.raises(AlphabetError, match="5000 pieces"):
        Alphabet.from_text(TEXTS, "sentencepiece", size=5000)


@pytest.mark.parametrize("kind", ["characters", "bytes", "sentencepiece"])
def test_file_round_trip(kind, tmp_path):
    if kind == "sentencepiece":
        pytest.importorskip("sentencepiece")
    alphabet = Alphabet.from_text(TEXTS, kind, size=40, blank=3)
    alphabet.save(tmp_path / "alphabet.json")
    again = Alphabet.load(tmp_path / "alphabet.json")
    assert again == alphabet and hash(again) == hash(alphabet)
    assert again != Alphabet.from_text(TEXTS, kind, size=40, blank=4)
    text = "the lazy sea"
    assert again.encode(text) == alphabet.encode(text)
    assert pickle.loads(pickle.dumps(alphabet)).encode(text) == alphabet.encode(text)
    assert again.decode(alphabet.encode(text)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2.*newer ctcspeech"),
        ({"format": "x"}, "no alphabet"),
        ({"kind": "words"}, "kind"),
        ({"blank": 99}, "blank"),
        ({"blank": None}, "blank"),
        ({"labels": ["a", "a"]}, "twice"),
        ({"labels": ["", "a"], "blank": 1}, "one character"),
        ({"labels": "abc"}, "list of strings"),
        ({"kind": "sentencepiece", "model": "%%"}, "base64"),
    ],
)
def test_wrong_files(change, message, tmp_path):
    values = {**Alphabet.from_text(["ab"]).to_dict(), **change}
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(AlphabetError, match=message) as caught:
        Alphabet.load(tmp_path / "a.json")
    assert "a.json" in str(caught.value)


def test_not_json(tmp_path):
    (tmp_path / "a.json").write_text("a b c")
    with pytest.raises(AlphabetError, match="not JSON"):
        Alphabet.load(tmp_path / "a.json")
    with pytest.raises(AlphabetError, match="No such file"):
        Alphabet.load(tmp_path / "b.json")
