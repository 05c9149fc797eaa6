"""What is wrong with manifests, all of it at once, before a training run finds out item by item.

report = check_manifests(["train.jsonl", "test.jsonl"], alphabet=alphabet, frame_shift_ms=20)
for problem in report.problems:
    print(problem)
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from ctcspeech.data.frame_shift import propose_frame_shift
from ctcspeech.data.inputs import (
    extent_of_audio,
    extent_of_features,
    read_audio,
    read_features,
)
from ctcspeech.data.manifest import Utterance, read_lines
from ctcspeech.errors import AlphabetError, AudioError, FeatureError, ManifestError
from ctcspeech.text.alphabet import Alphabet

__all__ = ["CheckReport", "Problem", "check_manifests"]

DURATION_TOLERANCE = 0.05  # seconds, and of long recordings one hundredth


@dataclass
class Problem:
    """One wrong thing about one line of a manifest.

    `kind` is one of: manifest, file, duration, text, alphabet, too-long, duplicate.
    """

    manifest: Path
    line: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.manifest}:{self.line}: {self.message}"


@dataclass
class CheckReport:
    """What `check_manifests` found.

    `problems` by manifest and line; `notes` are what may be intended, such as speakers that are in
    two splits; `good` has the utterances of each manifest about which nothing is wrong.
    """

    problems: list[Problem]
    notes: list[str]
    utterances: int
    seconds: float
    good: dict[Path, list[Utterance]]
    # The longest frame shift of emissions that serves, and the median time of a label, in ms.
    frame_shift: tuple[float, float] | None = None


@dataclass
class _Entry:
    """A line that could be read, and what is known about it."""

    manifest: Path
    line: int
    utterance: Utterance
    digest: bytes | None = None  # of what is read
    unread: float = 0.0  # seconds that the file has beyond the duration, where there is no offset
    pace: tuple[Sequence[object], float] | None = None  # labels, and the seconds they take
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        self.problems.append(Problem(self.manifest, self.line, kind, message))

    @property
    def where(self) -> str:
        return f"{self.manifest}:{self.line}"


def check_manifests(
    paths: Sequence[str | os.PathLike[str]],
    *,
    alphabet: Alphabet | None = None,
    normalizer: Callable[[str], str] | None = None,
    frame_shift_ms: float = 20.0,
    feature_shift_ms: float = 10.0,
    num_features: int | None = None,
    quick: bool = False,
    started: Callable[[int], None] | None = None,
    advance: Callable[[int, float], None] | None = None,
) -> CheckReport:
    """Checks manifests, each of which is a split of one corpus (train, dev, test).

    Args:
        paths: the manifests.
        alphabet: what the texts must be writable in; None checks their length by characters.
        normalizer: applied to each text first, as in training.
        frame_shift_ms: between two frames of the network's output, subsampling included; a text
            with more labels and repeats than its recording has frames cannot be learnt.
        feature_shift_ms: between two frames of precomputed features.
        num_features: their width; None takes what the file has, 13 for a Sphinx file.
        quick: read headers only, decode nothing; damage within a file and equal recordings under
            different names are then not found.
        started: called once with the number of utterances.
        advance: called with (1, seconds of audio) after each.

    Raises ManifestError only when a manifest as a whole cannot be read.
    """
    entries: list[_Entry] = []
    problems: list[Problem] = []
    for path in map(Path, paths):
        entries += _read(path, problems)
    if started is not None:
        started(len(entries))

    def examine(entry: _Entry) -> _Entry:
        seconds = _check_file(entry, quick, (feature_shift_ms, num_features))
        _check_text(entry, alphabet, normalizer, seconds, frame_shift_ms)
        return entry

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for entry in pool.map(examine, entries):
                if advance is not None:
                    advance(1, entry.utterance.duration)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    notes = _find_unread(entries) + _find_duplicates(entries)
    notes += _find_shared(entries, lambda utterance: utterance.speaker, "speakers")
    notes += _find_shared(entries, lambda utterance: utterance.text, "texts")
    frames = propose_frame_shift(entry.pace for entry in entries if entry.pace)
    if frames is not None and frames[0] < frame_shift_ms:
        notes.append(
            f"labels come every {frames[1]:.0f} ms in the median: frames of {frames[0]:g} ms are "
            f"proposed in place of {frame_shift_ms:g} ms (model.time_stride)"
        )
    good: dict[Path, list[Utterance]] = {path: [] for path in map(Path, paths)}
    for entry in entries:
        problems += entry.problems
        if not entry.problems:
            good[entry.manifest].append(entry.utterance)
    place = {path: i for i, path in enumerate(good)}
    problems.sort(key=lambda problem: (place[problem.manifest], problem.line))
    seconds = sum(entry.utterance.duration for entry in entries)
    return CheckReport(problems, notes, len(entries), seconds, good, frames)


def _read(path: Path, problems: list[Problem]) -> list[_Entry]:
    entries = []
    for line, item in read_lines(path):
        if isinstance(item, ManifestError):
            message = str(item).removeprefix(f"{path}:{line}: ")
            problems.append(Problem(path, line, "manifest", message))
        else:
            entries.append(_Entry(path, line, item))
    return entries


def _check_file(entry: _Entry, quick: bool, features: tuple[float, int | None]) -> float | None:
    """Reads the file; returns the seconds that the utterance has, None when it cannot be read."""
    utterance = entry.utterance
    try:
        if utterance.features_filepath is not None:
            extent = extent_of_features(utterance, *features)
            if not quick:
                entry.digest = _digest(read_features(utterance, *features))
        else:
            extent = extent_of_audio(utterance)
            if not quick:
                entry.digest = _digest(read_audio(utterance)[0])
    except (AudioError, FeatureError) as error:
        entry.add("file", str(error))
        return None
    told, available = extent.told, extent.available
    tolerance = max(DURATION_TOLERANCE, 0.01 * told)
    if available < told - tolerance:
        after = f" after its offset {utterance.offset:g} s" if utterance.offset else ""
        entry.add(
            "duration",
            f"{utterance.path}: the manifest says {told:g} s, the file has {available:.3f} s"
            f"{after}; `ctcspeech data import manifest` corrects it",
        )
    entry.unread = max(0.0, available - told - tolerance) if not utterance.offset else 0.0
    return extent.seconds


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def _check_text(
    entry: _Entry,
    alphabet: Alphabet | None,
    normalizer: Callable[[str], str] | None,
    seconds: float | None,
    frame_shift_ms: float,
) -> None:
    name = entry.utterance.path
    text = entry.utterance.text
    try:
        if normalizer is not None:
            text = normalizer(text)
        if not text.strip():
            entry.add("text", f"{name}: the text is empty")
            return
        labels = list(text) if alphabet is None else alphabet.encode(text)
    except AlphabetError as error:
        entry.add("alphabet", f"{name}: {error}")
        return
    if seconds is None:
        return
    entry.pace = (labels, seconds)
    frames = int(seconds * 1000 / frame_shift_ms + 1e-6)
    repeats = sum(a == b for a, b in pairwise(labels))
    if len(labels) + repeats > frames:
        entry.add(
            "too-long",
            f"{name}: the text needs at least {len(labels) + repeats} frames ({len(labels)} labels "
            f"+ {repeats} repeats), but {seconds:.3f} s have only {frames} of {frame_shift_ms:g} "
            f"ms: {text!r}",
        )


def _find_unread(entries: list[_Entry]) -> list[str]:
    """A note for each manifest of whose files more than a line's duration is there, and nobody's.

    Whoever cut the recordings by their lines means it so; else the durations are wrong.
    """
    users = Counter((entry.manifest, entry.utterance.path) for entry in entries)
    rest: dict[Path, list[_Entry]] = defaultdict(list)
    for entry in entries:
        if entry.unread and users[entry.manifest, entry.utterance.path] == 1:
            rest[entry.manifest].append(entry)
    return [
        f"{manifest}: {len(found)} files are longer than their line's duration, and no other line "
        f"has the rest, which is not read: e.g. line {found[0].line}, {found[0].utterance.path} "
        f"by {found[0].unread:.2f} s"
        for manifest, found in rest.items()
    ]


def _find_duplicates(entries: list[_Entry]) -> list[str]:
    """Adds a problem to each utterance that an earlier line has; returns notes on equal sounds."""
    places: dict[tuple[str, float, float], _Entry] = {}
    sounds: dict[bytes, _Entry] = {}
    equal: dict[Path, list[str]] = defaultdict(list)
    for entry in entries:
        utterance = entry.utterance
        place = (os.path.realpath(utterance.path), utterance.offset, utterance.duration)
        first = places.setdefault(place, entry)
        if first is not entry:
            entry.add("duplicate", f"{utterance.path}: the same recording is at {first.where}")
            continue
        if entry.digest is None:
            continue
        first = sounds.setdefault(entry.digest, entry)
        if first is entry:
            continue
        same = f"{utterance.path}: sounds exactly as {first.utterance.path} at {first.where}"
        if first.manifest != entry.manifest:
            entry.add("duplicate", same)
        else:
            equal[entry.manifest].append(f"line {entry.line}: {same}")
    return [
        f"{manifest}: {len(found)} recordings equal others of the same manifest, e.g. {found[0]}"
        for manifest, found in equal.items()
    ]


def _find_shared(
    entries: list[_Entry], key: Callable[[Utterance], str | None], what: str
) -> list[str]:
    """A note for each two manifests that have speakers, or texts, in common."""
    values: dict[Path, set[str]] = {}
    for entry in entries:
        value = key(entry.utterance)
        if value:
            values.setdefault(entry.manifest, set()).add(value)
    notes = []
    manifests = list(values)
    for i, first in enumerate(manifests):
        for second in manifests[i + 1 :]:
            shared = sorted(values[first] & values[second])
            if shared:
                examples = ", ".join(map(repr, shared[:3])) + (", ..." if len(shared) > 3 else "")
                notes.append(
                    f"{len(shared)} of the {len(values[second])} {what} of {second} are also in "
                    f"{first}: {examples}"
                )
    return notes
