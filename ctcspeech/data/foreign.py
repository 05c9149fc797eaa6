"""Data of other toolkits, made into manifests: tar files in WebDataset's layout, lhotse's cuts, and
Hugging Face datasets. See `corpora.import_corpus`, whose kinds these are.

webdataset    A tar file, a folder of them, or a pattern (`shards/a-*.tar`), here or at a URL of
              fsspec (`s3://bucket/a-*.tar`). The members of a sample share their name up to the
              first dot: `a1.flac` and `a1.txt`, or `a1.json` with "text" (and "speaker"). Audio
              stays where it is: a line names `shard.tar:START:BYTES`.
lhotse        `cuts.jsonl`, compressed or not, or a folder with it (needs the package lhotse). A cut
              must be of one recording and have one supervision, whose text is taken. Or a folder
              of lhotse Shar (`cuts.*.jsonl.gz` and `recording.*.tar`; without the package): audio
              stays in its tar files.
huggingface   A folder as `Dataset.save_to_disk` writes it, of one split or several (needs the
              package datasets). Audio that has a file is named there; what is within the data set
              is written beside it, into the folder NAME.audio.
"""

import contextlib
import glob
import gzip
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctcspeech.data.inputs import open_archive
from ctcspeech.data.manifest import Utterance, location
from ctcspeech.errors import ManifestError
from ctcspeech.extras import require
from ctcspeech.files import atomic_write

__all__ = ["huggingface", "lhotse", "webdataset"]

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
Splits = dict[str, list[Utterance]]


def webdataset(source: Path, problems: list[str]) -> Splits:
    """Tar files in WebDataset's layout."""
    utterances: list[Utterance] = []
    for shard in _shards(source):
        with _opened(shard) as archive:
            utterances += _samples(archive, shard, problems)
    return {source.stem.rstrip("-_.*?") or "train": utterances}


def _shards(source: Path) -> list[str]:
    """The tar files that a path, a folder, or a pattern names."""
    name = location(source)
    if "://" in name:
        fsspec = require("fsspec", "reading tar files at a URL")
        try:
            files, _, paths = fsspec.get_fs_token_paths(name)
            if len(paths) == 1 and files.isdir(paths[0]):
                paths = files.glob(f"{paths[0]}/*.tar")
        except (OSError, ImportError, ValueError) as error:
            raise ManifestError(f"{name} cannot be listed: {error}") from error
        found = [files.unstrip_protocol(path) for path in paths]
    elif source.is_dir():
        found = [str(path.absolute()) for path in source.glob("*.tar")]
    elif glob.has_magic(name):
        found = [os.path.abspath(path) for path in glob.glob(name)]
    else:
        found = [str(source.absolute())]
    if not found:
        raise ManifestError(f"{name} has no *.tar" if source.is_dir() else f"no file is {name}")
    return sorted(found)


@contextlib.contextmanager
def _opened(shard: str) -> Iterator[tarfile.TarFile]:
    """A tar file, to be gone through. What is wrong with it is a ManifestError."""
    try:
        with open_archive(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ManifestError(f"{shard} cannot be read as a tar file: {error}") from error


def _member(shard: str, member: tarfile.TarInfo) -> Path:
    return Path(f"{shard}:{member.offset_data}:{member.size}")


def _samples(archive: tarfile.TarFile, shard: str, problems: list[str]) -> list[Utterance]:
    audio: dict[str, Path] = {}
    texts: dict[str, dict[str, Any]] = {}
    for member in archive:
        if not member.isfile():
            continue
        folder, name = os.path.split(member.name)
        stem, _, ending = name.partition(".")
        key, ending = os.path.join(folder, stem), f".{ending.lower()}"
        if ending in AUDIO:
            audio[key] = _member(shard, member)
        elif ending in (".txt", ".lab", ".json"):
            data = archive.extractfile(member)
            assert data is not None  # it is a file
            try:
                text = data.read().decode("utf-8")
                values = json.loads(text) if ending == ".json" else {"text": text.strip()}
                if not isinstance(values, dict):
                    raise ValueError("it must be an object")
            except (ValueError, RecursionError) as error:
                problems.append(f"{shard}: {member.name}: {error}")
                continue
            texts.setdefault(key, {}).update(values)
    found = []
    for key, path in audio.items():
        values = texts.get(key, {})
        if not isinstance(values.get("text"), str):
            problems.append(f"{shard}: {key} has no text")
            continue
        speaker = values.get("speaker")
        speaker = None if speaker is None else str(speaker)
        found.append(Utterance(path, text=values["text"], speaker=speaker, id=key))
    return found


def lhotse(source: Path, problems: list[str]) -> Splits:
    """A lhotse CutSet, or a folder in the layout of lhotse Shar."""
    if source.is_dir() and (shards := sorted(source.glob("recording.*.tar"))):
        return {source.name: [item for path in shards for item in _shar(path, problems)]}
    CutSet = require("lhotse", "importing lhotse's cuts").CutSet
    if source.is_dir():
        found = sorted(source.glob("*cuts*.jsonl*"))
        if not found:
            raise ManifestError(f"{source} has no cuts.jsonl or cuts.jsonl.gz")
    else:
        found = [source]
    return {
        path.name.split(".")[0]: [
            item for cut in CutSet.from_file(path) if (item := _cut(cut, path, problems))
        ]
        for path in found
    }


def _shar(shard: Path, problems: list[str]) -> Iterator[Utterance]:
    """Of one shard: `recording.000000.tar` has the audio of the cuts of `cuts.000000.jsonl.gz`, by
    their ids, cut out as they are."""
    with _opened(str(shard.absolute())) as archive:
        places = {
            os.path.splitext(member.name)[0]: _member(str(shard.absolute()), member)
            for member in archive
            if member.isfile() and os.path.splitext(member.name)[1].lower() in AUDIO
        }
    number = shard.name.split(".")[1]
    cuts = next(shard.parent.glob(f"cuts.{number}.jsonl*"), None)
    if cuts is None:
        raise ManifestError(f"{shard} has no cuts.{number}.jsonl.gz beside it")
    try:
        with (gzip.open if cuts.suffix == ".gz" else open)(cuts, "rt", encoding="utf-8") as file:
            values = [json.loads(line) for line in file if line.strip()]
        for cut in values:
            said = cut.get("supervisions", [])
            if cut["id"] not in places:
                problems.append(f"{cuts}: cut {cut['id']} has no audio in {shard.name}")
            elif len(said) != 1 or said[0].get("text") is None:
                problems.append(f"{cuts}: cut {cut['id']} must have one supervision with a text")
            else:
                path, speaker = places[cut["id"]], said[0].get("speaker")
                yield Utterance(path, cut["duration"], said[0]["text"], speaker, id=cut["id"])
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{cuts} cannot be read as lhotse's cuts: {error!r}") from error


def _cut(cut: Any, path: Path, problems: list[str]) -> Utterance | None:
    where = f"{path}: cut {cut.id}"
    recording = getattr(cut, "recording", None)
    if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file":
        problems.append(f"{where} is not of one recording in a file")
        return None
    if len(cut.supervisions) != 1 or cut.supervisions[0].text is None:
        problems.append(f"{where} must have one supervision with a text")
        return None
    supervision = cut.supervisions[0]
    file = Path(recording.sources[0].source)
    return Utterance(
        file.absolute(),
        round(cut.duration, 6),
        supervision.text,
        supervision.speaker,
        round(cut.start, 6),
        cut.id,
    )


def huggingface(source: Path, problems: list[str]) -> Splits:
    """A data set with an audio column, as `save_to_disk` writes it."""
    datasets = require("datasets", "importing a data set of Hugging Face")
    try:
        loaded = datasets.load_from_disk(str(source))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{source} is no saved data set: {error}") from error
    splits = loaded if isinstance(loaded, dict) else {source.name: loaded}
    return {name: _rows(rows, name, source, problems) for name, rows in splits.items()}


def _rows(rows: Any, split: str, source: Path, problems: list[str]) -> list[Utterance]:
    import datasets

    columns = [n for n, f in rows.features.items() if isinstance(f, datasets.Audio)]
    text = next((n for n in ("text", "sentence", "transcription") if n in rows.features), None)
    if len(columns) != 1 or text is None:
        raise ManifestError(
            f"{source}, split {split}: one audio column is needed, and text, sentence or "
            f"transcription; it has {', '.join(rows.features)}"
        )
    rows = rows.cast_column(columns[0], datasets.Audio(decode=False))
    folder = source.absolute().with_name(f"{source.name}.audio") / split
    found = []
    for number, row in enumerate(rows):
        audio = row[columns[0]] or {}
        path, data = audio.get("path"), audio.get("bytes")
        if data is not None:
            ending = Path(path).suffix if path else ".wav"
            file = folder / f"{number:07}{ending}"
            with atomic_write(file, "wb") as opened:
                opened.write(data)
        elif path:
            file = Path(path).absolute()
        else:
            problems.append(f"{source}, split {split}, row {number}: no audio")
            continue
        speaker = row.get("speaker_id", row.get("speaker"))
        speaker = None if speaker is None else str(speaker)
        found.append(Utterance(file, text=str(row[text] or ""), speaker=speaker))
    return found
