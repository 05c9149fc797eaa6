"""ctcspeech export: a trained model for other runtimes."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.extras import require
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from ctcspeech.evaluate.evaluate import Evaluation
    from ctcspeech.exchange.export import Exported

__all__ = ["export"]

_COMPARED = 32  # recordings of the manifest on which the files are compared with torch


class Layout(str, Enum):
    waveform = "waveform"
    nemo = "nemo"


def export(
    model: Path = typer.Argument(..., metavar="MODEL", help="A run or a checkpoint folder."),
    out: Path = typer.Argument(..., metavar="OUT", help="The folder to write."),
    layout: Layout = typer.Option(
        Layout.waveform,
        help="waveform: samples in, the features inside; nemo: NeMo's features in, as sherpa-onnx "
        "and onnx-asr compute them, for models trained with features.preset nemo.",
    ),
    int8: bool = typer.Option(False, "--int8", help="Write model.int8.onnx too."),
    manifest: Path | None = typer.Option(
        None,
        "--manifest",
        "-m",
        help="Measure the error rates of what was exported on this, for the card.",
    ),
    streaming: bool = typer.Option(
        False,
        "--streaming",
        help="Write OUT/streaming.onnx instead: the state of streams in and out, for forward-only "
        "models; ctcspeech listen and serve take it, without torch.",
    ),
    steps: int = typer.Option(
        2, min=1, help="With --streaming: frames of emissions that come out of a run of the graph."
    ),
    threads: int | None = typer.Option(
        None, min=1, help="Threads of the CPU. [default: one a core]", show_default=False
    ),
) -> None:
    """Write a model for ONNX runtimes: recognition without torch, here and elsewhere.

    The folder has model.onnx (and model.int8.onnx), tokens.txt, vocab.txt, config.json, the
    language model and decoder settings that ctcspeech tune kept with the model, and README.md, a
    card with the measured error rates and places to fill in. It is a MODEL for every other verb.
    The largest difference of a log-probability from torch is printed; it must be below 1e-4.

    \b
        ctcspeech export runs/digits digits/ --int8 --manifest data/test.jsonl
        ctcspeech transcribe digits/ call.wav
        ctcspeech transcribe digits/model.int8.onnx call.wav
        ctcspeech export runs/grid_portable grid/ --layout nemo
        ctcspeech export runs/streaming live/ --streaming
    """
    require("torch", "ctcspeech export")
    require("onnx", "ctcspeech export")
    if streaming:
        _export_streaming(model, out, steps)
        return
    from ctcspeech.exchange.card import write_card
    from ctcspeech.exchange.export import TOLERANCE
    from ctcspeech.exchange.export import export as run

    exported = run(model, out, layout=layout.value, int8=int8, samples=_samples(model, manifest))
    for name, difference in exported.difference.items():
        size = (exported.folder / name).stat().st_size
        print(
            f"{name}: {size:,} bytes, log-probabilities differ from torch's by at most "
            f"{difference:.2g}"
        )
        if name == "model.onnx" and difference >= TOLERANCE:
            print(
                f"  (more than {TOLERANCE:g}: this model magnifies rounding; compare error rates "
                "with -m MANIFEST)"
            )
    measured = {}
    if manifest is not None:
        measured = {
            name: _measure(exported, name, manifest, threads) for name in exported.difference
        }
        for name, evaluation in measured.items():
            print(f"{name}: {_rates(evaluation)}")
    summary = {name: _rates(evaluation) for name, evaluation in measured.items()}
    print(write_card(exported, summary, "" if manifest is None else str(manifest)))


def _export_streaming(model: Path, out: Path, steps: int) -> None:
    from ctcspeech.exchange.streaming_export import export_streaming

    out.mkdir(parents=True, exist_ok=True)
    file = out / "streaming.onnx"
    difference = export_streaming(model, file, steps)
    print(
        f"{file.name}: {file.stat().st_size:,} bytes, log-probabilities differ from torch's by at "
        f"most {difference:.2g}"
    )


def _samples(model: Path, manifest: Path | None) -> "list[np.ndarray] | None":
    """The first recordings of the manifest, as the model takes them."""
    if manifest is None:
        return None
    from ctcspeech.data.manifest import read_manifest
    from ctcspeech.model.checkpoint import load_checkpoint
    from ctcspeech.recognize.recordings import Recording

    config = load_checkpoint(model).features.config
    if config.kind == "precomputed":
        return None
    import numpy as np

    return [
        np.concatenate(list(Recording.of(utterance).chunks(config.sample_rate)))
        for utterance in read_manifest(manifest)[:_COMPARED]
    ]


def _measure(exported: "Exported", name: str, manifest: Path, threads: int | None) -> "Evaluation":
    """Error rates of the file as `ctcspeech evaluate` would measure them."""
    from ctcspeech.data.manifest import read_manifest
    from ctcspeech.evaluate.evaluate import evaluate
    from ctcspeech.recognize.recognizer import Recognizer

    utterances = read_manifest(manifest)
    recognizer = Recognizer.load(exported.folder / name, threads=threads)
    total = sum(utterance.duration for utterance in utterances)
    with Progress(f"evaluating {name}", len(utterances), "utterance", total) as progress:
        return evaluate(recognizer, utterances, done=lambda item: progress.advance(1))


def _rates(evaluation: "Evaluation") -> str:
    words, characters = evaluation.words, evaluation.characters
    return (
        f"WER {100 * words.rate:.2f}%, CER {100 * characters.rate:.2f}% on "
        f"{len(evaluation.scored)} utterances, {words.reference_length} words"
    )
