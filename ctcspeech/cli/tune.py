"""ctcspeech tune: the decoder's weights, from a manifest."""

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import LmUnit, load_recognizer
from ctcspeech.progress import Progress

if TYPE_CHECKING:
    from ctcspeech.data.manifest import Utterance
    from ctcspeech.decode.settings import DecoderSettings
    from ctcspeech.evaluate.tune import DevSet, Trial, Tuning
    from ctcspeech.recognize.recognizer import Recognizer
    from ctcspeech.recognize.transcript import Transcript

__all__ = ["tune"]


class VocabularyKind(str, Enum):
    any = "any"
    closed = "closed"
    open = "open"


def tune(
    model: str = decoding.MODEL,
    manifest: Path = typer.Argument(
        ..., metavar="DEV_MANIFEST", help="JSON lines with audio_filepath and text; no test data."
    ),
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    neural_lm: Path | None = decoding.NEURAL_LM,
    trials: int = typer.Option(100, min=1, help="How many weights to try."),
    vocabulary: VocabularyKind = typer.Option(
        VocabularyKind.any,
        help="closed: only words of the language model; open: others too, at a cost that is looked "
        "for; any: whichever has fewer errors.",
    ),
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    reference_lm: bool = typer.Option(
        False, "--reference-lm", help="Name the language model's file, do not copy it to the model."
    ),
    seed: int = typer.Option(0, help="The same seed tries the same weights."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
    threads: int | None = typer.Option(
        None, min=1, help="Threads of the CPU. [default: one a core]", show_default=False
    ),
) -> None:
    """Find the decoder's weights with the fewest errors on a manifest, and keep them.

    Tries weights of the language model, of each word, and of words outside the language model
    (with Optuna: pip install 'ctcspeech[tune]'). The best go into decoder.json in the model's
    folder, with a copy of the language model; transcribe and evaluate then use them. tune.png
    beside it shows the error rate over the weights. Interrupted, it keeps the best so far.

    \b
        ctcspeech lm build --order 4 texts.txt -o lm.bin
        ctcspeech tune runs/english data/dev.jsonl --lm lm.bin
        ctcspeech evaluate runs/english data/test.jsonl
    """
    from ctcspeech.data.manifest import read_manifest
    from ctcspeech.evaluate.tune import require_optuna
    from ctcspeech.evaluate.tune import tune as run
    from ctcspeech.recognize.load import model_folder

    require_optuna()
    utterances = read_manifest(manifest)
    recognizer = load_recognizer(model, device, threads)
    settings = _settings(recognizer, lm, lm_unit, neural_lm, beam_size, beam_threshold)
    data, failures = _collect(recognizer, utterances)
    with Progress("tuning", trials, "trial") as progress:

        def done(trial: "Trial", tuning: "Tuning") -> None:
            best = tuning.best_trial
            weights = _weights(best.settings)
            progress.advance(1, note=f"best WER {100 * best.rates.words.rate:.2f}% at {weights}")

        tuning = run(
            data,
            recognizer,
            settings,
            trials=trials,
            vocabulary=vocabulary.value,
            seed=seed,
            done=done,
        )
    print(_report(tuning))
    if not tuning.helps:
        print(
            "ctcspeech: greedy decoding makes fewer errors than any of these weights: nothing is "
            "kept; is the language model one of this kind of text?",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    folder = model_folder(model)
    _keep(tuning, settings, folder, reference_lm)
    print(f"kept in {folder / 'decoder.json'}, drawn in {folder / 'tune.png'}")
    if tuning.interrupted:
        raise KeyboardInterrupt
    if failures:
        print(
            f"ctcspeech: {failures} of {len(utterances)} utterances failed and do not count",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _settings(
    recognizer: "Recognizer",
    lm: Path | None,
    lm_unit: LmUnit | None,
    neural_lm: Path | None,
    beam_size: int | None,
    beam_threshold: float | None,
) -> "DecoderSettings":
    from dataclasses import replace

    from ctcspeech.decode.settings import DecoderSettings

    settings = recognizer.settings or DecoderSettings()
    if lm is not None:
        settings = replace(settings, lm=lm)
    if neural_lm is not None:
        settings = replace(settings, neural_lm=neural_lm)
    if settings.lm is None and settings.neural_lm is None:
        raise typer.BadParameter(
            "the model has no language model yet: give one with --lm or --neural-lm"
        )
    if lm_unit is not None:
        settings = replace(settings, lm_unit=lm_unit.value)
    if beam_size is not None:
        settings = replace(settings, beam_size=beam_size)
    if beam_threshold is not None:
        settings = replace(settings, beam_threshold=beam_threshold)
    try:  # what is wrong is told before the emissions are computed
        settings.decoder(recognizer.alphabet, recognizer.frame_shift_ms)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return settings


def _collect(recognizer: "Recognizer", utterances: "list[Utterance]") -> "tuple[DevSet, int]":
    """The emissions, and how many utterances failed."""
    from ctcspeech.evaluate.tune import DevSet

    failed = 0
    total = sum(utterance.duration for utterance in utterances)
    with Progress("computing emissions", len(utterances), "utterance", total) as progress:

        def done(transcript: "Transcript") -> None:
            nonlocal failed
            if transcript.error is not None:
                failed += 1
                progress.message(f"ctcspeech: {transcript.error}")
            progress.advance(1, transcript.duration)

        data = DevSet.collect(recognizer, utterances, done)
    return data, failed


def _report(tuning: "Tuning") -> str:
    from ctcspeech.evaluate.tune import RANGES

    lines = [
        f"greedy:    {tuning.greedy}",
        f"defaults:  {tuning.trials[0].rates}   ({_weights(tuning.trials[0].settings)})",
        f"tuned:     {tuning.best_trial.rates}   ({_weights(tuning.best)})",
    ]
    for name in tuning.at_the_edge():
        low, high = RANGES[name]
        lines.append(f"{name} lies at the edge of what was tried, {low:g} to {high:g}")
    return "\n".join(lines)


def _weights(settings: "DecoderSettings") -> str:
    text = f"word_score {settings.word_score:.2f}"
    if settings.lm is not None:
        text = f"lm_weight {settings.lm_weight:.2f}, " + text
    if settings.neural_lm is not None:
        text = f"neural_weight {settings.neural_weight:.2f}, " + text
    if settings.prior_weight:
        text += f", prior_weight {settings.prior_weight:.2f}"
    if settings.open_vocabulary:
        text += f", unk_score {settings.unk_score:.1f}"
    return text + (", closed vocabulary" * (not settings.open_vocabulary))


def _keep(tuning: "Tuning", settings: "DecoderSettings", folder: Path, reference: bool) -> None:
    """Writes the language model, the picture and, last, the settings that name them."""
    from dataclasses import replace

    from ctcspeech.lm.model import LanguageModel
    from ctcspeech.lm.neural import NeuralLanguageModel

    place, neural_place = settings.lm, settings.neural_lm
    home = folder.absolute()
    if place is not None and not reference and not place.absolute().is_relative_to(home):
        source, place = place, home / "lm.bin"
        LanguageModel.load(source).save(place)
    if neural_place is not None and not reference:
        if not neural_place.absolute().is_relative_to(home):
            found, neural_place = neural_place, home / "lm.safetensors"
            NeuralLanguageModel.load(found).save(neural_place)
    tuning.plot(folder / "tune.png")
    kept = replace(tuning.best, lm=place, neural_lm=neural_place, tuning=tuning.to_dict())
    kept.save(folder)
