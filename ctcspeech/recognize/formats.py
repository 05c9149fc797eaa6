"""Words with times in the formats that other tools read: CTM, TextGrid, TSV, and subtitles.

cues = subtitles(transcript.words)
Path("talk.srt").write_text(format_srt(cues), encoding="utf-8")

TextGrid is written here, and not by a library: it is twenty lines, and a package for it would be
one more that the base installation needs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctcspeech.decode.hypothesis import Word

__all__ = [
    "Cue",
    "SubtitleLimits",
    "format_ctm",
    "format_srt",
    "format_textgrid",
    "format_tsv",
    "format_vtt",
    "subtitles",
]

_CLAUSE_ENDS = tuple(",.;:!?…。！？、，")


@dataclass(frozen=True)
class SubtitleLimits:
    """What a subtitle may hold, by default the limits usual in broadcasting: two lines of 42
    characters, shown for 1 to 7 seconds."""

    max_lines: int = 2
    max_characters: int = 42  # a line
    min_seconds: float = 1.0
    max_seconds: float = 7.0
    pause_seconds: float = 0.4  # a silence of this length is a good place to cut

    def __post_init__(self) -> None:
        if self.max_lines < 1 or self.max_characters < 1:
            raise ValueError("max_lines and max_characters must be at least 1")
        if not 0 <= self.min_seconds <= self.max_seconds or self.pause_seconds <= 0:
            raise ValueError(
                "must be: 0 <= min_seconds <= max_seconds and pause_seconds > 0; got "
                f"{self.min_seconds}, {self.max_seconds}, {self.pause_seconds}"
            )


@dataclass(frozen=True)
class Cue:
    """One subtitle: what is shown from `start` to `end` (seconds)."""

    start: float
    end: float
    lines: tuple[str, ...]


def subtitles(words: Sequence[Word], limits: SubtitleLimits | None = None) -> list[Cue]:
    """Words as subtitles: cut at pauses and clause ends, within `limits`.

    The cuts are those of least cost over all words (dynamic programming): a cut costs less the
    longer the silence there and if a clause ends, a cue costs more the more it falls short of
    `min_seconds`. A cue that is too short is shown longer where the next one leaves time. A single
    word that breaks a limit stands alone.
    """
    limits = limits or SubtitleLimits()
    words = [word for word in words if word.text]
    cuts = _best_cuts(words, limits)
    cues = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        group = words[first:last]
        end = group[-1].end
        if end - group[0].start < limits.min_seconds:
            latest = words[last].start if last < len(words) else math.inf
            end = max(end, min(group[0].start + limits.min_seconds, latest))
        cues.append(Cue(group[0].start, end, _broken(group, limits)))
    return cues


def _best_cuts(words: Sequence[Word], limits: SubtitleLimits) -> list[int]:
    """Indices of the first words of the cues, and len(words)."""
    cost = [0.0] + [math.inf] * len(words)
    came_from = [0] * (len(words) + 1)
    for last in range(1, len(words) + 1):
        at_cut = _cost_of_cut(words, last, limits)
        for first in range(last - 1, -1, -1):
            group = words[first:last]
            if len(group) > 1 and not _fits(group, limits):
                break
            shown = words[last].start if last < len(words) else math.inf
            seconds = max(group[-1].end, min(shown, group[0].start + limits.min_seconds))
            missing = max(0.0, limits.min_seconds - (seconds - group[0].start))
            total = cost[first] + at_cut + 4.0 * missing
            if total < cost[last]:
                cost[last], came_from[last] = total, first
    cuts = [len(words)]
    while cuts[-1] > 0:
        cuts.append(came_from[cuts[-1]])
    return cuts[::-1]


def _cost_of_cut(words: Sequence[Word], index: int, limits: SubtitleLimits) -> float:
    """Of a cut before the word at `index`: 1 anywhere, far less at a pause or a clause's end."""
    if index == len(words):
        return 0.0
    silence = max(0.0, words[index].start - words[index - 1].end)
    cost = 1.0 - 0.8 * min(1.0, silence / limits.pause_seconds)
    if words[index - 1].text.endswith(_CLAUSE_ENDS):
        cost *= 0.5
    if silence > 3.0 * limits.pause_seconds:
        cost -= 2.0  # nobody reads on over a long silence
    return cost


def _fits(group: Sequence[Word], limits: SubtitleLimits) -> bool:
    if group[-1].end - group[0].start > limits.max_seconds:
        return False
    return len(_wrapped([word.text for word in group], limits.max_characters)) <= limits.max_lines


def _wrapped(texts: Sequence[str], width: int) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    length = -1
    for text in texts:
        if lines[-1] and length + 1 + len(text) > width:
            lines.append([])
            length = -1
        lines[-1].append(text)
        length += 1 + len(text)
    return lines


def _broken(group: Sequence[Word], limits: SubtitleLimits) -> tuple[str, ...]:
    """Lines of like length: the narrowest width that needs no further line."""
    texts = [word.text for word in group]
    needed = len(_wrapped(texts, limits.max_characters))
    width = limits.max_characters
    while needed > 1 and width > 1 and len(_wrapped(texts, width - 1)) == needed:
        width -= 1
    return tuple(" ".join(line) for line in _wrapped(texts, width))


def _timestamp(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def format_srt(cues: Iterable[Cue]) -> str:
    """SubRip: numbered cues with `hh:mm:ss,mmm` times."""
    blocks = [
        f"{number}\n{_timestamp(cue.start, ',')} --> {_timestamp(cue.end, ',')}\n"
        + "\n".join(cue.lines)
        + "\n"
        for number, cue in enumerate(cues, 1)
    ]
    return "\n".join(blocks)


def format_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT (W3C): `hh:mm:ss.mmm` times, `&`, `<` and `>` escaped."""
    blocks = ["WEBVTT\n"]
    for cue in cues:
        lines = "\n".join(cue.lines)
        lines = lines.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        times = f"{_timestamp(cue.start, '.')} --> {_timestamp(cue.end, '.')}"
        blocks.append(f"{times}\n{lines}\n")
    return "\n".join(blocks)


def format_ctm(name: str, words: Iterable[Word], channel: str = "1") -> str:
    """NIST CTM, as sclite reads it: recording, channel, start, duration, word, confidence.

    `name` is the recording's; white space in it becomes `_`, since fields are separated by it.
    """
    name = "_".join(name.split()) or "-"
    lines = []
    for word in words:
        fields = [name, channel, f"{word.start:.3f}", f"{max(0.0, word.end - word.start):.3f}"]
        fields.append("_".join(word.text.split()))
        if word.confidence is not None:
            fields.append(f"{word.confidence:.4f}")
        lines.append(" ".join(fields) + "\n")
    return "".join(lines)


def format_tsv(name: str, words: Iterable[Word], header: bool = True) -> str:
    """Tab-separated: recording, start and end in seconds, word, confidence (empty if unknown)."""
    lines = ["file\tstart\tend\tword\tconfidence\n"] if header else []
    clean = name.replace("\t", " ")
    for word in words:
        confidence = "" if word.confidence is None else f"{word.confidence:.4f}"
        text = word.text.replace("\t", " ")
        lines.append(f"{clean}\t{word.start:.3f}\t{word.end:.3f}\t{text}\t{confidence}\n")
    return "".join(lines)


def format_textgrid(words: Sequence[Word], duration: float, tier: str = "words") -> str:
    """A Praat TextGrid (long text format) with one interval tier of words and the silences between.

    duration: of the recording, in seconds; extended if the last word ends later. Words that overlap
    are cut where the next begins, since intervals of a tier may not overlap.
    """
    intervals: list[tuple[float, float, str]] = []
    position = 0.0
    for i, word in enumerate(words):
        start = max(word.start, position)
        end = min(word.end, words[i + 1].start) if i + 1 < len(words) else word.end
        if end <= start:
            end = start + 0.001  # Praat refuses an interval without length
        if start > position:
            intervals.append((position, start, ""))
        intervals.append((start, end, word.text))
        position = end
    duration = max(duration, position)
    if duration > position or not intervals:
        intervals.append((position, max(duration, position + 0.001), ""))
    duration = intervals[-1][1]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration:.6f}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        f'        name = "{_quoted(tier)}"',
        "        xmin = 0",
        f"        xmax = {duration:.6f}",
        f"        intervals: size = {len(intervals)}",
    ]
    for number, (start, end, text) in enumerate(intervals, 1):
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start:.6f}",
            f"            xmax = {end:.6f}",
            f'            text = "{_quoted(text)}"',
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace('"', '""')
