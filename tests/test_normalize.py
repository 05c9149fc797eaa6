import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctcspeech.errors import AlphabetError
from ctcspeech.text.normalize import Normalizer


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("  Hello,\tWORLD!\n", "hello world"),
        ("“Don’t,” said the U.S. envoy — twice.", "don't said the u s envoy twice"),
        ("the dogs' bones, 'tis so", "the dogs' bones 'tis so"),
        ("well-known and/or", "well known and or"),
        ("rock ' n ' roll ''quoted''", "rock n roll quoted"),
        ("5' 10''", "5 10"),
        ("cafe\u0301 ﬁne", "café fine"),
        ("so\u00adft\u200b", "soft"),
        ("don\u00b4t don\u02bct don`t", "don't don't don't"),
        ("STRASSE straße", "strasse straße"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया"),
        ("", ""),
    ],
)
def test_default_rules(text, result):
    assert Normalizer()(text) == result


def test_options():
    assert Normalizer(case="upper")("don't") == "DON'T"
    assert Normalizer(case="keep", punctuation="keep")("Ça,  va?") == "Ça, va?"
    assert Normalizer(accents="remove")("Ça va, Žižek") == "ca va zizek"
    assert Normalizer(keep="'-")("well-known 'x'") == "well-known 'x'"
    assert Normalizer(keep="")("don't") == "don t"
    assert Normalizer(replace={"&": " and ", "@": "at"})("B&B @") == "b and b at"
    assert Normalizer(unicode="none")("e\u0301") == "e\u0301"


def test_digits():
    assert Normalizer()("In 1984") == "in 1984"
    with pytest.raises(AlphabetError, match="'In 1984' has digits.*words"):
        Normalizer(digits="refuse")("In 1984")
    assert Normalizer(digits="refuse")("in the year") == "in the year"


def test_serialises():
    rules = Normalizer(case="upper", replace={"&": " and "}, digits="refuse")
    assert Normalizer.model_validate_json(rules.model_dump_json()) == rules
    assert Normalizer.model_validate(rules.model_dump())("a & b") == "A AND B"
    with pytest.raises(ValidationError):
        Normalizer(cases="lower")


@given(st.text())
@settings(max_examples=300, derandomize=True)
def test_twice_is_once(text):
    normalize = Normalizer()
    once = normalize(text)
    assert normalize(once) == once
    assert once == once.strip() and "  " not in once
