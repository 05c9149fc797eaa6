"""The files of results: JSON lines as `transcribe --format jsonl` writes them, or Parquet."""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ctcspeech.errors import BulkError

__all__ = ["FORMATS", "decode_records", "encode_records"]

FORMATS = ("jsonl", "parquet")


def encode_records(records: Sequence[dict[str, Any]], format: str) -> bytes:
    """A file's bytes; the same records always give the same bytes (of one release of pyarrow)."""
    if format == "jsonl":
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        return "".join(lines).encode()
    import pyarrow
    import pyarrow.parquet

    n_best = any("passages" in record for record in records)
    table = pyarrow.Table.from_pylist(list(records), schema=_schema(n_best))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode_records(data: bytes, format: str) -> Iterator[dict[str, Any]]:
    """The records of a file."""
    if format == "jsonl":
        for line in data.splitlines():
            yield json.loads(line)
        return
    import pyarrow
    import pyarrow.parquet

    try:
        yield from pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except pyarrow.ArrowException as error:
        raise BulkError(f"a file of results is damaged: {error}") from error


def _schema(n_best: bool) -> Any:
    import pyarrow as pa

    word = pa.struct(
        [
            ("word", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("confidence", pa.float64()),
        ]
    )
    fields = [
        ("audio_filepath", pa.string()),
        ("id", pa.string()),
        ("offset", pa.float64()),
        ("duration", pa.float64()),
        ("text", pa.string()),
        ("words", pa.list_(word)),
    ]
    if n_best:
        hypothesis = pa.struct(
            [
                ("text", pa.string()),
                ("score", pa.float64()),
                ("ctc_score", pa.float64()),
                ("lm_score", pa.float64()),
            ]
        )
        passage = pa.struct(
            [
                ("start", pa.float64()),
                ("end", pa.float64()),
                ("hypotheses", pa.list_(hypothesis)),
            ]
        )
        fields.append(("passages", pa.list_(passage)))
    return pa.schema(fields)
