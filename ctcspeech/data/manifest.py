"""Manifests: which recordings there are, and what is said in them.

A manifest is JSON lines, one utterance a line, as NeMo has them:

    {"audio_filepath": "audio/a1.flac", "duration": 3.21, "text": "hello world", "speaker": "ann"}

`audio_filepath` (relative to the manifest's folder, or absolute) and `duration` (seconds) MUST be
there; `text`, `speaker`, `id` and `offset` (seconds into the file) MAY be. `features_filepath` in
place of `audio_filepath` names precomputed features: `.npy`, Sphinx `.mfc`, or a place in a Kaldi
archive, `feats.ark:1234`. An `audio_filepath` may be a member of a tar file, `shard.tar:512:32044`
(where its bytes begin, how many there are), there or at a URL that fsspec reads
(`s3://bucket/shard.tar:512:32044`). Other keys are kept as they are.
"""

import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctcspeech.errors import ManifestError
from ctcspeech.files import atomic_write, parse_json

__all__ = [
    "Summary",
    "Utterance",
    "location",
    "parse_line",
    "parse_values",
    "read_lines",
    "read_manifest",
    "split_archive",
    "split_utterances",
    "summarize",
    "write_manifest",
]

KNOWN = ("id", "audio_filepath", "features_filepath", "offset", "duration", "text", "speaker")
ERRORS_SHOWN = 10


@dataclass
class Utterance:
    """One utterance: a recording, or a part of one, and its text.

    Either `audio_filepath` or `features_filepath` is set, absolute after reading. `duration` and
    `offset` are seconds. `id` names the utterance in reports and seeds its augmentation; when none
    is given it is the file's name without its ending (and the offset, when there is one).
    """

    audio_filepath: Path | None = None
    duration: float = math.nan
    text: str = ""
    speaker: str | None = None
    offset: float = 0.0
    id: str = ""
    features_filepath: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.audio_filepath, str):
            self.audio_filepath = Path(self.audio_filepath)
        if isinstance(self.features_filepath, str):
            self.features_filepath = Path(self.features_filepath)
        if self.audio_filepath is None and self.features_filepath is None:
            raise ValueError("an Utterance needs audio_filepath or features_filepath")
        if not self.id:
            self.id = self.default_id()

    @property
    def path(self) -> Path:
        """The file that is read: the features where there are some, else the audio."""
        path = self.features_filepath or self.audio_filepath
        assert path is not None
        return path

    def default_id(self) -> str:
        path = self.audio_filepath or self.features_filepath
        assert path is not None
        name, place = split_archive(path)
        stem = name.stem if place is None else f"{name.stem}-{place}"
        return f"{stem}-{self.offset:g}" if self.offset else stem


def split_archive(path: Path) -> tuple[Path, str | None]:
    """`feats.ark:1234` or `a.tar:512:32044` apart: the file, and the place in it (of a tar file
    where the member's bytes begin, and how many there are); None for any other path."""
    if ".ark:" not in path.name and ".tar:" not in path.name:
        return path, None
    match = re.fullmatch(r"(.+\.ark):(\d+)|(.+\.tar):(\d+:\d+)", str(path))
    if match is None:
        return path, None
    file, place = (match[1], match[2]) if match[1] else (match[3], match[4])
    return Path(file), place


def location(path: Path) -> str:
    """A path as the operating system, or fsspec (`s3://bucket/a.tar`), takes it. (`Path` makes one
    slash of a URL's two.)"""
    text = str(path)
    return re.sub(r"^([a-z][a-z0-9+.-]+):/(?=[^/])", r"\1://", text)


def read_lines(
    path: str | os.PathLike[str], need_duration: bool = True
) -> Iterator[tuple[int, Utterance | ManifestError]]:
    """The utterances of a manifest with their line numbers (from 1); a wrong line is an error.

    For those who want to go on after a wrong line; `read_manifest` is for the others. Without
    `need_duration` a line may lack its duration, which then is NaN.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ManifestError(f"cannot read the manifest {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"the manifest {path} is not UTF-8 text: {error}") from error
    folder = path.parent.absolute()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, parse_line(line, folder, need_duration)
        except ManifestError as error:
            yield number, ManifestError(f"{path}:{number}: {error}")


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """The utterances of a manifest, in its order.

    Raises ManifestError naming the file and each wrong line (the first ten of them).
    """
    utterances: list[Utterance] = []
    errors: list[str] = []
    for _, item in read_lines(path):
        if isinstance(item, ManifestError):
            errors.append(str(item))
        else:
            utterances.append(item)
    if errors:
        if len(errors) > ERRORS_SHOWN:
            errors[ERRORS_SHOWN:] = [f"and {len(errors) - ERRORS_SHOWN} more wrong lines"]
        raise ManifestError("\n".join(errors))
    return utterances


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Writes utterances to a manifest, whole or not at all.

    Files in the manifest's folder or below are written relative to it, so that the folder can be
    moved; others are written absolute.
    """
    folder = Path(path).parent.absolute()
    with atomic_write(path) as file:
        for utterance in utterances:
            file.write(json.dumps(_to_dict(utterance, folder), ensure_ascii=False) + "\n")


@dataclass
class Summary:
    """Figures of a corpus. Durations and rates in seconds and per second."""

    utterances: int
    hours: float
    duration_quantiles: dict[str, float]  # min, 5%, 25%, 50%, 75%, 95%, max
    speakers: int
    words: int
    vocabulary: int  # different words
    characters: dict[str, int]  # how often each occurs, most frequent first
    texts: int  # different texts
    characters_per_second: float
    words_per_second: float


def summarize(utterances: Iterable[Utterance]) -> Summary:
    """Figures of a corpus: how much there is, how long the utterances are, what is said."""
    utterances = list(utterances)
    durations = sorted(utterance.duration for utterance in utterances)
    shares = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
    last = len(durations) - 1
    quantiles = {
        name: durations[round(share * last)] for name, share in shares.items() if durations
    }
    seconds = math.fsum(durations)
    words = Counter(word for utterance in utterances for word in utterance.text.split())
    characters = Counter(character for utterance in utterances for character in utterance.text)
    return Summary(
        utterances=len(utterances),
        hours=seconds / 3600,
        duration_quantiles=quantiles,
        speakers=len({u.speaker for u in utterances if u.speaker is not None}),
        words=words.total(),
        vocabulary=len(words),
        characters=dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        texts=len({utterance.text for utterance in utterances}),
        characters_per_second=characters.total() / seconds if seconds else 0.0,
        words_per_second=words.total() / seconds if seconds else 0.0,
    )


def split_utterances(
    utterances: Sequence[Utterance], shares: Mapping[str, float], by: str = "text", seed: int = 0
) -> dict[str, list[Utterance]]:
    """Divides a corpus into "train" and what `shares` names, as {"dev": 0.1, "test": 0.1}.

    Utterances of the same text, speaker (`by`) or recording ("recording") stay together, so that
    what is measured on one split was not heard in another. A share is of the total duration, as
    near as whole groups allow; each split gets at least one group. The same seed gives the same
    splits. The order of the utterances is kept.

    Raises ManifestError when there are too few groups, or speakers are not told.
    """
    if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise ValueError(f"shares must be above 0 and below 1 in sum, got {dict(shares)}")
    keys = [_group(utterance, by) for utterance in utterances]
    seconds: dict[str, float] = {}
    for key, utterance in zip(keys, utterances, strict=True):
        seconds[key] = seconds.get(key, 0.0) + utterance.duration
    if len(seconds) <= len(shares):
        raise ManifestError(
            f"{len(utterances)} utterances of {len(seconds)} different {by}s cannot be divided "
            f"into {len(shares) + 1} splits; divide by something else"
        )
    order = sorted(seconds)
    random.Random(seed).shuffle(order)
    total = math.fsum(seconds.values())
    home: dict[str, str] = {}
    for number, (name, share) in enumerate(shares.items()):
        filled = 0.0
        needed_later = len(shares) - number  # one group for each split after this one
        for key in [key for key in order if key not in home]:
            if len(seconds) - len(home) <= needed_later:
                break
            if not filled or filled + seconds[key] / 2 <= share * total:
                home[key] = name
                filled += seconds[key]
    splits: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in shares}}
    for key, utterance in zip(keys, utterances, strict=True):
        splits[home.get(key, "train")].append(utterance)
    return splits


def _group(utterance: Utterance, by: str) -> str:
    if by == "text":
        return utterance.text
    if by == "recording":
        return str(utterance.path)
    if by != "speaker":
        raise ValueError(f"by must be text, speaker or recording, got {by!r}")
    if utterance.speaker is None:
        raise ManifestError(f"{utterance.path} has no speaker in the manifest; divide by text")
    return utterance.speaker


def parse_line(line: str, folder: Path, need_duration: bool = True) -> Utterance:
    """The utterance of a manifest's line; relative paths are from `folder`. ManifestError."""
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ManifestError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ManifestError("a line must be a JSON object: {...}")
    return parse_values(values, folder, need_duration)


def parse_values(values: dict[str, Any], folder: Path, need_duration: bool = True) -> Utterance:
    """The utterance of a line's keys and values. Raises ManifestError saying what is wrong."""
    audio = _take(values, "audio_filepath", str)
    features = _take(values, "features_filepath", str)
    if not audio and not features:
        raise ManifestError('"audio_filepath" (or "features_filepath") is missing')
    duration = _take(values, "duration", float)
    if duration is None and need_duration:
        raise ManifestError(
            '"duration" (seconds) is missing; `ctcspeech data import manifest` measures it'
        )
    if duration is None:
        duration = math.nan
    elif not 0 < duration < math.inf:
        raise ManifestError(f'"duration" must be above 0 seconds, got {duration}')
    offset = _take(values, "offset", float) or 0.0
    if not 0 <= offset < math.inf:
        raise ManifestError(f'"offset" must be 0 seconds or more, got {offset}')
    for name in (audio, features):
        if name and "\0" in name:
            raise ManifestError(f"a path must have no zero byte, got {json.dumps(name)}")
    return Utterance(
        audio_filepath=_path(folder, audio) if audio else None,
        duration=duration,
        text=_take(values, "text", str) or "",
        speaker=_take(values, "speaker", str),
        offset=offset,
        id=_take(values, "id", str) or "",
        features_filepath=_path(folder, features) if features else None,
        extra={key: value for key, value in values.items() if key not in KNOWN},
    )


def _path(folder: Path, name: str) -> Path:
    return Path(name) if "://" in name else folder / name


def _take(values: dict[str, Any], key: str, kind: type) -> Any:
    """values[key] as `kind`, or None where it is missing or null."""
    value = values.get(key)
    if value is None:
        return None
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is str and key in ("speaker", "id") and isinstance(value, int):
        return str(value)  # speakers and ids are often written as numbers
    if not isinstance(value, kind):
        expected = "a number" if kind is float else "a string"
        raise ManifestError(f'"{key}" must be {expected}, got {json.dumps(value)}')
    return value


def _to_dict(utterance: Utterance, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if utterance.id != utterance.default_id():
        values["id"] = utterance.id
    for key in ("audio_filepath", "features_filepath"):
        path = getattr(utterance, key)
        if path is not None:
            values[key] = _relative(path, folder)
    if utterance.offset:
        values["offset"] = utterance.offset
    values["duration"] = utterance.duration
    values["text"] = utterance.text
    if utterance.speaker is not None:
        values["speaker"] = utterance.speaker
    return {**values, **utterance.extra}


def _relative(path: Path, folder: Path) -> str:
    if (url := location(path)) != str(path):
        return url
    path = Path(os.path.normpath(path.absolute()))
    try:
        return path.relative_to(os.path.normpath(folder)).as_posix()
    except ValueError:
        return str(path)
