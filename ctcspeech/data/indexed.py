"""Manifests of any length: read through once, then looked up line by line.

    manifest = IndexedManifest.read(["train.jsonl"])
    manifest[3]                 # an Utterance, parsed now
    manifest.durations          # of all, without parsing

What is kept of a line is where it begins, its duration, the size of its recording and the length of
its text: 28 bytes, a million lines in 28 MB; where it names a member of a tar file, its place there
besides: 24 bytes. Lines are read from the file each time, which the operating system keeps for all
processes that do. It must not change while it is in use.
"""

import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from ctcspeech.data.manifest import ERRORS_SHOWN, Utterance, location, parse_line, split_archive
from ctcspeech.errors import AlphabetError, ManifestError

__all__ = ["MISSING", "IndexedManifest"]

MISSING = -1  # the size of a recording that is not there
PIECE = 1024  # bytes read at once of a line
NO_MEMBER = (-1, -1, -1)  # a recording that is a file of its own


@dataclass
class _Lines:
    """What is gathered of the lines of one manifest."""

    starts: array = field(default_factory=lambda: array("q"))
    durations: array = field(default_factory=lambda: array("d"))
    sizes: array = field(default_factory=lambda: array("q"))
    text_bytes: array = field(default_factory=lambda: array("i"))
    members: array = field(default_factory=lambda: array("q"))  # none, or NO_MEMBER a line
    errors: list[str] = field(default_factory=list)

    def add_member(self, audio: str, folder: Path, shards: dict[str, int]) -> None:
        """Where the line before the next is in a tar file, if it is. Nothing is kept until the
        first such line."""
        file, place = split_archive(Path(audio)) if ".tar:" in audio else (None, None)
        if place is None or file is None or not file.name.endswith(".tar"):
            if self.members:
                self.members.extend(NO_MEMBER)
            return
        if not self.members:
            self.members.extend(NO_MEMBER * len(self.starts))
        name = location(file if "://" in audio else folder / file)
        start, count = map(int, place.split(":"))
        self.members.extend((shards.setdefault(name, len(shards)), start, count))


class IndexedManifest(Sequence[Utterance]):
    """A sequence of utterances.

    durations: (N,) float64, seconds. sizes: (N,) int64, bytes of the files (MISSING: no such file,
    or one that is not on this machine). text_bytes: (N,) int32, of the texts in UTF-8, normalised
    (what the normaliser refuses: 0). characters: those of all texts, normalised.

    Where some recordings are members of tar files, `shards` are the paths or URLs of these, and
    `members` (N, 3) int64 has the number of the shard, where the member's bytes begin, and how many
    there are (NO_MEMBER for other recordings); else `members` is None.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        files: np.ndarray,
        starts: np.ndarray,
        columns: dict[str, np.ndarray],
        characters: set[str],
        shards: Sequence[str] = (),
    ) -> None:
        self.paths, self.characters = list(paths), characters
        self._files, self._starts = files, starts
        self.durations = columns["durations"]
        self.sizes = columns["sizes"]
        self.text_bytes = columns["text_bytes"]
        self.members, self.shards = columns.get("members"), list(shards)
        self._opened: dict[int, BinaryIO] = {}

    @classmethod
    def read(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        normalizer: Callable[[str], str] | None = None,
    ) -> "IndexedManifest":
        """Reads manifests through. Raises ManifestError naming the wrong lines (ten a file)."""
        files = [Path(path) for path in paths]
        found: list[tuple[np.ndarray, _Lines]] = []
        characters: set[str] = set()
        shards: dict[str, int] = {}
        for path in files:
            lines = _scan(path, normalizer, characters, shards)
            if lines.errors:
                more = len(lines.errors) - ERRORS_SHOWN
                lines.errors[ERRORS_SHOWN:] = [f"and {more} more wrong lines"] if more > 0 else []
                raise ManifestError("\n".join(lines.errors))
            found.append((np.full(len(lines.starts), len(found), np.int32), lines))

        def column(name: str, kind: Any) -> np.ndarray:
            parts = [np.frombuffer(getattr(lines, name), kind) for _, lines in found]
            return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, kind), *parts])

        of = np.concatenate([np.zeros(0, np.int32), *(numbers for numbers, _ in found)])
        columns = {
            "durations": column("durations", np.float64),
            "sizes": column("sizes", np.int64),
            "text_bytes": column("text_bytes", np.int32),
        }
        if shards:
            columns["members"] = np.concatenate(
                [
                    np.frombuffer(lines.members or array("q", NO_MEMBER * len(lines.starts)), "q")
                    for _, lines in found
                ]
            ).reshape(-1, 3)
        return cls(files, of, column("starts", np.int64), columns, characters, list(shards))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> "IndexedManifest": ...

    def __getitem__(self, index: int | slice) -> "Utterance | IndexedManifest":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        file = int(self._files[index])
        line = self._line(file, int(self._starts[index])).decode("utf-8")
        return parse_line(line, self.paths[file].parent.absolute())

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def select(self, indices: np.ndarray) -> "IndexedManifest":
        """Some of the utterances, in that order."""
        columns = {n: getattr(self, n)[indices] for n in ("durations", "sizes", "text_bytes")}
        if self.members is not None:
            columns["members"] = self.members[indices]
        files, starts = self._files[indices], self._starts[indices]
        return IndexedManifest(self.paths, files, starts, columns, self.characters, self.shards)

    def of_file(self, path: Path) -> "IndexedManifest":
        """The utterances of one of the manifests."""
        return self.select(np.flatnonzero(self._files == self.paths.index(path)))

    def joined(self, other: "IndexedManifest") -> "IndexedManifest":
        """These utterances, then those of `other` (without `members`)."""
        names = ("_files", "_starts", "durations", "sizes", "text_bytes")
        shift = np.int32(len(self.paths))
        parts = {n: [getattr(self, n), getattr(other, n)] for n in names}
        parts["_files"][1] = parts["_files"][1] + shift
        joined = {name: np.concatenate(pair) for name, pair in parts.items()}
        files, starts = joined.pop("_files"), joined.pop("_starts")
        paths = [*self.paths, *other.paths]
        return IndexedManifest(paths, files, starts, joined, self.characters | other.characters)

    def texts(self) -> Iterator[str]:
        """As the manifest has them."""
        return (utterance.text for utterance in self)

    def _line(self, file: int, start: int) -> bytes:
        """The line that begins there. (Not memory-mapped: pages that were looked at would count as
        this process's memory.)"""
        if file not in self._opened:
            self._opened[file] = open(self.paths[file], "rb", buffering=0)  # noqa: SIM115
        number, line = self._opened[file].fileno(), b""
        while b"\n" not in line and (more := os.pread(number, PIECE, start + len(line))):
            line += more
        return line.partition(b"\n")[0]

    def __del__(self) -> None:
        for file in getattr(self, "_opened", {}).values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # opened anew where it is sent to


def _scan(
    path: Path,
    normalizer: Callable[[str], str] | None,
    characters: set[str],
    shards: dict[str, int],
) -> _Lines:
    """Reads a manifest through. A usual line is looked at here; any other is parsed whole, which
    says what is wrong with it."""
    lines = _Lines()
    folder = str(path.parent.absolute())
    size = _Sizes(folder)
    start, end, inf = 0, 0, math.inf
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                start, end = end, end + len(raw)
                if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                    raw, start = raw[3:], 3
                if raw.isspace():
                    continue
                try:
                    text = raw.decode("utf-8")
                    values = json.loads(text)
                    audio, duration = values["audio_filepath"], values["duration"]
                    words = values["text"]
                    usual = (
                        type(audio) is str
                        and type(duration) in (float, int)
                        and type(words) is str
                        and 0 < duration < inf
                        and audio
                        and "\0" not in audio
                    )
                    if not usual or len(values) > 3 and not _usual_rest(values):
                        raise ValueError
                except (ValueError, KeyError, TypeError, RecursionError):
                    try:
                        utterance = parse_line(raw.decode("utf-8"), path.parent.absolute())
                    except UnicodeDecodeError as error:
                        lines.errors.append(f"{path}:{number}: not UTF-8 text: {error}")
                        continue
                    except ManifestError as error:
                        lines.errors.append(f"{path}:{number}: {error}")
                        continue
                    audio, duration = str(utterance.path), utterance.duration
                    words = utterance.text
                if normalizer is not None:
                    try:
                        words = normalizer(words)
                    except AlphabetError:
                        words = ""  # told where the utterance is left out
                if not characters.issuperset(words):
                    characters.update(words)
                if ".tar:" in audio or lines.members:
                    lines.add_member(audio, path.parent.absolute(), shards)
                lines.starts.append(start)
                lines.durations.append(duration)
                lines.sizes.append(size(audio))
                lines.text_bytes.append(len(words.encode("utf-8", "surrogatepass")))
    except OSError as error:
        raise ManifestError(f"cannot read the manifest {path}: {error.strerror}") from error
    return lines


def _usual_rest(values: dict[str, Any]) -> bool:
    """Whether the keys that a line may have are of their kinds."""
    offset = values.get("offset", 0.0)
    return (
        type(values.get("speaker", "")) is str
        and type(values.get("id", "")) is str
        and type(offset) in (float, int)
        and 0 <= offset < math.inf
        and "features_filepath" not in values
    )


class _Sizes:
    """Bytes of files, looked up once where lines that follow each other share them."""

    def __init__(self, folder: str) -> None:
        self.folder, self.last, self.size = folder, "", MISSING

    def __call__(self, name: str) -> int:
        if name != self.last:
            self.last = name
            path = name
            if ".ark:" in name or ".tar:" in name or "://" in name:
                path = location(split_archive(Path(name))[0])
            try:
                self.size = os.stat(os.path.join(self.folder, path)).st_size
            except (OSError, ValueError):
                self.size = MISSING
        return self.size
