"""The files of n-gram models: telling them apart, reading and writing them.

ARPA is text, perhaps compressed. A binary of this package is mapped; csrc/ngram/format.h describes
it. A binary of KenLM is read whole and laid out anew (csrc/ngram/kenlm.h).
"""

import gzip
import os
from pathlib import Path
from typing import Any

from ctcspeech._core import NgramModel, NgramTable
from ctcspeech.errors import LanguageModelError
from ctcspeech.files import DECOMPRESSION_ERRORS, atomic_write, open_compressed

__all__ = ["DEFAULT_UNKNOWN", "KINDS", "check_kind", "read_model", "read_table", "write_table"]

KINDS = ("arpa", "probing", "trie")

DEFAULT_UNKNOWN = -100.0  # log10 P(<unk>) where an ARPA file lists no <unk>, as in KenLM

_BINARY = b"\x89CLM"  # how a binary of this package begins
_KENLM = b"mmap lm http://kheafield.com/code"  # and one of KenLM


def file_kind(path: Path) -> str:
    """`binary` (of this package), `kenlm`, or `arpa` for whatever else, by the first bytes."""
    with open(path, "rb") as file:
        head = file.read(len(_KENLM))
    return "binary" if head.startswith(_BINARY) else "kenlm" if head == _KENLM else "arpa"


def read_model(path: Path, unknown_log10: float, verify: bool) -> Any:
    """The native model of a file of any kind. Only a mapped binary needs to be verified."""
    if file_kind(path) == "arpa":
        return _read_arpa(path, unknown_log10).build("probing", 0, 0)
    core = NgramModel.load(os.fspath(path), DEFAULT_UNKNOWN)
    if verify:
        core.verify()
    return core


def read_table(path: Path, unknown_log10: float = DEFAULT_UNKNOWN) -> Any:
    """The n-grams of a file, as a native table. Raises LanguageModelError for a probing binary."""
    if file_kind(path) == "arpa":
        return _read_arpa(path, unknown_log10)
    try:
        return NgramTable.from_model(read_model(path, unknown_log10, verify=True))
    except LanguageModelError as error:
        named = str(error).startswith(f"{path}: ")
        raise LanguageModelError(str(error) if named else f"{path}: {error}") from None


def _read_arpa(path: Path, unknown_log10: float) -> Any:
    if not unknown_log10 <= 0:
        raise ValueError(f"unknown_log10 must be at most 0, got {unknown_log10}")
    # What fails when the file is opened is an OSError of its own; afterwards it is the contents.
    path.stat()
    try:
        with open_compressed(path) as file:
            return NgramTable.read_arpa(file, str(path), unknown_log10)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DECOMPRESSION_ERRORS as error:
        raise LanguageModelError(f"{path}: cannot be decompressed: {error}") from error


def check_kind(kind: str, probability_bits: int, backoff_bits: int) -> None:
    """Raises ValueError for a kind or numbers of bits that there are not."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, bits, least in (
        ("probability_bits", probability_bits, 1),
        ("backoff_bits", backoff_bits, 2),
    ):
        if bits != 0 and not least <= bits <= 24:
            raise ValueError(f"{name} must be 0 or from {least} to 24, got {bits}")
        if bits and kind != "trie":
            raise ValueError(f"{name} needs kind 'trie', got {kind!r}")


def write_table(
    table: Any, path: Path, kind: str, probability_bits: int = 0, backoff_bits: int = 0
) -> None:
    """Writes a native table as a file of this kind, whole or not at all."""
    check_kind(kind, probability_bits, backoff_bits)
    if kind != "arpa":
        model = table.build(kind, probability_bits, backoff_bits)
        with atomic_write(path, "wb") as file:
            model.write(file.write)
        return
    with atomic_write(path, "wb") as file:
        if path.suffix == ".gz":
            # No name and no time of day: the same model gives the same file.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                table.write_arpa(packed.write)
        else:
            table.write_arpa(file.write)
