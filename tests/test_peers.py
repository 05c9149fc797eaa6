"""The peers' calls through ctcspeech.compat: answers are the peer's, or declared differences."""

import re
from pathlib import Path

import peers
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "coming-over.md"


@pytest.mark.parametrize("name", peers.CASES)
def test_an_answer_is_that_of_the_peer_unless_declared(name):
    pair = peers.compare(name)
    if pair is None:
        pytest.skip("the peer is not installed")
    assert peers.alike(*pair) == (name not in peers.DIFFERENT), pair


def test_declared_differences_are_those_that_the_page_explains():
    section = PAGE.read_text().split("## Deliberate differences", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| ([^|]+: [^|]+?) \|", section, re.M)) == peers.DIFFERENT
    assert set(peers.CASES) >= peers.DIFFERENT


def test_numbers_are_compared_nearly_and_all_else_exactly():
    assert peers.alike(["a", 1.0, (2, "b")], ["a", 1.001, (2, "b")])
    assert not peers.alike([1.0], [1.1])
    assert not peers.alike([1.0], [1.0, 1.0])
    assert not peers.alike("a", "b")
