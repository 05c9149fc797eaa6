"""Data of other toolkits, made into manifests: tar files in WebDataset's layout, lhotse's cuts, and
Hugging Face datasets. See `corpora.import_corpus`, whose kinds these are.

webdataset    A tar file, or a folder of them. The members of a sample share their name up to the
              first dot: `a1.flac` and `a1.txt`, or `a1.json` with "text" (and "speaker"). Audio
              stays where it is: a line names `shard.tar:START:BYTES`.
lhotse        `cuts.jsonl`, compressed or not, or a folder with it (needs the package lhotse). A cut
              must be of one recording and have one supervision, whose text is taken.
huggingface   A folder as `Dataset.save_to_disk` writes it, of one split or several (needs the
              package datasets). Audio that has a file is named there; what is within the data set
              is written beside it, into the folder NAME.audio.
"""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

from ctcspeech.data.manifest import Utterance
from ctcspeech.errors import ManifestError
from ctcspeech.extras import require
from ctcspeech.files import atomic_write

__all__ = ["huggingface", "lhotse", "webdataset"]

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
Splits = dict[str, list[Utterance]]


def webdataset(source: Path, problems: list[str]) -> Splits:
    """Tar files in WebDataset's layout."""
    shards = sorted(source.glob("*.tar")) if source.is_dir() else [source]
    if not shards:
        raise ManifestError(f"{source} has no *.tar")
    utterances: list[Utterance] = []
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as archive:
                utterances += _samples(archive, shard, problems)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise ManifestError(f"{shard} cannot be read as a tar file: {error}") from error
    return {source.stem if source.is_file() else source.name: utterances}


def _samples(archive: tarfile.TarFile, shard: Path, problems: list[str]) -> list[Utterance]:
    audio: dict[str, Path] = {}
    texts: dict[str, dict[str, Any]] = {}
    for member in archive:
        if not member.isfile():
            continue
        folder, name = os.path.split(member.name)
        stem, _, ending = name.partition(".")
        key, ending = os.path.join(folder, stem), f".{ending.lower()}"
        if ending in AUDIO:
            audio[key] = Path(f"{shard.absolute()}:{member.offset_data}:{member.size}")
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
    """A lhotse CutSet."""
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
