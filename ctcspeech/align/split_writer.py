"""What `ctcspeech align --split` writes: utterances for training, and a report of them all.

FOLDER/manifest.jsonl   the utterances that were kept, with their scores
FOLDER/audio/*.flac     their audio at the recording's own rate, one channel (none with `offsets`)
FOLDER/report.jsonl     every utterance: recording, line, start, end, score, text, why dropped
"""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import soundfile

from ctcspeech import audio
from ctcspeech.align.known_text import AlignedText
from ctcspeech.align.split import Piece, SplitLimits, split_text
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.errors import AlignmentError
from ctcspeech.files import atomic_write
from ctcspeech.recognize.transcript import Transcript

__all__ = ["SplitWriter"]

_OTHER_LIMITS = (-0.5, -1.0, -1.5, -2.0, -3.0, -5.0)  # shown in the summary


class SplitWriter:
    """Writes pieces as recordings are aligned; manifest and report when all are done."""

    def __init__(
        self, folder: Path, limits: SplitLimits | None = None, *, offsets: bool = False
    ) -> None:
        """offsets: the manifest names the long recordings, with offset and duration."""
        self.folder, self.offsets = folder, offsets
        self.limits = limits or SplitLimits()
        self.utterances: list[Utterance] = []
        self.rows: list[dict[str, Any]] = []
        self._names: Counter[str] = Counter()

    def add(self, transcript: Transcript, aligned: AlignedText) -> None:
        """One recording. Raises AlignmentError where it is no file, AudioError if it cannot be
        read again."""
        recording = transcript.recording
        if recording is None or not isinstance(recording.source, Path):
            raise AlignmentError("only recordings that are files can be split")
        source = recording.source
        line = recording.utterance
        speaker = line.speaker if line is not None else None
        name = line.id if line is not None else source.stem
        name = name.replace("/", "_")
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name}-{self._names[name]}"
        pieces = split_text(aligned, transcript.duration, self.limits)
        for number, piece in enumerate(pieces, 1):
            identity = f"{name}-{number:04}"
            if not piece.dropped:
                path, offset = source.absolute(), recording.offset + piece.start
                if not self.offsets:
                    path, offset = self._write(identity, path, offset, piece), 0.0
                utterance = _utterance(path, offset, identity, piece, speaker)
                self.utterances.append(utterance)
            self.rows.append(_row(transcript.name, identity, piece))

    def _write(self, identity: str, source: Path, offset: float, piece: Piece) -> Path:
        samples, rate = audio.load(source, None, offset, piece.end - piece.start)
        path = self.folder / "audio" / f"{identity}.flac"
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, rate, format="FLAC", subtype="PCM_16")
        with atomic_write(path, "wb") as file:
            file.write(encoded.getvalue())
        return path

    def close(self) -> None:
        """Writes manifest and report."""
        write_manifest(self.folder / "manifest.jsonl", self.utterances)
        with atomic_write(self.folder / "report.jsonl") as file:
            for row in self.rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def summary(self) -> str:
        """What was kept and dropped and why, for people."""
        seconds = sum(row["end"] - row["start"] for row in self.rows)
        kept = sum(row["end"] - row["start"] for row in self.rows if not row["dropped"])
        lines = [
            f"{len(self.utterances)} of {len(self.rows)} utterances kept, "
            f"{kept / 60:.1f} of {seconds / 60:.1f} minutes, in {self.folder}"
        ]
        reasons = Counter(row["dropped"].split(":")[0] for row in self.rows if row["dropped"])
        meaning = {
            "score": f"score below {self.limits.min_score:g}",
            "short": f"shorter than {self.limits.min_seconds:g} s",
            "long": f"longer than {self.limits.max_seconds:g} s, without a place to divide",
            "alphabet": "words that the alphabet cannot write",
        }
        lines += [f"  {count} dropped: {meaning[why]}" for why, count in reasons.most_common()]
        if self.rows:
            shares = [
                f"{limit:g}: {sum(row['score'] >= limit for row in self.rows)}"
                for limit in _OTHER_LIMITS
            ]
            lines.append(f"  utterances with at least this score: {', '.join(shares)}")
        return "\n".join(lines)


def _utterance(
    path: Path, offset: float, identity: str, piece: Piece, speaker: str | None
) -> Utterance:
    extra: dict[str, Any] = {"score": round(piece.score, 4)}
    if piece.original != piece.text:
        extra["original_text"] = piece.original
    duration = round(piece.end - piece.start, 3)
    return Utterance(path, duration, piece.text, speaker, round(offset, 3), identity, extra=extra)


def _row(recording: str, identity: str, piece: Piece) -> dict[str, Any]:
    return {
        "id": identity,
        "recording": recording,
        "line": piece.line + 1,
        "start": piece.start,
        "end": piece.end,
        "score": round(piece.score, 4),
        "text": piece.text,
        "original_text": piece.original,
        "dropped": piece.dropped,
    }
