"""Output formats: their laws, and other tools' parsers as witnesses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech.decode.hypothesis import Word
from ctcspeech.recognize.formats import (
    Cue,
    SubtitleLimits,
    format_ctm,
    format_srt,
    format_textgrid,
    format_tsv,
    format_vtt,
    subtitles,
)


@st.composite
def spoken(draw, longest=14):
    words, now = [], 0.0
    for _ in range(draw(st.integers(0, 40))):
        now += draw(st.sampled_from([0.0, 0.05, 0.3, 0.8, 4.0]))
        text = draw(st.text("abcde", min_size=1, max_size=longest)) + draw(
            st.sampled_from(["", ","])
        )
        length = draw(st.sampled_from([0.05, 0.2, 0.5, 1.0]))
        words.append(Word(text, now, now + length, 0.5))
        now += length
    return words


@settings(max_examples=80, deadline=None, derandomize=True)
@given(spoken(), st.sampled_from([SubtitleLimits(), SubtitleLimits(1, 20, 0.5, 3.0)]))
def test_subtitles_hold_every_word_within_the_limits(words, limits):
    cues = subtitles(words, limits)
    assert " ".join(" ".join(cue.lines) for cue in cues).split() == [w.text for w in words]
    for cue, following in zip(cues, cues[1:], strict=False):
        assert cue.end <= following.start + 1e-9
    for cue in cues:
        assert cue.start < cue.end
        assert len(cue.lines) <= limits.max_lines
        assert all(len(line) <= limits.max_characters for line in cue.lines)
        assert cue.end - cue.start <= limits.max_seconds + 1e-9


def test_subtitles_are_cut_at_the_pause():
    words = [
        Word("one", 0, 0.5),
        Word("two", 0.5, 1.2),
        Word("three", 2.0, 2.5),
        Word("four", 2.5, 3),
    ]
    short = SubtitleLimits(max_characters=10, max_lines=1)
    assert [cue.lines for cue in subtitles(words, short)] == [("one two",), ("three four",)]


def test_a_short_cue_is_shown_for_its_minimum_if_there_is_time():
    alone = subtitles([Word("no", 5.0, 5.2)])
    assert alone == [Cue(5.0, 6.0, ("no",))]
    crowded = subtitles([Word("no", 5.0, 5.2), Word("x" * 42, 5.5, 9)], SubtitleLimits(max_lines=1))
    assert crowded[0] == Cue(5.0, 5.5, ("no",))


def test_lines_are_of_like_length():
    words = [Word("abcd", i, i + 0.5) for i in range(6)]
    assert subtitles(words, SubtitleLimits(max_characters=25, pause_seconds=5))[0].lines == (
        "abcd abcd abcd",
        "abcd abcd abcd",
    )


@pytest.mark.parametrize("wrong", [{"max_lines": 0}, {"min_seconds": 8.0}, {"pause_seconds": 0.0}])
def test_wrong_limits(wrong):
    with pytest.raises(ValueError, match="must be"):
        SubtitleLimits(**wrong)


CUES = [Cue(0.0, 1.5, ("a < b", "c & d")), Cue(3661.0004, 3662.9996, ("e",))]


def test_srt():
    assert format_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,500\na < b\nc & d\n\n2\n01:01:01,000 --> 01:01:03,000\ne\n"
    )


def test_vtt():
    assert format_vtt(CUES) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b\nc &amp; d\n\n"
        "01:01:01.000 --> 01:01:03.000\ne\n"
    )


def test_ctm_and_tsv():
    words = [Word("hello", 0.1, 0.5, 0.25), Word("you", 0.5, 0.75)]
    assert format_ctm("my talk", words) == (
        "my_talk 1 0.100 0.400 hello 0.2500\nmy_talk 1 0.500 0.250 you\n"
    )
    assert format_tsv("a.wav", words).splitlines()[1:] == [
        "a.wav\t0.100\t0.500\thello\t0.2500",
        "a.wav\t0.500\t0.750\tyou\t",
    ]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(words=spoken(), rest=st.sampled_from([0.0, 2.5]))
def test_textgrid_is_read_by_another_parser(words, rest, tmp_path_factory):
    textgrid = pytest.importorskip("textgrid")
    path = tmp_path_factory.mktemp("grid") / "words.TextGrid"
    duration = (words[-1].end if words else 0.0) + rest
    path.write_text(format_textgrid(words, duration), encoding="utf-8")
    tier = textgrid.TextGrid.fromFile(str(path))[0]
    assert tier.name == "words"
    found = [interval for interval in tier if interval.mark]
    assert [interval.mark for interval in found] == [word.text for word in words]
    for interval, word in zip(found, words, strict=True):
        assert interval.minTime == pytest.approx(word.start, abs=1e-5)
        assert interval.maxTime == pytest.approx(word.end, abs=1e-5)
    assert tier.minTime == 0 and tier[0].minTime == 0
    for before, after in zip(tier, tier[1:], strict=False):
        assert before.maxTime == after.minTime


def test_textgrid_quotes_and_overlaps():
    text = format_textgrid([Word('say "a"', 0.0, 1.0), Word("b", 0.5, 1.5)], 1.0)
    assert 'text = "say ""a"""' in text
    assert "xmax = 0.500000" in text and text.count("xmax = 1.500000") == 3
