"""Estimating n-gram language models from text.

    build_language_model(["text.txt.gz"], "lm.arpa", order=4, prune=(0, 0, 1, 1))

Interpolated modified Kneser-Ney smoothing: Chen and Goodman 1998, "An Empirical Study of Smoothing
Techniques for Language Modeling", section 3; out of core as in Heafield et al. 2013, "Scalable
Modified Kneser-Ney Language Model Estimation".
"""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctcspeech.errors import LanguageModelError
from ctcspeech.files import DECOMPRESSION_ERRORS, decompressed

__all__ = ["BuildReport", "OrderReport", "build_language_model"]

MAX_ORDER = 12
_CHUNK = 1 << 20  # bytes of text at a time

Texts = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[bytes]

# (stage, done, total): bytes of text while counting (total 0 if unknown), n-grams afterwards.
ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class OrderReport:
    """One order of an estimated model."""

    ngrams: int  # met in the text
    kept: int  # not pruned
    discounts: tuple[float, float, float]  # for adjusted counts of 1, 2, and 3 or more


@dataclass(frozen=True)
class BuildReport:
    """What a model was estimated from, and how large it is."""

    sentences: int
    words: int
    bytes_on_disk: int  # written to temporary files
    orders: tuple[OrderReport, ...]


def build_language_model(
    texts: Texts,
    output: str | os.PathLike[str],
    *,
    order: int = 3,
    prune: Sequence[int] = (0,),
    vocabulary: Iterable[str] | None = None,
    vocabulary_size: int | None = None,
    discount_fallback: Sequence[float] | None = None,
    skip_symbols: bool = False,
    memory: int = 2 << 30,
    temp_dir: str | os.PathLike[str] | None = None,
    map_line: Callable[[str], str] | None = None,
    progress: ProgressCallback | None = None,
) -> BuildReport:
    """Estimates an interpolated modified Kneser-Ney model and writes it as an ARPA file.

    texts: a file or several (plain, gzip, bzip2, xz), UTF-8, one sentence a line, words separated
        by blanks; or an iterable of bytes, pieces of such a text. A str is a path, bytes are text.
    order: length of the longest n-grams, 1 to 12.
    prune: n-grams met this often or less are left out, a number for each order beginning with
        unigrams (for which it must be 0), the last one for all further orders; never decreasing.
    vocabulary, vocabulary_size: only these words, or the most frequent ones: n-grams with others
        are pruned. Both may be given.
    discount_fallback: three discounts (for adjusted counts of 1, 2, 3 and more) for an order whose
        counts give none, which happens with very little or artificial text.
    skip_symbols: drop `<s>`, `</s>` and `<unk>` in the text; otherwise they are an error.
    memory: bytes to use, roughly; what does not fit goes to temporary files in `temp_dir` (by
        default the system's), which needs about 30 bytes for each n-gram of each order at worst.
    map_line: applied to each line before it is counted; it may split a line into characters or
        pieces.
    progress: called now and then with (stage, done, total).

    Raises LanguageModelError where the text cannot give a model, and ValueError for wrong options.
    The output is written whole or not at all.
    """
    from ctcspeech import _core

    if isinstance(texts, (str, bytes, bytearray, os.PathLike)):
        texts = [texts]  # type: ignore[list-item]
    options = _core.EstimateOptions()
    options.order = _checked_order(order)
    options.prune = _checked_prune(prune, order)
    options.skip_symbols = skip_symbols
    if memory < 16 << 20:
        raise ValueError(f"memory must be at least 16 MiB (16777216), got {memory}")
    options.memory = memory
    options.temp_folder = os.fspath(temp_dir if temp_dir is not None else tempfile.gettempdir())
    if vocabulary is not None:
        options.vocabulary, options.has_vocabulary = list(vocabulary), True
    if vocabulary_size is not None:
        if vocabulary_size < 1:
            raise ValueError(f"vocabulary_size must be at least 1, got {vocabulary_size}")
        options.vocabulary_size = vocabulary_size
    if discount_fallback is not None:
        options.has_fallback, options.fallback = True, _checked_fallback(discount_fallback)

    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    report = progress or (lambda stage, done, total: None)
    try:
        estimator = _core.Estimator(options)
        _count(estimator, texts, map_line, report)
        stages: list[tuple[str, Callable[[], None]]] = [
            ("sorting", estimator.finish_text),
            ("adjusting counts", estimator.adjust),
            ("normalising", estimator.normalize),
            ("interpolating", lambda: estimator.write_arpa(os.fspath(temporary))),
        ]
        for name, stage in stages:
            _run_stage(estimator, name, stage, report)
        os.replace(temporary, output)
    except _core.EstimateError as error:
        raise LanguageModelError(str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return BuildReport(
        sentences=estimator.sentences,
        words=estimator.tokens,
        bytes_on_disk=estimator.bytes_on_disk,
        orders=tuple(
            OrderReport(s.types, s.kept, tuple(s.discounts[1:]))  # type: ignore[arg-type]
            for s in estimator.statistics
        ),
    )


def _count(
    estimator: Any,
    texts: Sequence[str | os.PathLike[str]] | Iterable[bytes],
    map_line: Callable[[str], str] | None,
    report: ProgressCallback,
) -> None:
    done = 0
    inputs = texts if isinstance(texts, Sequence) else []
    paths = [t for t in inputs if not isinstance(t, (bytes, bytearray))]
    total = sum(os.path.getsize(path) for path in paths)
    for position, chunk in _chunks(texts):
        estimator.add_text(chunk if map_line is None else _mapped(chunk, map_line))
        done = max(done, position)
        report("counting", done, total)


def _chunks(
    texts: Sequence[str | os.PathLike[str]] | Iterable[bytes],
) -> Iterator[tuple[int, bytes]]:
    """Pieces of text that end with a line, each with the bytes of the input files read so far."""
    before = 0
    for text in texts:
        if isinstance(text, (bytes, bytearray)):
            before += len(text)
            yield before, bytes(text)
            continue
        path = Path(text)
        with open(path, "rb") as raw:
            try:
                file = decompressed(raw)
                while chunk := file.read(_CHUNK):
                    yield before + _position(raw), chunk + file.readline()
            except DECOMPRESSION_ERRORS as error:
                raise LanguageModelError(f"{path}: cannot be decompressed: {error}") from error
        before += path.stat().st_size
        yield before, b""


def _position(file: Any) -> int:
    return file.tell() if file.seekable() else 0  # a pipe has no size either


def _mapped(chunk: bytes, map_line: Callable[[str], str]) -> bytes:
    try:
        lines = chunk.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LanguageModelError(f"the text is not UTF-8: {error}") from None
    last = lines.pop()
    mapped = "".join(map_line(line) + "\n" for line in lines)
    return (mapped + (map_line(last) if last else "")).encode("utf-8")


def _run_stage(
    estimator: Any, name: str, stage: Callable[[], None], report: ProgressCallback
) -> None:
    """Runs a native stage in a thread of its own, so that progress shows and Ctrl-C ends it."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            stage()
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        running = True
        while running:  # reported once at least, however quick it is
            worker.join(0.1)
            running = worker.is_alive()
            report(name, estimator.records_done, estimator.records_total)
    except BaseException:
        estimator.cancel()
        worker.join()
        raise
    if failure:
        raise failure[0]


def _checked_order(order: int) -> int:
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be between 1 and {MAX_ORDER}, got {order}")
    return order


def _checked_prune(prune: Sequence[int], order: int) -> list[int]:
    thresholds = [int(p) for p in prune] or [0]
    if len(thresholds) > order:
        raise ValueError(f"prune has {len(thresholds)} numbers for a model of order {order}")
    thresholds += [thresholds[-1]] * (order - len(thresholds))
    if thresholds[0] != 0:
        raise ValueError(
            f"prune must begin with 0, got {thresholds[0]}: unigrams are limited by a vocabulary"
        )
    if any(a > b for a, b in zip(thresholds, thresholds[1:], strict=False)):
        raise ValueError(f"prune must not decrease with the order, got {thresholds}")
    return thresholds


def _checked_fallback(discounts: Sequence[float]) -> list[float]:
    values = [float(d) for d in discounts]
    if len(values) != 3 or any(not 0 <= d <= k for k, d in enumerate(values, 1)):
        raise ValueError(
            f"discount_fallback must be three numbers of at most 1, 2 and 3, got {values}"
        )
    return [0.0, *values]
