"""`ctcspeech data`: make manifests, look for what is wrong in them, count what is in them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ctcspeech.data.corpora import Imported
    from ctcspeech.data.manifest import Summary, Utterance

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Import corpora into manifests, check manifests, count what they hold.

A manifest has one utterance a line, as JSON: {"audio_filepath": "audio/a.wav", "duration": 2.5,
"text": "hello world", "speaker": "ann"}; paths are relative to the manifest.""",
)

KIND_HELP = (
    "librispeech: a LibriSpeech folder. deepspeech: a CSV (wav_filename, wav_filesize, transcript) "
    "or a folder of them. kaldi: a data folder (wav.scp or feats.scp, text, segments, utt2spk). "
    "commonvoice: a .tsv with its clips folder, or the folder. an4: the folder with etc/, of the "
    "audio or of MFCC features. ljspeech: metadata.csv (ID|text) and wavs/. folder: recordings "
    "with a .txt beside each. manifest: a manifest that lacks durations, or has some beyond "
    "the end of the file: they are measured. webdataset: a tar file, a folder of them, or a "
    "pattern or URL ('s3://bucket/a-*.tar'), with a1.flac and a1.txt or a1.json; read where they "
    "are. lhotse: cuts.jsonl(.gz), or a folder of lhotse Shar. huggingface: what "
    "Dataset.save_to_disk wrote."
)


@app.command("import", no_args_is_help=True)
def import_(
    kind: str = typer.Argument(help=KIND_HELP),
    source: Path = typer.Argument(help="The corpus: a folder or a file, by kind."),
    output: Path = typer.Argument(
        help="The manifest to write (OUT.jsonl), or a folder for one manifest each split."
    ),
    split: str = typer.Option(None, help="Only this split of the corpus (train, test, ...)."),
    raw_text: bool = typer.Option(
        False,
        "--raw-text",
        help="Keep the texts as they are. Else: lower case, punctuation removed, apostrophes kept.",
    ),
    refuse_digits: bool = typer.Option(
        False, "--refuse-digits", help="Report and leave out texts with digits."
    ),
    quick: bool = typer.Option(
        False, "--quick", help="Trust the recordings' headers; do not decode each to find damage."
    ),
    frame_shift_ms: float = typer.Option(10.0, help="Between frames of precomputed features."),
    num_features: int = typer.Option(
        None, min=1, help="Width of precomputed features; default: the file's, 13 for Sphinx .mfc."
    ),
) -> None:
    """Make a manifest of a corpus; recordings that cannot be read are reported and left out.

    \b
        ctcspeech data import librispeech LibriSpeech/train-clean-100 train.jsonl
        ctcspeech data import an4 an4 manifests/    # manifests/train.jsonl and test.jsonl
        ctcspeech data import folder my-recordings mine.jsonl

    Exit code 1 if anything was left out.
    """
    from ctcspeech.data.corpora import KINDS, import_corpus
    from ctcspeech.progress import Progress
    from ctcspeech.text.normalize import Normalizer

    if kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(KINDS)}, got {kind!r}")
    normalizer = None
    if not raw_text or refuse_digits:
        rules: dict[str, str] = {"digits": "refuse" if refuse_digits else "keep"}
        if raw_text:
            rules |= {"unicode": "none", "case": "keep", "punctuation": "keep"}
        normalizer = Normalizer.model_validate(rules)
    with Progress("importing", unit="utterance") as progress:
        imported = import_corpus(
            kind,
            source,
            split=split,
            normalizer=normalizer,
            single=output.suffix == ".jsonl",
            quick=quick,
            frame_shift_ms=frame_shift_ms,
            num_features=num_features,
            started=lambda count: setattr(progress, "total", count),
            advance=progress.advance,
        )
    for problem in imported.problems:
        print(f"left out: {problem}", file=sys.stderr)
    _write_splits(imported, output)
    if imported.problems:
        print(f"{len(imported.problems)} items were left out", file=sys.stderr)
        raise typer.Exit(1)


def _write_splits(imported: "Imported", output: Path) -> None:
    from ctcspeech.data.manifest import write_manifest
    from ctcspeech.errors import ManifestError

    splits = {name: items for name, items in imported.splits.items() if items}
    if not splits:
        raise ManifestError("nothing is left to write")
    for name, utterances in splits.items():
        path = output if output.suffix == ".jsonl" else output / f"{name}.jsonl"
        write_manifest(path, utterances)
        print(_sum_up(path, utterances))


def _sum_up(path: Path, utterances: "list[Utterance]") -> str:
    from ctcspeech.progress import format_duration

    seconds = sum(utterance.duration for utterance in utterances)
    return f"{path}: {len(utterances)} utterances, {format_duration(seconds)} of audio"


@app.command(no_args_is_help=True)
def alphabet(
    manifests: list[Path] = typer.Argument(help="Manifests whose texts it must write."),
    output: Path = typer.Option(..., "-o", "--output", help="The alphabet.json to write."),
    kind: str = typer.Option("characters", help="characters, bytes or sentencepiece."),
    size: int = typer.Option(256, help="Pieces of sentencepiece."),
    normalize: bool = typer.Option(
        False, "--normalize", help="Normalise texts first: lower case, punctuation removed."
    ),
) -> None:
    """Make an alphabet of the texts of manifests, or train pieces of words on them.

    \b
        ctcspeech data alphabet train.jsonl -o alphabet.json
    """
    from ctcspeech.data.manifest import read_manifest
    from ctcspeech.text.alphabet import KINDS, Alphabet
    from ctcspeech.text.normalize import Normalizer

    if kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(KINDS)}, got {kind!r}")
    rules = Normalizer() if normalize else str
    texts = [rules(utterance.text) for path in manifests for utterance in read_manifest(path)]
    made = Alphabet.from_text(texts, kind, size=size)
    made.save(output)
    print(f"{output}: {len(made)} labels with the blank")
    if kind == "characters":
        print(" ".join("space" if label == " " else label for label in made.labels[1:]))


@app.command(no_args_is_help=True)
def split(
    manifest: Path = typer.Argument(help="The manifest to divide."),
    folder: Path = typer.Argument(help="Where train.jsonl, dev.jsonl and test.jsonl go."),
    dev: float = typer.Option(0.1, help="Share of the audio to validate on; 0 for none."),
    test: float = typer.Option(0.1, help="Share of the audio to test on; 0 for none."),
    by: str = typer.Option(
        "text", help="What is never in two splits: text, speaker or recording (the file)."
    ),
    seed: int = typer.Option(0, help="Another seed, another division."),
) -> None:
    """Divide a manifest into train, dev and test.

    \b
        ctcspeech data split mine.jsonl splits --dev 0.1 --test 0.1 --by speaker
    """
    from ctcspeech.data.manifest import read_manifest, split_utterances, write_manifest

    if by not in ("text", "speaker", "recording"):
        raise typer.BadParameter(f"must be text, speaker or recording, got {by!r}")
    if dev < 0 or test < 0 or dev + test >= 1:
        raise typer.BadParameter(f"--dev and --test must be shares, below 1 in sum: {dev}, {test}")
    shares = {name: share for name, share in (("dev", dev), ("test", test)) if share}
    splits = split_utterances(read_manifest(manifest), shares, by, seed)
    for name, utterances in splits.items():
        path = folder / f"{name}.jsonl"
        write_manifest(path, utterances)
        print(_sum_up(path, utterances))


@app.command(no_args_is_help=True)
def check(
    manifests: list[Path] = typer.Argument(
        help="Manifests; several are taken for splits that must have no recording in common."
    ),
    alphabet: Path = typer.Option(
        None,
        help="An alphabet.json or a SentencePiece model: texts with other characters are listed.",
    ),
    run: Path = typer.Option(
        None, help="A run or checkpoint: its alphabet, text normalisation and frame shift."
    ),
    frame_shift_ms: float = typer.Option(
        20.0, help="Between output frames of the network: texts must fit into that many."
    ),
    feature_shift_ms: float = typer.Option(10.0, help="Between frames of precomputed features."),
    num_features: int = typer.Option(
        None, min=1, help="Width of precomputed features; default: the file's, 13 for Sphinx .mfc."
    ),
    normalize: bool = typer.Option(
        False, "--normalize", help="Normalise texts first: lower case, punctuation removed."
    ),
    quick: bool = typer.Option(
        False, "--quick", help="Read headers only: finds no damage within a file, no equal sounds."
    ),
    clean: Path = typer.Option(
        None, help="Write what is good to this manifest (for several manifests: into this folder)."
    ),
) -> None:
    """List everything that is wrong with manifests, at once.

    Looks for: lines that are no utterance, files that are missing or cannot be read, durations
    that are not the file's, empty texts, characters outside the alphabet, texts too long for their
    recording, recordings that are in two manifests or twice in one. Speakers and texts that two
    manifests share are noted.

    \b
        ctcspeech data check train.jsonl dev.jsonl test.jsonl --alphabet alphabet.json

    Exit code 1 if anything is wrong.
    """
    from ctcspeech.data.check import check_manifests
    from ctcspeech.data.manifest import write_manifest
    from ctcspeech.progress import Progress, format_duration
    from ctcspeech.text.alphabet import Alphabet
    from ctcspeech.text.normalize import Normalizer

    labels: Alphabet | None = None
    normalizer: Normalizer | None = None
    if run is not None:
        from ctcspeech.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(run)
        labels = checkpoint.alphabet
        rules = checkpoint.config.get("data", {}).get("normalizer")
        normalizer = None if rules is None else Normalizer.model_validate(rules)
        frame_shift_ms = checkpoint.frame_shift_ms
        feature_shift_ms = checkpoint.features.config.shift_ms
        num_features = checkpoint.features.config.num_features or num_features
    if alphabet is not None:
        json_file = alphabet.suffix == ".json"
        labels = Alphabet.load(alphabet) if json_file else Alphabet.from_sentencepiece(alphabet)
    if normalize:
        normalizer = Normalizer()
    with Progress("checking", unit="utterance") as progress:
        report = check_manifests(
            manifests,
            alphabet=labels,
            normalizer=normalizer,
            frame_shift_ms=frame_shift_ms,
            feature_shift_ms=feature_shift_ms,
            num_features=num_features,
            quick=quick,
            started=lambda count: setattr(progress, "total", count),
            advance=progress.advance,
        )
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}")
    kinds: dict[str, int] = {}
    for problem in report.problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    print(
        f"{report.utterances} utterances, {format_duration(report.seconds)} of audio: "
        + (f"{len(report.problems)} problems ({counts})" if counts else "nothing wrong")
    )
    if report.frame_shift is not None:
        shift, pace = report.frame_shift
        print(f"a label takes {pace:.0f} ms in the median: frames of {shift:g} ms are proposed")
    if clean is not None:
        for path, utterances in report.good.items():
            target = clean if len(report.good) == 1 else clean / path.name
            write_manifest(target, utterances)
            print(f"{target}: {len(utterances)} good utterances")
    if report.problems:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def stats(
    manifests: list[Path] = typer.Argument(help="Manifests."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, an object a manifest."),
) -> None:
    """Hours, utterances, durations, speakers, words, characters, speaking rate.

    \b
        ctcspeech data stats train.jsonl test.jsonl
    """
    import json
    from dataclasses import asdict

    from ctcspeech.data.manifest import read_manifest, summarize

    corpora = {str(path): read_manifest(path) for path in manifests}
    if len(corpora) > 1:
        corpora["all"] = [utterance for items in corpora.values() for utterance in items]
    summaries = {name: summarize(items) for name, items in corpora.items()}
    if as_json:
        values = {name: asdict(summary) for name, summary in summaries.items()}
        print(json.dumps(values, ensure_ascii=False, indent=1))
        return
    for name, summary in summaries.items():
        print(_format_summary(name, summary))


def _format_summary(name: str, summary: "Summary") -> str:
    quantiles = "  ".join(f"{k} {v:.2f}" for k, v in summary.duration_quantiles.items())
    characters = "  ".join(
        f"{'space' if character == ' ' else character} {count}"
        for character, count in summary.characters.items()
    )
    rate = f"{summary.characters_per_second:.1f} characters, {summary.words_per_second:.1f} words"
    rows = [
        ("hours", f"{summary.hours:.3f}"),
        ("utterances", f"{summary.utterances}"),
        ("seconds", quantiles),
        ("speakers", f"{summary.speakers}"),
        ("texts", f"{summary.texts} different"),
        ("words", f"{summary.words}, {summary.vocabulary} different"),
        ("a second", rate),
        ("characters", f"{len(summary.characters)} different: {characters}"),
    ]
    return "\n".join([name, *(f"  {label:<11} {value}" for label, value in rows)])
