"""Error rates of a recogniser on a manifest.

evaluation = evaluate(Recognizer.load("runs/digits"), read_manifest("test.jsonl"))
print(evaluation.words.rate, evaluation.word_interval)
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ctcspeech.data.manifest import Utterance
from ctcspeech.decode.confidence import calibration_error, correct_words
from ctcspeech.errors import AlphabetError, ManifestError
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.recognize.transcript import Decoder, Transcript
from ctcspeech.text.error_rates import (
    ErrorCounts,
    aligned_rows,
    bootstrap_interval,
    character_errors,
    word_errors,
)

__all__ = ["Evaluation", "Scored", "evaluate", "score"]


@dataclass
class Scored:
    """An utterance, what was recognised in it, and its errors."""

    utterance: Utterance
    transcript: Transcript
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        utterance = self.utterance
        values: dict[str, Any] = {"id": utterance.id, "audio_filepath": str(utterance.path)}
        if utterance.offset:
            values["offset"] = utterance.offset
        values["duration"] = round(self.transcript.duration, 3)
        if utterance.speaker is not None:
            values["speaker"] = utterance.speaker
        values["reference"] = self.reference
        values["hypothesis"] = self.hypothesis
        values["words"] = _counts(self.words)
        values["characters"] = _counts(self.characters)
        return values


@dataclass
class Evaluation:
    """The errors of all utterances that could be read; `failures` are the others."""

    scored: list[Scored]
    failures: list[Transcript] = field(default_factory=list)
    elapsed: float = 0.0  # seconds that it took
    level: float = 0.95
    seed: int = 0

    @property
    def words(self) -> ErrorCounts:
        return sum((item.words for item in self.scored), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        return sum((item.characters for item in self.scored), ErrorCounts())

    @property
    def seconds(self) -> float:
        """Audio in the utterances that were scored."""
        return sum(item.transcript.duration for item in self.scored)

    @property
    def speakers(self) -> dict[str, list[Scored]]:
        """The utterances of each speaker, where the manifest names them."""
        groups: dict[str, list[Scored]] = {}
        for item in self.scored:
            if item.utterance.speaker is not None:
                groups.setdefault(item.utterance.speaker, []).append(item)
        return dict(sorted(groups.items()))

    @property
    def resampled(self) -> str:
        """What the bootstrap draws: "speaker" when every utterance names one and there are at
        least two of them, else "utterance"."""
        named = all(item.utterance.speaker is not None for item in self.scored)
        return "speaker" if named and len(self.speakers) > 1 else "utterance"

    @property
    def word_interval(self) -> tuple[float, float] | None:
        """Confidence interval of the WER, None where there is no reference word."""
        return self._interval([item.words for item in self.scored])

    @property
    def character_interval(self) -> tuple[float, float] | None:
        """Confidence interval of the CER, None where there is no reference character."""
        return self._interval([item.characters for item in self.scored])

    def _interval(self, counts: list[ErrorCounts]) -> tuple[float, float] | None:
        if not any(count.reference_length for count in counts):
            return None
        groups = None
        if self.resampled == "speaker":
            groups = [item.utterance.speaker for item in self.scored]
        return bootstrap_interval(counts, groups, level=self.level, seed=self.seed)

    @property
    def confidences(self) -> tuple[list[float], list[bool]]:
        """Confidence of each recognised word that has one, and whether the word is right."""
        confidences: list[float] = []
        correct: list[bool] = []
        for item in self.scored:
            found = correct_words(item.reference, item.transcript.words)
            confidences += found[0]
            correct += found[1]
        return confidences, correct

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error of the words' confidences, None where there are none."""
        confidences, correct = self.confidences
        return calibration_error(confidences, correct) if confidences else None

    def worst(self, count: int) -> list[Scored]:
        """The utterances with the most word errors, then the most character errors."""
        wrong = [item for item in self.scored if item.words.errors]
        wrong.sort(key=lambda item: (-item.words.errors, -item.characters.errors))
        return wrong[:count]

    def to_dict(self) -> dict[str, Any]:
        """The summary, for JSON. Rates are shares (0.25 is 25%), null where there is no
        reference."""
        return {
            "utterances": len(self.scored),
            "failed": [{"audio_filepath": t.name, "error": str(t.error)} for t in self.failures],
            "audio_seconds": round(self.seconds, 3),
            "elapsed_seconds": round(self.elapsed, 3),
            "wer": {**_counts(self.words), "interval": self.word_interval},
            "cer": {**_counts(self.characters), "interval": self.character_interval},
            "confidence_level": self.level,
            "resampled": self.resampled,
            "calibration_error": self.calibration_error,
            "speakers": {
                name: {
                    "utterances": len(items),
                    "wer": _counts(sum((item.words for item in items), ErrorCounts())),
                    "cer": _counts(sum((item.characters for item in items), ErrorCounts())),
                }
                for name, items in self.speakers.items()
            },
        }

    def report(self, worst: int = 5, width: int = 100) -> str:
        """All this as text for people."""
        lines = [f"{len(self.scored)} utterances, {self.seconds / 60:.1f} minutes of audio"]
        if self.failures:
            lines[0] += f"; {len(self.failures)} could not be read and do not count"
        for name, counts, interval in (
            ("WER", self.words, self.word_interval),
            ("CER", self.characters, self.character_interval),
        ):
            lines.append(f"{name} {_rate(counts)}{self._interval_text(interval)}: {_parts(counts)}")
        if self.calibration_error is not None:
            confidences, correct = self.confidences
            lines.append(
                f"confidence of words: {100 * sum(confidences) / len(confidences):.1f}% in the "
                f"mean, {100 * sum(correct) / len(correct):.1f}% are right; expected calibration "
                f"error {100 * self.calibration_error:.2f}%"
            )
        if len(self.speakers) > 1:
            lines += ["", *self._speaker_table()]
        chosen = self.worst(worst)
        if chosen:
            lines += ["", "Most errors:"]
        for item in chosen:
            lines += ["", f"{item.utterance.id}: {_parts(item.words)}"]
            lines += aligned_rows(item.reference, item.hypothesis, width)
        return "\n".join(lines)

    def _interval_text(self, interval: tuple[float, float] | None) -> str:
        if interval is None:
            return ""
        low, high = (f"{100 * rate:.2f}" for rate in interval)
        return f" ({100 * self.level:g}% interval {low} to {high}, by {self.resampled})"

    def _speaker_table(self) -> list[str]:
        rows = [("speaker", "utterances", "WER", "CER")]
        for name, items in self.speakers.items():
            words = sum((item.words for item in items), ErrorCounts())
            characters = sum((item.characters for item in items), ErrorCounts())
            rows.append((name, str(len(items)), _rate(words), _rate(characters)))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        return [
            "  ".join(
                [row[0].ljust(widths[0])] + [row[k].rjust(widths[k]) for k in range(1, 4)]
            ).rstrip()
            for row in rows
        ]


def score(
    utterance: Utterance,
    transcript: Transcript,
    normalizer: Callable[[str], str] | None = None,
) -> Scored:
    """Compares what was recognised with the text of the manifest, normalised where that is given.

    Raises AlphabetError where the normaliser refuses the text.
    """
    reference = utterance.text if normalizer is None else normalizer(utterance.text)
    return Scored(
        utterance,
        transcript,
        reference,
        transcript.text,
        word_errors(reference, transcript.text),
        character_errors(reference, transcript.text),
    )


def evaluate(
    recognizer: Recognizer,
    utterances: Iterable[Utterance],
    decoder: Decoder | None = None,
    *,
    done: Callable[[Scored | Transcript], None] | None = None,
) -> Evaluation:
    """Transcribes the utterances and counts the errors.

    decoder: the recogniser's `default_decoder()` unless given. done: called after each utterance,
    with a Transcript when it could not be read. The references are normalised as the texts were in
    training.
    Raises ManifestError when there is no utterance.
    """
    utterances = list(utterances)
    if not utterances:
        raise ManifestError("there is no utterance to evaluate; the manifest is empty")
    started = time.monotonic()
    evaluation = Evaluation([])
    transcripts = recognizer.transcribe(utterances, decoder)
    for utterance, transcript in zip(utterances, transcripts, strict=True):
        item: Scored | Transcript = transcript
        if transcript.error is None:
            try:
                item = score(utterance, transcript, recognizer.normalizer)
                evaluation.scored.append(item)
            except AlphabetError as error:
                transcript.error = error
        if transcript.error is not None:
            evaluation.failures.append(transcript)
        if done is not None:
            done(item)
    evaluation.elapsed = time.monotonic() - started
    return evaluation


def _counts(counts: ErrorCounts) -> dict[str, Any]:
    rate = counts.rate if math.isfinite(counts.rate) else None
    return {"rate": rate, "errors": counts.errors, **asdict(counts)}


def _rate(counts: ErrorCounts) -> str:
    return f"{100 * counts.rate:.2f}%" if math.isfinite(counts.rate) else "n/a"


def _parts(counts: ErrorCounts) -> str:
    return (
        f"{counts.errors} errors in {counts.reference_length} "
        f"({counts.substitutions} substituted, {counts.deletions} deleted, "
        f"{counts.insertions} inserted)"
    )
