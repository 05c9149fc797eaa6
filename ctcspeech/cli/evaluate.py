"""ctcspeech evaluate: error rates on a manifest."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import (
    DecoderName,
    DecodingOptions,
    LmUnit,
    load_recognizer,
    make_decoder,
)
from ctcspeech.files import atomic_write
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    from ctcspeech.evaluate.evaluate import Evaluation
    from ctcspeech.recognize.transcript import Decoder

__all__ = ["evaluate"]


def evaluate(
    model: str = decoding.MODEL,
    manifest: Path = typer.Argument(
        ..., metavar="MANIFEST", help="JSON lines with audio_filepath and text."
    ),
    decoder: DecoderName = decoding.DECODER,
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    lm_weight: float | None = decoding.LM_WEIGHT,
    word_score: float | None = decoding.WORD_SCORE,
    unk_score: float | None = decoding.UNK_SCORE,
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    neural_lm: Path | None = decoding.NEURAL_LM,
    neural_weight: float | None = decoding.NEURAL_WEIGHT,
    hot_word: list[str] | None = decoding.HOT_WORD,
    ctc_weight: float | None = decoding.CTC_WEIGHT,
    length_normalization: float | None = decoding.LENGTH_NORMALIZATION,
    coverage: float | None = decoding.COVERAGE,
    worst: int = typer.Option(5, min=0, help="Show so many utterances with the most errors."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Write each utterance with its errors as JSON lines."
    ),
    summary: Path | None = typer.Option(None, help="Write the error rates as JSON."),
    calibrate: bool = typer.Option(
        False,
        "--calibrate",
        help="Fit the confidences of words on this manifest and keep that with the model.",
    ),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    threads: int | None = typer.Option(
        None, min=1, help="Threads of the CPU. [default: one a core]", show_default=False
    ),
) -> None:
    """Word and character error rates of a model on a manifest.

    Substitutions, deletions and insertions, in sum, by speaker, and for the worst utterances
    aligned; with 95% bootstrap intervals, over speakers where the manifest names several. An
    utterance that cannot be read is reported and does not count; the exit code is then 1.

    \b
        ctcspeech evaluate runs/digits data/test.jsonl
        ctcspeech evaluate runs/digits data/test.jsonl -o each.jsonl --summary wer.json
        ctcspeech evaluate runs/digits data/dev.jsonl --calibrate
        ctcspeech evaluate runs/english data/test.jsonl --lm lm.bin --lm-weight 0.7
        ctcspeech evaluate runs/joint data/test.jsonl --decoder joint --ctc-weight 0.3
    """
    from ctcspeech import __version__
    from ctcspeech.data.manifest import read_manifest
    from ctcspeech.evaluate.evaluate import evaluate as run
    from ctcspeech.recognize.transcript import Transcript, decoder_kind

    options = DecodingOptions(
        decoder, lm, lm_unit, lm_weight, word_score, unk_score, beam_size, beam_threshold,
        hot_word or [], neural_lm=neural_lm, neural_weight=neural_weight,
        ctc_weight=ctc_weight, length_normalization=length_normalization, coverage=coverage,
    )  # fmt: skip
    utterances = read_manifest(manifest)
    recognizer = load_recognizer(model, device, threads)
    total = sum(utterance.duration for utterance in utterances)
    with Progress("evaluating", len(utterances), "utterance", total) as progress:

        def done(item: object) -> None:
            if isinstance(item, Transcript):
                progress.message(f"ctcspeech: {item.error}")
                progress.advance(1)
            else:
                progress.advance(1, item.transcript.duration)  # type: ignore[attr-defined]

        made = make_decoder(options, recognizer)
        if calibrate:
            recognizer.calibrations.clear()  # the fit is on the decoder's own confidences
        evaluation = run(recognizer, utterances, made, done=done)
    width = shutil.get_terminal_size((100, 24)).columns
    print(evaluation.report(worst, max(width, 40)))
    if calibrate:
        print("\n" + _calibrate(model, made, evaluation))
    if output is not None:
        with atomic_write(output) as file:
            for item in evaluation.scored:
                file.write(json.dumps(item.to_dict(), ensure_ascii=False) + "\n")
    if summary is not None:
        values = {
            "ctcspeech": __version__,
            "model": model,
            "manifest": str(manifest),
            "decoder": decoder_kind(made),
            **evaluation.to_dict(),
        }
        with atomic_write(summary) as file:
            file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    if evaluation.failures:
        print(
            f"ctcspeech: {len(evaluation.failures)} of {len(utterances)} utterances failed",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _calibrate(model: str, decoder: "Decoder", evaluation: "Evaluation") -> str:
    """Fits, keeps the fit with the model, and says what it changes."""
    from ctcspeech.decode.confidence import calibration_error, fit, save_calibration
    from ctcspeech.recognize.load import model_folder
    from ctcspeech.recognize.transcript import decoder_kind

    confidences, correct = evaluation.confidences
    if not confidences:
        return "no word was recognised with a confidence: nothing to calibrate"
    calibration = fit(confidences, correct)
    folder = model_folder(model)
    save_calibration(folder, decoder_kind(decoder), calibration)
    after = calibration_error([calibration(value) for value in confidences], correct)
    before = calibration_error(confidences, correct)
    return (
        f"calibrated on {len(confidences)} words, kept in {folder}: expected calibration error "
        f"{100 * before:.2f}% before, {100 * after:.2f}% after, on the same words"
    )
