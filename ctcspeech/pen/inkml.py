"""InkML (W3C Recommendation, 20 September 2011): one piece of handwriting a file.

Read: `<trace>` elements anywhere, in their order, as strokes; points are numbers separated by
commas, the first two of each X and Y (or where `<traceFormat>` puts the channels X and Y), explicit
or as first and second differences (section 3.2.1: the prefixes !, ' and "). The text stands in an
`<annotation>` of type truth, transcription, label or text, the writer in one of type writer. What
else a file holds is passed over. Entities and DTDs are refused: they have no use here.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from ctcspeech.errors import FeatureError
from ctcspeech.files import atomic_write
from ctcspeech.pen.strokes import Ink

__all__ = ["read_inkml", "write_inkml"]

_NAMESPACE = "http://www.w3.org/2003/InkML"
_TRUTH = ("truth", "transcription", "label", "text")
LARGEST_FILE = 64 << 20  # bytes: a page of ink has some hundred thousand


def read_inkml(path: str | os.PathLike[str]) -> Ink:
    """The strokes of a file.

    Raises FeatureError when it is missing, too large, not InkML, has no trace, or a trace cannot be
    read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        raise FeatureError(f"{path}: {error.strerror}") from error
    if size > LARGEST_FILE:
        raise FeatureError(f"{path}: {size} bytes are too many for one piece of ink; divide it")
    if re.search(rb"<!(DOCTYPE|ENTITY)", data, re.I):
        raise FeatureError(f"{path}: has a DTD or entities, which are not read; remove them")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise FeatureError(f"{path}: not XML: {error}") from error
    if _plain(root.tag) != "ink":
        raise FeatureError(f"{path}: not InkML: its root is <{_plain(root.tag)}>, not <ink>")
    columns = _columns(root)
    strokes: list[np.ndarray] = []
    text, writer = "", None
    for element in root.iter():
        tag, content = _plain(element.tag), (element.text or "").strip()
        if tag == "trace" and element.get("type", "penDown") == "penDown":
            strokes.append(_points(content, columns, f"{path}: trace {len(strokes)}"))
        elif tag == "annotation" and element.get("type", "").lower() in _TRUTH and not text:
            text = content
        elif tag == "annotation" and element.get("type", "").lower() == "writer":
            writer = content
    if not strokes:
        raise FeatureError(f"{path}: has no <trace>: nothing is written in it")
    return Ink(strokes, text, writer)


def write_inkml(path: str | os.PathLike[str], ink: Ink) -> None:
    """Writes the strokes, the text and the writer; whole or not at all."""
    lines = [f'<ink xmlns="{_NAMESPACE}">']
    if ink.text:
        lines.append(f'  <annotation type="truth">{escape(ink.text)}</annotation>')
    if ink.writer:
        lines.append(f'  <annotation type="writer">{escape(ink.writer)}</annotation>')
    for stroke in ink.strokes:
        points = ", ".join(f"{x:.6g} {y:.6g}" for x, y in stroke)
        lines.append(f"  <trace>{points}</trace>")
    with atomic_write(path) as file:
        file.write("\n".join([*lines, "</ink>"]) + "\n")


def _plain(tag: object) -> str:
    """A tag without its namespace; comments have none."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _columns(root: ElementTree.Element) -> tuple[int, int]:
    names = [e.get("name") for e in root.iter() if _plain(e.tag) == "channel"]
    return (names.index("X"), names.index("Y")) if {"X", "Y"} <= set(names) else (0, 1)


def _points(text: str, columns: tuple[int, int], what: str) -> np.ndarray:
    points = []
    read = _Differences(columns) if re.search(r"['\"!*?TF]", text) else None
    for number, point in enumerate(filter(str.strip, text.split(",")), 1):
        try:
            if read is not None:
                points.append(read(point))
                continue
            values = point.split()
            points.append([float(values[column]) for column in columns])
        except (ValueError, IndexError) as error:
            raise FeatureError(
                f"{what}: point {number} is no X and Y: {point.strip()!r}"
            ) from error
    if not points or not np.isfinite(points).all():
        raise FeatureError(f"{what}: {'no point' if not points else 'a point is not finite'}")
    return np.array(points)


class _Differences:
    """Points of one trace whose numbers may be explicit (!), the change since the point before (')
    or the change of that change ("). A prefix holds for its channel until there is another.

    A call raises ValueError or IndexError where X or Y is none of these: a mark (* ? T F), or a
    difference of nothing.
    """

    VALUE = re.compile(r"\s*([!'\"]?)\s*(-?\s*(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[*?TF])")

    def __init__(self, columns: tuple[int, int]) -> None:
        self.columns = columns
        self.orders = [0, 0]  # of differences, of X and Y
        self.known: list[list[float]] = [[], []]  # the value, and how it changed last

    def __call__(self, point: str) -> list[float]:
        values = self.VALUE.findall(point)
        if self.VALUE.sub("", point).strip():
            raise ValueError(point)
        return [self._next(axis, *values[column]) for axis, column in enumerate(self.columns)]

    def _next(self, axis: int, prefix: str, token: str) -> float:
        if prefix:
            self.orders[axis] = "!'\"".index(prefix)
        order, known = self.orders[axis], self.known[axis]
        if order > len(known):
            raise ValueError("a difference of nothing")
        number = float("".join(token.split()))
        if order == 0:
            known[:] = [number]
        else:
            change = number if order == 1 else known[1] + number
            known[:] = [known[0] + change, change]
        return known[0]
