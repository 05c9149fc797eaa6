"""ctcspeech bulk: many recordings, on many cores or machines, resumed at any time."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import (
    DecoderName,
    DecodingOptions,
    LmUnit,
    load_recognizer,
    make_decoder,
    memory_trimmer,
)

if TYPE_CHECKING:
    from ctcspeech.bulk.finish import Report
    from ctcspeech.bulk.job import Bulk, Engine, Tally
    from ctcspeech.bulk.transcriber import Transcriber

__all__ = ["bulk"]

_FAILURES_SHOWN = 20


class EngineName(str, Enum):
    local = "local"
    ray = "ray"
    slurm_array = "slurm-array"


class ResultsFormat(str, Enum):
    jsonl = "jsonl"
    parquet = "parquet"


def bulk(
    model: Path = typer.Argument(
        ...,
        metavar="MODEL",
        help="As every verb takes it: a run, an ONNX model, a folder of transformers, "
        "hf:owner/name; at the same place on all machines.",
    ),
    inputs: list[str] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Manifests (.jsonl, .parquet), folders or prefixes (s3://bucket/calls/), recordings.",
    ),
    output: str = typer.Option(
        ..., "--output", "-o", help="Folder or URL for results, records of what is done, report."
    ),
    engine: EngineName = typer.Option(
        EngineName.local,
        help="local: processes of this machine; ray: Ray Data; slurm-array: as local, for this "
        "task's part of the work.",
    ),
    workers: int | None = typer.Option(
        None,
        min=0,
        help="Processes or actors. 0: this process. [default: one a core]",
        show_default=False,
    ),
    format: ResultsFormat = typer.Option(
        ResultsFormat.jsonl, help="jsonl: as transcribe --format jsonl; parquet: the same fields."
    ),
    retry_failed: bool = typer.Option(
        False, "--retry-failed", help="Try recordings again that failed before."
    ),
    shards: int | None = typer.Option(
        None,
        min=1,
        help="Parts that are written and recorded as done at once. May change from run to run. "
        "[default: about 8 hours of audio each]",
        show_default=False,
    ),
    part: str | None = typer.Option(
        None, metavar="I/N", help="Only part I (from 0) of N: for arrays of tasks of any scheduler."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say what is done and what is missing, and do nothing."
    ),
    allow_failures: bool = typer.Option(
        False, "--allow-failures", help="Exit with 0 though recordings failed."
    ),
    price: float | None = typer.Option(
        None, min=0.0, help="Of an hour of one worker: the report then has the cost."
    ),
    metrics: str | None = typer.Option(
        None, metavar="HOST:PORT", help="Serve metrics for Prometheus there."
    ),
    ray_address: str | None = typer.Option(
        None,
        help="Of an existing Ray cluster (auto, HOST:PORT, ray://...). [default: start one]",
        show_default=False,
    ),
    worker_cpus: float = typer.Option(1.0, min=0.0, help="CPUs that a Ray actor asks for."),
    worker_gpus: float = typer.Option(0.0, min=0.0, help="GPUs that it asks for."),
    worker_memory: int | None = typer.Option(
        None, min=1, metavar="MIB", help="Memory that it asks for."
    ),
    decoder: DecoderName = decoding.DECODER,
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    lm_weight: float | None = decoding.LM_WEIGHT,
    word_score: float | None = decoding.WORD_SCORE,
    unk_score: float | None = decoding.UNK_SCORE,
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    hot_word: list[str] | None = decoding.HOT_WORD,
    ctc_weight: float | None = decoding.CTC_WEIGHT,
    length_normalization: float | None = decoding.LENGTH_NORMALIZATION,
    coverage: float | None = decoding.COVERAGE,
    n_best: int = typer.Option(1, "--n-best", min=1, help="So many hypotheses of each passage."),
    max_seconds: float = typer.Option(
        30.0, help="Longer recordings are cut, at pauses, into pieces no longer than this."
    ),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Transcribe any number of recordings, on many cores or machines.

    The same command, run again, does only what is missing, with any number of workers or shards:
    after a failure, a kill, or when there are more recordings. Another model or other settings
    have a folder of their own in --output. A recording that cannot be read is one failed record
    with its reason; the exit code is then 1, or 0 with --allow-failures.

    \b
        ctcspeech bulk runs/english calls.jsonl -o out/
        ctcspeech bulk runs/english s3://bucket/calls/ -o s3://bucket/text --workers 16
        ctcspeech bulk runs/english calls.parquet -o /shared/out --engine ray --ray-address auto
        sbatch --array=0-99 --wrap \\
          "ctcspeech bulk runs/english calls.jsonl -o /shared/out --engine slurm-array"
    """
    index, count = _part(part, engine)
    options = DecodingOptions(
        decoder, lm, lm_unit, lm_weight, word_score, unk_score, beam_size, beam_threshold,
        hot_word or [], n_best,
        ctc_weight=ctc_weight, length_normalization=length_normalization, coverage=coverage,
    )  # fmt: skip
    if decoder is DecoderName.greedy and options.given():
        raise typer.BadParameter(
            f"{', '.join(options.given())} has no effect with --decoder greedy"
        )
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers == 0 and engine is EngineName.ray:
        raise typer.BadParameter("--workers 0 has no effect with --engine ray")

    try:
        from ctcspeech.bulk.job import Bulk
        from ctcspeech.bulk.on_ray import RayOptions
    except ImportError as error:
        print(f"ctcspeech: {error}; pip install 'ctcspeech[bulk]'", file=sys.stderr)
        raise typer.Exit(1) from None

    for name in (output, *inputs):
        if name.startswith("memory://") and workers > 0:
            raise typer.BadParameter(f"{name}: only this process sees it; give --workers 0")
    load = functools.partial(_load, model, device, options, max_seconds)
    ray_options = RayOptions(
        ray_address, workers, worker_cpus, worker_gpus,
        None if worker_memory is None else worker_memory << 20,
    )  # fmt: skip
    with Bulk(
        output,
        _model_identity(model),
        _settings(options, max_seconds),
        format.value,
        shards,
        (index, count),
        retry_failed,
    ) as job:
        tally = _prepare(job, inputs)
        if dry_run:
            _tell_missing(job, tally)
            return
        made = _engine(engine, load, workers, ray_options)
        elapsed = _run(job, made, tally, metrics)
        if count > 1:
            _tell_part(job, tally, index, count)
            failed = sum(tally.failures.values())
        else:
            report = job.finish(price, elapsed)
            _tell(job, report, price)
            failed = sum(report.failures.values())
    if failed and not allow_failures:
        raise typer.Exit(1)


def _part(part: str | None, engine: EngineName) -> tuple[int, int]:
    """Which part of how many, from the option or the task's environment."""
    if engine is EngineName.slurm_array:
        if part is not None:
            raise typer.BadParameter("--part has no effect with --engine slurm-array")
        return _slurm_part(os.environ)
    if part is None:
        return 0, 1
    first, slash, second = part.partition("/")
    if not slash or not first.isdecimal() or not second.isdecimal():
        raise typer.BadParameter(f"--part must be I/N, as 3/100, got {part!r}")
    index, count = int(first), int(second)
    if index >= count:
        raise typer.BadParameter(f"--part {part}: must be at least 0 and less than {count}")
    return index, count


def _slurm_part(environment: Any) -> tuple[int, int]:
    """The place of a Slurm task in its array (`--array=0-99`, `1-100`, `0-990:10`)."""
    try:
        task = int(environment["SLURM_ARRAY_TASK_ID"])
        first = int(environment["SLURM_ARRAY_TASK_MIN"])
        last = int(environment["SLURM_ARRAY_TASK_MAX"])
        step = int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
    except (KeyError, ValueError) as error:
        raise typer.BadParameter(
            f"--engine slurm-array: this is no task of a Slurm array ({error}); submit it with "
            "sbatch --array, or give --part I/N to --engine local"
        ) from error
    if count != (last - first) // step + 1:
        raise typer.BadParameter(
            f"--engine slurm-array: the array has {count} tasks from {first} to {last} in steps of "
            f"{step}; its tasks must be evenly spaced, so that each knows its part: submit the "
            "whole range again (what is done is not done twice)"
        )
    return (task - first) // step, count


def _load(model: Path, device: str, options: DecodingOptions, max_seconds: float) -> "Transcriber":
    """What a worker makes for itself: the model on one thread."""
    from ctcspeech.bulk.transcriber import Transcriber
    from ctcspeech.errors import ConfigError

    # torch's oneDNN keeps the last 1024 operations, each for one size of batch; sizes hardly ever
    # come again, and what is kept grows for 10,000 recordings, by 15 MB with a small model.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    try:
        recognizer = load_recognizer(str(model), device, 1)
        made = make_decoder(options, recognizer)
    except typer.BadParameter as error:
        raise ConfigError(error.message) from error
    return Transcriber(recognizer, made, max_seconds, options.n_best > 1, memory_trimmer())


def _model_identity(model: Path) -> dict[str, Any]:
    """What the model is, by its files: their names and contents; a torchaudio's by its name."""
    if str(model).startswith("torchaudio:"):
        return {"name": str(model), "identity": str(model)}
    from ctcspeech.recognize.load import model_folder

    folder = model_folder(str(model))  # which says what is missing, and fetches what is of a hub
    names = sorted(file for file in folder.iterdir() if file.is_file())
    if model.is_file():  # an ONNX model, and what lies beside it
        kinds = (".json", ".txt", ".data")
        names = [file for file in names if file == model or file.suffix in kinds]
    kept = [file for file in names if file.name != "training.pt"]
    files = {file.name: _hash(file) for file in kept}
    language_model = _own_language_model(folder)
    if language_model is not None:
        files["language model"] = _hash(language_model)
    return {"name": str(model), "identity": files}


def _own_language_model(folder: Path) -> Path | None:
    from ctcspeech.decode.settings import DecoderSettings

    settings = DecoderSettings.find(folder)
    return None if settings is None else settings.lm


def _hash(file: Path) -> str:
    import hashlib

    found = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _settings(options: DecodingOptions, max_seconds: float) -> dict[str, Any]:
    """What else the results depend on."""
    values: dict[str, Any] = {"decoder": options.name.value, "max_seconds": max_seconds}
    for name in (
        "lm_weight", "word_score", "unk_score", "beam_size", "beam_threshold", "ctc_weight",
        "length_normalization", "coverage",
    ):  # fmt: skip
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    if options.lm is not None:
        values["lm"] = _hash(options.lm)
    if options.lm_unit is not None:
        values["lm_unit"] = options.lm_unit.value
    if options.hot_words:
        values["hot_words"] = sorted(options.hot_words)
    if options.n_best > 1:
        values["n_best"] = options.n_best
    return values


def _prepare(job: "Bulk", inputs: list[str]) -> "Tally":
    from ctcspeech.progress import Progress

    with Progress("reading the inputs", None, "recording") as progress:
        tally = job.prepare(inputs, progress.advance)
        notes = [f"{tally.total - tally.done} to do"]
        if job.duplicates:
            notes.append(f"{job.duplicates} of them twice in the inputs, done once")
        progress.note = ", ".join(notes)
    return tally


def _engine(
    name: EngineName, load: "Callable[[], Transcriber]", workers: int, ray_options: Any
) -> "Engine":
    if name is EngineName.ray:
        from ctcspeech.bulk.on_ray import run_ray

        return functools.partial(_call, run_ray, load, (ray_options,))
    from ctcspeech.bulk.local import run_here, run_processes

    if workers == 0:
        return functools.partial(_call, run_here, load, ())
    return functools.partial(_call, run_processes, load, (workers,))


def _call(
    run: Callable[..., Iterator], load: Any, more: tuple, job: Any, todo: Any, advance: Any
) -> Iterator:
    return run(job, load, todo, advance, *more)


def _run(job: "Bulk", engine: "Engine", tally: "Tally", metrics: str | None) -> float:
    """Does the work, and shows how it stands. Returns the seconds that it took."""
    from ctcspeech.bulk.watch import BulkProgress, Metrics

    try:
        served = None if metrics is None else Metrics(metrics)
    except ValueError as error:
        raise typer.BadParameter(f"--metrics: {error}") from error
    started = time.monotonic()
    shown = 0
    try:
        with BulkProgress(tally) as progress:

            def changed(tally: "Tally") -> None:
                nonlocal shown
                for message in tally.messages[: max(0, _FAILURES_SHOWN - shown)]:
                    progress.message(f"ctcspeech: {message}")
                    shown += 1
                tally.messages = []
                progress.changed(tally)
                if served is not None:
                    served.changed(tally)

            changed(tally)
            job.run(engine, tally, changed)
    finally:
        if served is not None:
            served.close()
        if sys.exc_info()[0] is not None:
            print(
                "ctcspeech: what is done is kept; the same command goes on from there",
                file=sys.stderr,
            )
    return time.monotonic() - started


def _tell_missing(job: "Bulk", tally: "Tally") -> None:
    assert job.todo is not None and job.plan is not None
    print(f"{tally.done} of {tally.total} recordings are done, in {job.storage.url}")
    print(
        f"{tally.total - tally.done} to do, in {len(job.todo.parts)} of {job.plan.shape.shards} "
        "shards"
    )


def _tell_part(job: "Bulk", tally: "Tally", index: int, count: int) -> None:
    print(f"part {index} of {count} is done: {tally.done} recordings, in {job.storage.url}")
    print("when all parts are done, the command without its part writes the report")


def _tell(job: "Bulk", report: "Report", price: float | None) -> None:
    print(f"results: {job.storage.url}/results/")
    factor = report.real_time_factor
    print(
        f"{report.recordings} recordings, {report.seconds / 3600:.2f} hours of audio, "
        f"{report.work_seconds / 3600:.2f} hours of work"
        + ("" if factor is None else f", real-time factor {factor:.4f}")
    )
    if price is not None:
        cost = report.cost_per_thousand_hours(price)
        print("cost per thousand hours of audio: " + ("unknown" if cost is None else f"{cost:.2f}"))
    failed = sum(report.failures.values())
    if failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.failures.items()))
        print(
            f"ctcspeech: {failed} recordings failed ({kinds}): see {job.storage.url}/failed.jsonl; "
            "--retry-failed tries them again",
            file=sys.stderr,
        )
