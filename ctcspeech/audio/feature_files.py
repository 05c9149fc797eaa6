"""Features computed by other tools: NumPy `.npy`, Kaldi archives, Sphinx `.mfc`.

A Kaldi matrix is named as in a `feats.scp`: `feats.ark:1234`, the archive and the byte at which
the matrix begins. Binary matrices of float and double, the three compressed forms, and text
matrices are read. A Sphinx file does not say how wide a frame is; that must be given.
"""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ctcspeech.errors import FeatureError
from ctcspeech.files import NUMPY_ERRORS

__all__ = ["SPHINX_WIDTH", "load_features"]

SPHINX_WIDTH = 13
"""Cepstra in a frame of a Sphinx file unless told otherwise."""

_KALDI = re.compile(r"^(?P<path>.+\.ark):(?P<offset>\d+)(?P<range>\[.*\])?$")


def load_features(source: str | os.PathLike[str], num_features: int | None = None) -> np.ndarray:
    """The features in a file.

    Args:
        source: `x.npy`, `x.mfc`, `x.ark` with a single matrix, `x.ark:offset`, or pen strokes,
            `x.inkml`, whose features are computed (`ctcspeech.pen.features`).
        num_features: the width that a frame must have. None takes what the file has, and 13 for
            a Sphinx file.

    Returns:
        float32 (T, F).

    Raises:
        FeatureError: if the file is missing, damaged, of an unknown kind, empty, not finite, or of
            another width.
    """
    name = os.fspath(source)
    kaldi = _KALDI.match(name)
    path = Path(kaldi["path"] if kaldi else name)
    if not path.is_file():
        raise FeatureError(f"{name}: no such file; check the path")
    try:
        if path.suffix == ".npy":
            features = np.load(path, allow_pickle=False)
        elif path.suffix == ".inkml":
            from ctcspeech.pen.features import ink_features
            from ctcspeech.pen.inkml import read_inkml

            features = ink_features(read_inkml(path))
        elif path.suffix == ".mfc":
            features = _read_sphinx(path, num_features or SPHINX_WIDTH)
        elif path.suffix == ".ark":
            if kaldi and kaldi["range"]:
                raise ValueError(f"row ranges such as {kaldi['range']} are not read; cut it first")
            features = _read_kaldi(path, int(kaldi["offset"]) if kaldi else None)
        else:
            raise ValueError("features are read from .npy, .ark, .mfc and .inkml; convert the file")
    except NUMPY_ERRORS as error:
        raise FeatureError(f"{name}: {error}") from error
    return _checked(features, num_features, name)


def _checked(features: np.ndarray, num_features: int | None, name: str) -> np.ndarray:
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise FeatureError(
            f"{name}: features must be a matrix of numbers, frames by features; it has shape "
            f"{features.shape} and type {features.dtype}"
        )
    if 0 in features.shape:
        raise FeatureError(f"{name}: the matrix is empty, {features.shape}; compute it anew")
    if num_features is not None and features.shape[1] != num_features:
        raise FeatureError(
            f"{name}: frames have {features.shape[1]} features, the configuration has "
            f"num_features = {num_features}; correct one of them"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        features = np.ascontiguousarray(features, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.sum(features, dtype=np.float64)
    if not np.isfinite(total):
        raise FeatureError(f"{name}: holds NaN or infinite values; compute it anew")
    return features


def _read_sphinx(path: Path, width: int) -> np.ndarray:
    """An int32 count of the floats, then float32, both big- or both little-endian."""
    data = path.read_bytes()
    held = len(data) // 4 - 1
    for order in "><":
        if len(data) >= 4 and struct.unpack_from(order + "i", data)[0] == held:
            break
    else:
        raise ValueError(
            f"the count before the samples does not agree with its size of {len(data)} bytes in "
            "either byte order: it is truncated or not a Sphinx feature file"
        )
    if held % width:
        raise ValueError(f"{held} numbers are not whole frames of {width}; correct num_features")
    return np.frombuffer(data, order + "f4", held, 4).reshape(-1, width)


# --- Kaldi: kaldi/src/matrix documents the layout of the tables and of compressed matrices


def _read_kaldi(path: Path, offset: int | None) -> np.ndarray:
    with open(path, "rb") as file:
        if offset is not None:
            file.seek(offset)
        else:
            _skip_key(file)
        matrix = _read_matrix(file)
        if offset is None and file.read(64).strip():
            raise ValueError("has several matrices; name one as file.ark:offset, as feats.scp does")
        return matrix


def _skip_key(file: BinaryIO) -> None:
    """Leaves the file where the matrix begins: after `key ` in an archive."""
    start = file.read(4096)
    key_end = start.find(b" ")
    if not start.startswith((b"\0B", b" ", b"[")) and key_end > 0:
        file.seek(key_end + 1)
    else:
        file.seek(0)


def _read_matrix(file: BinaryIO) -> np.ndarray:
    if (mark := file.read(2)) != b"\0B":
        return _read_text_matrix(mark, file)
    kind = b""
    while not kind.endswith(b" ") and len(kind) < 8:
        if not (byte := file.read(1)):
            raise ValueError("ends before the matrix: truncated, or a wrong offset")
        kind += byte
    kind = kind.strip()
    if kind in (b"FM", b"DM"):
        rows, columns = _int32(file), _int32(file)
        return _take(file, "<f4" if kind == b"FM" else "<f8", rows, columns)
    if kind in (b"CM", b"CM2", b"CM3"):
        return _read_compressed(file, kind)
    raise ValueError(f"holds {kind!r} and not a matrix of float or double; check the offset")


def _int32(file: BinaryIO) -> int:
    data = file.read(5)
    if len(data) < 5 or data[0] != 4:  # Kaldi writes the size of an integer before it
        raise ValueError("the size of the matrix is damaged")
    return struct.unpack_from("<i", data, 1)[0]


def _take(file: BinaryIO, kind: str, rows: int, columns: int) -> np.ndarray:
    if rows < 0 or columns < 0:
        raise ValueError(f"the size of the matrix is damaged: {rows} x {columns}")
    size = np.dtype(kind).itemsize * rows * columns
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left < size:
        raise ValueError(f"truncated: the matrix needs {size} bytes and {left} are left")
    return np.frombuffer(file.read(size), kind).reshape(rows, columns)


def _read_compressed(file: BinaryIO, kind: bytes) -> np.ndarray:
    """One range for the matrix; 16 bits (CM2), 8 bits (CM3), or 8 bits along quartiles (CM)."""
    header = file.read(16)
    if len(header) < 16:
        raise ValueError("truncated in the header of a compressed matrix")
    low, extent, rows, columns = struct.unpack("<ffii", header)
    low, extent = np.float32(low), np.float32(extent)
    if kind == b"CM2":
        return low + extent * np.float32(1 / 65535) * _take(file, "<u2", rows, columns)
    if kind == b"CM3":
        return low + extent * np.float32(1 / 255) * _take(file, "u1", rows, columns)
    # (columns, 4): the values of each column at 0, 25, 75 and 100 percent
    quartiles = low + extent * np.float32(1 / 65535) * _take(file, "<u2", columns, 4)
    codes = _take(file, "u1", columns, rows).astype(np.float32)
    p0, p25, p75, p100 = (quartiles[:, i : i + 1] for i in range(4))
    values = np.where(
        codes <= 64,
        p0 + (p25 - p0) * codes * np.float32(1 / 64),
        np.where(
            codes <= 192,
            p25 + (p75 - p25) * (codes - 64) * np.float32(1 / 128),
            p75 + (p100 - p75) * (codes - 192) * np.float32(1 / 63),
        ),
    )
    return values.T


def _read_text_matrix(start: bytes, file: BinaryIO) -> np.ndarray:
    """`[ 1 2 3`, a line a row, `]`."""
    text = start
    while b"]" not in text:
        if not (piece := file.read(1 << 16)):
            raise ValueError("neither a binary nor a complete text matrix; check the offset")
        text += piece
    end = text.index(b"]")
    file.seek(end + 1 - len(text), os.SEEK_CUR)
    body = text[:end].strip()
    if not body.startswith(b"["):
        raise ValueError("neither a binary nor a text matrix; check the offset")
    rows = [line.split() for line in body[1:].splitlines() if line.strip()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("the rows of the text matrix differ in length")
    return np.array([[float(x) for x in row] for row in rows], np.float32).reshape(len(rows), -1)
