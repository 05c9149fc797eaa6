"""Public corpora and folders as they are found on disk, made into manifests.

    result = import_corpus("librispeech", "LibriSpeech", normalizer=Normalizer())
    for split, utterances in result.splits.items():
        write_manifest(f"{split}.jsonl", utterances)
    for problem in result.problems:
        print(problem)

An importer, one function a kind, reads the corpus's own files and gives utterances without
durations where the corpus does not tell them; `import_corpus` then opens each recording, measures
it, and leaves out those that cannot be read.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ctcspeech.data.foreign import huggingface, lhotse, webdataset
from ctcspeech.data.inputs import Extent, extent_of_audio, extent_of_features, read_audio
from ctcspeech.data.manifest import Utterance, read_lines
from ctcspeech.errors import AlphabetError, AudioError, FeatureError, ManifestError

__all__ = ["AUDIO_ENDINGS", "KINDS", "Imported", "import_corpus", "measure"]

AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", ".au")

OVERSHOOT_SECONDS = 0.5  # a segment may end this much after its recording, as in Kaldi


@dataclass
class Imported:
    """What an import found: utterances by split, and a line for each item that was left out."""

    splits: dict[str, list[Utterance]]
    problems: list[str] = field(default_factory=list)


def import_corpus(
    kind: str,
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    normalizer: Callable[[str], str] | None = None,
    single: bool = False,
    quick: bool = False,
    frame_shift_ms: float = 10.0,
    num_features: int | None = None,
    advance: Callable[[int, float], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> Imported:
    """Reads a corpus.

    Args:
        kind: one of KINDS.
        source: the folder or file that the kind wants, see KINDS.
        split: only this one of the corpus's splits.
        normalizer: what is done to each text; None keeps the corpus's writing.
        single: refuse a corpus of several splits, before anything is opened.
        quick: read only the recordings' headers; else each is decoded whole, which finds those
            that are damaged.
        frame_shift_ms: of precomputed features, to tell their duration.
        num_features: their width; None takes what the file has, 13 for a Sphinx file.
        advance: called with (1, seconds of audio) after each utterance.
        started: called once with the number of utterances, before the first is opened.

    Raises ManifestError when the corpus's own files are missing or wrong. A bad recording or text
    is in `problems` and left out.
    """
    if kind not in KINDS:
        raise ManifestError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    source = Path(source)
    # A pattern or a URL of tar files is looked up by the importer.
    if not source.exists() and (kind != "webdataset" or source.suffix != ".tar"):
        raise ManifestError(f"{source} does not exist")
    problems: list[str] = []
    splits = KINDS[kind](source, problems)
    if split is not None:
        if split not in splits:
            raise ManifestError(f"{source} has no split {split!r}, only {', '.join(splits)}")
        splits = {split: splits[split]}
    if single and len(splits) > 1:
        raise ManifestError(
            f"{source} has several splits ({', '.join(splits)}): choose one with --split, or give "
            "a folder as OUTPUT, which gets a manifest of each"
        )
    if not any(splits.values()):
        detail = f": {problems[0]}" if problems else ""
        raise ManifestError(f"no utterance of a {kind} corpus found in {source}{detail}")
    if started is not None:
        started(sum(len(utterances) for utterances in splits.values()))

    def finish(utterance: Utterance) -> Utterance | str:
        try:
            # A manifest's wrong durations are what the import is there to correct.
            overshoot = math.inf if kind == "manifest" else OVERSHOOT_SECONDS
            utterance.duration = measure(utterance, quick, frame_shift_ms, num_features, overshoot)
            if normalizer is not None:
                utterance.text = normalizer(utterance.text)
        except (AudioError, FeatureError, AlphabetError) as error:
            message = str(error)
            name = str(utterance.path)
            return message if name in message else f"{name}: {message}"
        return utterance

    done: dict[str, list[Utterance]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, utterances in splits.items():
            done[name] = []
            try:
                for result in pool.map(finish, utterances):
                    if isinstance(result, str):
                        problems.append(result)
                    else:
                        done[name].append(result)
                    if advance is not None:
                        advance(1, 0.0 if isinstance(result, str) else result.duration)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return Imported(done, problems)


def measure(
    utterance: Utterance,
    quick: bool = False,
    frame_shift_ms: float = 10.0,
    num_features: int | None = None,
    overshoot: float = OVERSHOOT_SECONDS,
) -> float:
    """Seconds of an utterance: as its line says, else up to the end of its file.

    Raises AudioError or FeatureError when the file, or that part of it, cannot be read, or ends
    more than `overshoot` seconds before the part does.
    """
    if utterance.features_filepath is not None:
        return round(extent_of_features(utterance, frame_shift_ms, num_features).seconds, 6)
    if quick:
        extent = extent_of_audio(utterance)
    else:
        samples, rate = read_audio(utterance)
        extent = Extent(len(samples) / rate, utterance.duration)
    if extent.available < extent.told - overshoot:
        raise AudioError(
            f"{utterance.audio_filepath}: the part from {utterance.offset:g} s is to have "
            f"{utterance.duration:g} s, but the recording has only {extent.available:.3f} s from "
            "there"
        )
    return round(extent.seconds, 6)


# -- the kinds --------------------------------------------------------------------------------

Splits = dict[str, list[Utterance]]


def _librispeech(source: Path, problems: list[str]) -> Splits:
    """A LibriSpeech tree: <subset>/<speaker>/<chapter>/ with *.trans.txt and *.flac."""
    splits: Splits = {}
    for transcript in sorted(source.rglob("*.trans.txt")):
        chapter = transcript.parent
        depth = chapter.relative_to(source).parts
        subset = depth[-3] if len(depth) >= 3 else source.name
        for number, line in _lines_or_problem(transcript, problems):
            name, _, text = line.partition(" ")
            audio = _find_audio(chapter / name)
            if audio is None:
                problems.append(f"{transcript}:{number}: no recording {name}.flac")
                continue
            utterance = Utterance(audio, text=text.strip(), speaker=chapter.parent.name, id=name)
            splits.setdefault(subset, []).append(utterance)
    return splits


def _deepspeech(source: Path, problems: list[str]) -> Splits:
    """DeepSpeech's CSV (wav_filename, wav_filesize, transcript): a file, or a folder of them."""
    return {
        path.stem: list(_table(path, problems, ",", "wav_filename", "transcript", path.parent))
        for path in _files(source, "*.csv")
    }


def _commonvoice(source: Path, problems: list[str]) -> Splits:
    """Common Voice: a .tsv beside the folder clips, or the folder with train, dev and test.tsv."""
    if source.is_dir():
        found = [source / f"{name}.tsv" for name in ("train", "dev", "test")]
        paths = [path for path in found if path.exists()] or _files(source, "*.tsv")
    else:
        paths = [source]
    return {
        path.stem: list(_table(path, problems, "\t", "path", "sentence", path.parent / "clips"))
        for path in paths
    }


def _table(
    path: Path, problems: list[str], delimiter: str, audio: str, text: str, folder: Path
) -> Iterator[Utterance]:
    """The rows of a table of recordings and texts, the columns named by its first line."""
    for line, row in _rows(path, delimiter, {audio, text}):
        if not row[audio] or row[text] is None:
            problems.append(f"{path}:{line}: {audio} or {text} is missing")
            continue
        recording = folder / row[audio]
        if not recording.suffix:
            recording = recording.with_suffix(".mp3")  # as early releases wrote it
        speaker = row.get("client_id") or row.get("speaker") or None
        yield Utterance(recording, text=row[text].strip(), speaker=speaker)


def _rows(path: Path, delimiter: str, columns: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table that must have these columns, with their line numbers."""
    options: dict[str, Any] = {"delimiter": delimiter}
    if delimiter == "\t":
        options["quoting"] = csv.QUOTE_NONE
    with _open_text(path) as file:
        rows = csv.DictReader(file, **options)
        try:
            missing = columns - set(rows.fieldnames or ())
            if missing:
                raise ManifestError(
                    f"{path}:1: the columns {' and '.join(sorted(columns))} are needed, missing: "
                    f"{', '.join(sorted(missing))}; found: {', '.join(rows.fieldnames or ['none'])}"
                )
            for row in rows:
                yield rows.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}:{rows.line_num + 1}: cannot be read: {error}") from error


def _kaldi(source: Path, problems: list[str]) -> Splits:
    """A Kaldi data folder: wav.scp, or feats.scp where there is none, text, segments, utt2spk."""
    texts = _kaldi_table(source / "text")
    speakers = _kaldi_table(source / "utt2spk", optional=True)
    wav, features = source / "wav.scp", source / "feats.scp"
    if not wav.exists() and not features.exists():
        raise ManifestError(f"{source} has neither wav.scp nor feats.scp: no Kaldi data folder")
    make = _kaldi_audio if wav.exists() else _kaldi_features
    utterances = []
    for name, item in make(source, texts).items():
        if isinstance(item, str):
            problems.append(item)
        elif name in texts:
            item.id, item.text, item.speaker = name, texts[name], speakers.get(name)
            utterances.append(item)
    for name in texts.keys() - {utterance.id for utterance in utterances}:
        problems.append(f"{source / 'text'}: {name} has a text but no recording")
    problems.sort()
    return {source.name: utterances}


def _kaldi_audio(source: Path, texts: dict[str, str]) -> dict[str, Utterance | str]:
    recordings: dict[str, Path] = {}
    for name, value in _kaldi_table(source / "wav.scp").items():
        if value.rstrip().endswith("|"):
            raise ManifestError(
                f"{source / 'wav.scp'}: {name} is the output of a command ({value}), which is "
                "not run; write the recordings to files (in Kaldi: wav-copy scp:wav.scp "
                "ark,scp:..., or run the commands with > NAME.wav) and name those in wav.scp"
            )
        recordings[name] = _kaldi_path(value, source)
    segments = source / "segments"
    if not segments.exists():
        return {name: Utterance(path) for name, path in recordings.items() if name in texts}
    found: dict[str, Utterance | str] = {}
    for name, value in _kaldi_table(segments).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], float(fields[1]), float(fields[2])
            path = recordings[recording]
        except (IndexError, ValueError):
            found[name] = f"{segments}: {name} must be followed by RECORDING START END: {value!r}"
            continue
        except KeyError:
            found[name] = f"{segments}: {name} names {fields[0]}, which is not in wav.scp"
            continue
        if start < 0 or not (end > start or end == -1):
            found[name] = f"{segments}: {name} has no length: from {start} to {end} s"
            continue
        duration = math.nan if end == -1 else round(end - start, 6)  # -1: to the file's end
        found[name] = Utterance(path, duration, offset=start)
    return found


def _kaldi_features(source: Path, texts: dict[str, str]) -> dict[str, Utterance | str]:
    found: dict[str, Utterance | str] = {}
    for name, value in _kaldi_table(source / "feats.scp").items():
        if not re.fullmatch(r"\S.*:\d+", value) and not value.endswith(".npy"):
            found[name] = (
                f"{source / 'feats.scp'}: {name} must name FILE.ark:OFFSET, got {value!r}; "
                "ranges and commands are not read, write them out with copy-feats"
            )
        else:
            found[name] = Utterance(features_filepath=_kaldi_path(value, source))
    return found


def _kaldi_table(path: Path, optional: bool = False) -> dict[str, str]:
    """`name value` lines."""
    if optional and not path.exists():
        return {}
    table = {}
    for number, line in _text_lines(path):
        name, _, value = line.strip().partition(" ")
        if name in table:
            raise ManifestError(f"{path}:{number}: {name} stands in the file twice")
        table[name] = value.strip()
    return table


def _kaldi_path(value: str, source: Path) -> Path:
    """Kaldi's paths start where its recipe runs: here, the data folder, or a folder above it."""
    file, colon, place = value.partition(":") if re.search(r":\d+$", value) else (value, "", "")
    for folder in (Path.cwd(), *[source.absolute(), *source.absolute().parents]):
        if (folder / file).exists():
            return folder / f"{file}{colon}{place}"
    return Path(value).absolute()


def _an4(source: Path, problems: list[str]) -> Splits:
    """AN4: the folder with etc/an4_train.fileids; recordings in wav/, or Sphinx MFCC in feat/."""
    folder = source / "an4" if (source / "an4" / "etc").is_dir() else source
    splits: Splits = {}
    for fileids in sorted((folder / "etc").glob("*.fileids")):
        split = fileids.stem.removeprefix("an4_")
        transcripts = dict(_an4_transcripts(fileids.with_suffix(".transcription")))
        splits[split] = []
        for number, line in _text_lines(fileids):
            fileid = line.strip()
            name = fileid.rpartition("/")[2]
            utterance = _an4_utterance(folder, fileid)
            if name not in transcripts:
                problems.append(f"{fileids}:{number}: {name} has no transcript")
            elif utterance is None:
                problems.append(f"{fileids}:{number}: no recording for {fileid}")
            else:
                utterance.text, utterance.id = transcripts[name], name
                splits[split].append(utterance)
    if not splits:
        raise ManifestError(f"{folder} is no AN4 folder: it lacks etc/an4_train.fileids")
    return splits


def _an4_utterance(folder: Path, fileid: str) -> Utterance | None:
    speaker = fileid.split("/")[-2] if "/" in fileid else None
    audio = _find_audio(folder / "wav" / fileid)
    if audio is not None:
        return Utterance(audio, speaker=speaker)
    if (folder / "wav" / f"{fileid}.raw").exists():
        raise ManifestError(
            f"{folder / 'wav' / fileid}.raw has no header; take the archive an4_sphere, whose "
            "recordings say their rate, or convert: sox -t raw -r 16000 -e signed -b 16 -B IN OUT"
        )
    features = folder / "feat" / f"{fileid}.mfc"
    return Utterance(features_filepath=features, speaker=speaker) if features.exists() else None


def _an4_transcripts(path: Path) -> Iterator[tuple[str, str]]:
    """`<s> YES </s> (an251-fash-b)`; the test's lines lack <s> and </s>."""
    for number, line in _text_lines(path):
        match = re.fullmatch(r"\s*(.*?)\s*\(([^()]+)\)\s*", line)
        if match is None:
            raise ManifestError(f"{path}:{number}: must end in (ID), got {line!r}")
        words = [word for word in match[1].split() if word not in ("<s>", "</s>", "<sil>")]
        yield match[2], " ".join(words)


def _folder(source: Path, problems: list[str]) -> Splits:
    """Recordings, at any depth, each with its text beside it in a .txt (or .lab) of its name."""
    utterances = []
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in AUDIO_ENDINGS:
            continue
        texts = [t for t in (path.with_suffix(".txt"), path.with_suffix(".lab")) if t.exists()]
        if not texts:
            problems.append(f"{path}: no {path.stem}.txt beside it")
            continue
        before = len(problems)
        text = " ".join(line for _, line in _lines_or_problem(texts[0], problems))
        if len(problems) > before:
            continue
        speaker = path.parent.name if path.parent != source else None
        utterances.append(Utterance(path, text=" ".join(text.split()), speaker=speaker))
    return {source.name: utterances}


def _ljspeech(source: Path, problems: list[str]) -> Splits:
    """LJSpeech's layout: metadata.csv (ID|text, or ID|text|normalised text) and the folder wavs."""
    metadata = source / "metadata.csv" if source.is_dir() else source
    utterances = []
    for number, line in _text_lines(metadata):
        name, *texts = line.split("|")
        audio = _find_audio(metadata.parent / "wavs" / name.removesuffix(".wav"))
        if not texts:
            raise ManifestError(f"{metadata}:{number}: must be ID|text, got {line!r}")
        if audio is None:
            problems.append(f"{metadata}:{number}: no recording wavs/{name}.wav")
            continue
        text = texts[1] if len(texts) > 1 and texts[1].strip() else texts[0]
        utterances.append(Utterance(audio, text=text.strip()))
    return {metadata.absolute().parent.name: utterances}


def _manifest(source: Path, problems: list[str]) -> Splits:
    """A manifest whose durations are missing, or beyond the end of the file: they are measured."""
    utterances = []
    for _, item in read_lines(source, need_duration=False):
        if isinstance(item, ManifestError):
            problems.append(str(item))
            continue
        utterances.append(item)
    return {source.stem: utterances}


KINDS: dict[str, Callable[[Path, list[str]], Splits]] = {
    "librispeech": _librispeech,
    "deepspeech": _deepspeech,
    "kaldi": _kaldi,
    "commonvoice": _commonvoice,
    "an4": _an4,
    "ljspeech": _ljspeech,
    "folder": _folder,
    "manifest": _manifest,
    "webdataset": webdataset,
    "lhotse": lhotse,
    "huggingface": huggingface,
}


def _find_audio(stem: Path) -> Path | None:
    for ending in AUDIO_ENDINGS:
        path = stem.with_name(stem.name + ending)
        if path.exists():
            return path
    return None


def _files(source: Path, pattern: str) -> list[Path]:
    paths = sorted(source.glob(pattern)) if source.is_dir() else [source]
    if not paths:
        raise ManifestError(f"{source} has no {pattern}")
    return paths


def _open_text(path: Path) -> IO[str]:
    try:
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error


def _lines_or_problem(path: Path, problems: list[str]) -> list[tuple[int, str]]:
    """The lines of one text of many: if it cannot be read, that is a problem, not the end."""
    try:
        return list(_text_lines(path))
    except ManifestError as error:
        problems.append(str(error))
        return []


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    with _open_text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n").replace("\t", " ")
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path} is not UTF-8 text: {error}") from error
