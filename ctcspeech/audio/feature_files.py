"""Features computed by other tools: NumPy `.npy`, Kaldi archives, Sphinx `.mfc`.

A Kaldi matrix is named as in a `feats.scp`: `feats.ark:1234`, the archive and the byte at which
the matrix begins. Binary matrices of float and double, the three compressed forms, and text
matrices are read, by kaldiio (the extra "kaldi"). A Sphinx file does not say how wide a frame is;
that must be given.
"""

import mmap
import os
import re
import struct
from pathlib import Path

import numpy as np

from ctcspeech.errors import FeatureError
from ctcspeech.extras import require
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
        MissingPackageError: for a Kaldi archive without kaldiio, which the extra "kaldi" brings.
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


# --- Kaldi, by kaldiio

# A binary matrix up to its values: rows and columns, or those of a compressed one.
_BINARY = re.compile(
    rb"\0B(?:[FD]M \x04(.{4})\x04(.{4})|CM[23]? .{8}(.{4})(.{4}))", flags=re.DOTALL
)


def _read_kaldi(path: Path, offset: int | None) -> np.ndarray:
    # A map ends where the file does, however much a damaged header asks for.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as archive:
        archive.seek(_after_key(archive) if offset is None else offset)
        matrix = _read_matrix(archive)
        if offset is None and archive.read(64).strip():
            raise ValueError("has several matrices; name one as file.ark:offset, as feats.scp does")
        return matrix


def _after_key(archive: mmap.mmap) -> int:
    """Where the matrix begins: after `key ` in an archive."""
    start = archive[:4096]
    key_end = start.find(b" ")
    named = not start.startswith((b"\0B", b" ", b"[")) and key_end > 0
    return key_end + 1 if named else 0


def _read_matrix(archive: mmap.mmap) -> np.ndarray:
    """The matrix that begins here.

    kaldiio's functions for matrices alone: the one that tells apart all that an archive may hold
    also unpickles, and a pickle runs what it likes.
    """
    matio = require("kaldiio.matio", "reading Kaldi archives")
    here = archive.tell()
    if archive[here : here + 2] == b"\0B":
        _check_binary(archive[here : here + 32])
        read = matio.read_matrix_or_vector
    else:
        _check_text(archive, here)
        read = matio.read_ascii_mat
    try:
        with np.errstate(all="ignore"):  # values that are not finite are told later
            return read(archive)
    except (*NUMPY_ERRORS, AssertionError, IndexError) as error:
        raise ValueError(f"truncated or damaged, or a wrong offset: {error}") from error


def _check_binary(head: bytes) -> None:
    found = _BINARY.match(head)
    if found is None:
        raise ValueError(
            f"holds {head[2:6]!r} and not a whole matrix of float or double; check the offset"
        )
    rows, columns = (struct.unpack("<i", size)[0] for size in found.groups() if size is not None)
    if rows < 0 or columns < 0:
        raise ValueError(f"the size of the matrix is damaged: {rows} x {columns}")


def _check_text(archive: mmap.mmap, start: int) -> None:
    """`[`, a line a row, `]`."""
    body = archive[start : archive.find(b"]", start) + 1].strip()
    if not body.startswith(b"["):
        raise ValueError("neither a binary nor a complete text matrix; check the offset")
    if not body.strip(b"[] \n"):
        raise ValueError("the matrix is empty; compute it anew")
