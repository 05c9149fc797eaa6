"""Collections of handwriting in the formats in which they are published.

UJI Pen Characters, version 2 (UCI repository; Llorens et al., LREC 2008): one text file,

    WORD a trn_UJI_W01-01         the character, and session, set and writer: trn or tst
    NUMSTROKES 1
    POINTS 44 # 557 844 550 803 ...

in hundredths of a millimetre, y growing downward as on a screen. UNIPEN (Guyon et al., ICPR 1994):
`.PEN_DOWN`, `.PEN_UP`, lines of coordinates as `.COORD X Y ...` names them, y growing upward,
`.SEGMENT CHARACTER|WORD 0-2 ? "label"` with ranges of components counted from 0 over pen-downs and
pen-ups alike, or the older count over pen-downs alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctcspeech.errors import ManifestError
from ctcspeech.pen.strokes import Ink

__all__ = ["read_uji", "read_unipen"]

_MOST_COMPONENTS = 1_000_000  # of a segment: a damaged range must not fill the memory


def read_uji(path: str | os.PathLike[str]) -> Iterator[Ink]:
    """The characters of a UJI file; `extra["split"]` is train or test, as its authors divide it.

    Raises ManifestError with the line's number where the file is something else.
    """
    path = Path(path)
    lines = [
        (number, line)
        for number, line in enumerate(_lines(path), 1)
        if line.strip() and not line.startswith("//")
    ]
    place = 0
    while place < len(lines):
        number, line = lines[place]
        match = re.fullmatch(r"\s*WORD\s+(\S+)\s+(trn|tst)_(\S+?)(?:-\d+)?\s*", line)
        if not match:
            raise ManifestError(f"{path}:{number}: not a WORD line of UJI Pen Characters: {line!r}")
        strokes, place = _uji_strokes(path, lines, place + 1)
        split = "train" if match[2] == "trn" else "test"
        yield Ink(strokes, match[1], match[3], {"split": split})


def _uji_strokes(
    path: Path, lines: list[tuple[int, str]], place: int
) -> tuple[list[np.ndarray], int]:
    number, line = lines[place] if place < len(lines) else (-1, "")
    match = re.fullmatch(r"\s*NUMSTROKES\s+(\d+)\s*", line)
    if not match:
        raise ManifestError(f"{path}:{number}: NUMSTROKES is wanted here, got {line!r}")
    strokes = []
    for number, line in lines[place + 1 : place + 1 + int(match[1])]:
        points = re.fullmatch(r"\s*POINTS\s+(\d+)\s+#\s+([-\d\s.]+)", line)
        values = np.array(points[2].split(), float) if points else np.zeros(0)
        if not points or len(values) != 2 * int(points[1]) or not len(values):
            raise ManifestError(f"{path}:{number}: not a line of POINTS, or another number of them")
        strokes.append(values.reshape(-1, 2))
    if len(strokes) != int(match[1]):
        raise ManifestError(f"{path}: ends before the strokes that line {number} announces")
    return strokes, place + 1 + len(strokes)


def read_unipen(path: str | os.PathLike[str], level: str = "WORD") -> Iterator[Ink]:
    """The labelled segments of one level (CHARACTER, WORD, TEXT) of a UNIPEN file.

    Raises ManifestError where .COORD names no X and Y, a segment names components that there are
    not, or a coordinate cannot be read.
    """
    path = Path(path)
    columns = (0, 1)
    components: list[tuple[bool, list[list[float]]]] = []  # pen down, points
    segments: list[tuple[int, str]] = []
    writer: str | None = None
    points: list[list[float]] | None = None
    for number, line in enumerate(_lines(path), 1):
        word, _, rest = line.strip().partition(" ")
        if word == ".COORD":
            names = rest.split()
            if not {"X", "Y"} <= set(names):
                raise ManifestError(f"{path}:{number}: .COORD must name X and Y, got {rest!r}")
            columns = (names.index("X"), names.index("Y"))
        elif word in (".PEN_DOWN", ".PEN_UP"):
            points = []
            components.append((word == ".PEN_DOWN", points))
        elif word == ".WRITER_ID":
            writer = rest.strip()
        elif word == ".SEGMENT":
            segments.append((number, rest))
            points = None
        elif word.startswith("."):
            points = None
        elif points is not None and line.strip():
            points.append(_unipen_point(path, number, line, columns))
    down = [i for i, (is_down, _) in enumerate(components) if is_down]
    for number, rest in segments:
        match = re.match(r'(\S+)\s+([\d\-,:]+)\s+\S+\s+"(.*)"\s*$', rest)
        if not match or match[1].upper() != level.upper():
            continue
        chosen = _components(match[2])
        if not chosen:
            raise ManifestError(f"{path}:{number}: not a range of components: {match[2]!r}")
        alike = max(chosen) < len(components) and any(components[i][0] for i in chosen)
        strokes = [components[i][1] for i in chosen if i < len(components) and components[i][0]]
        if not alike:  # the older way: counted over pen-downs alone
            if max(chosen) >= len(down):
                raise ManifestError(f"{path}:{number}: there is no component {max(chosen)}")
            strokes = [components[down[i]][1] for i in chosen]
        yield Ink([np.array(s) for s in strokes if s], match[3], writer)


def _unipen_point(path: Path, number: int, line: str, columns: tuple[int, int]) -> list[float]:
    values = line.split()
    try:
        return [float(values[columns[0]]), -float(values[columns[1]])]  # y grows upward there
    except (ValueError, IndexError) as error:
        raise ManifestError(f"{path}:{number}: not a point: {line.strip()!r}") from error


def _components(text: str) -> list[int]:
    """`0-2,5` as [0, 1, 2, 5]; `3:10` (from a point on) counts the whole component. Empty where it
    is something else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?::\d+)?(?:-(\d{1,9})(?::\d+)?)?", part)
        if match is None or int(match[2] or match[1]) - int(match[1]) > _MOST_COMPONENTS:
            return []
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _lines(path: Path) -> list[str]:
    """Of a file in UTF-8, or where it is not, in Latin-1, as files of that time are."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return data.decode("latin-1").splitlines()
