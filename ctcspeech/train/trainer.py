"""Training: `ctcspeech train recipes/an4/an4.toml --run runs/an4`.

A run's folder holds

    config.toml         the configuration, all keys, overrides applied
    metrics.jsonl       a line every few steps and every epoch
    profile.json        where the time went
    tensorboard/
    checkpoints/last    what `--resume` goes on from
    checkpoints/epoch-* the best so far
    model/              the result: the best checkpoint, or the mean of the best where it is better

Stopping and resuming changes nothing: batches and augmentation follow from (seed, epoch), the
noise of a step (dropout) from (seed, step), and everything else is in the checkpoint.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctcspeech import cuda_built
from ctcspeech.ctc.loss import ctc_loss, infeasible
from ctcspeech.data.batches import BatchLoader, DurationBatchSampler
from ctcspeech.data.dataset import Batch
from ctcspeech.errors import CheckpointError, ConfigError, TrainingError
from ctcspeech.files import atomic_write
from ctcspeech.model.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_training,
    remove_checkpoint,
    save_checkpoint,
)
from ctcspeech.model.deepspeech import AcousticModel, describe
from ctcspeech.progress import Progress, format_duration
from ctcspeech.train.config import MAY_CHANGE, RunConfig, differences, load_config, save_config
from ctcspeech.train.log import MetricsLog, Profile, Sums
from ctcspeech.train.optimizer import Schedule, build_optimizer
from ctcspeech.train.prepare import compute_statistics, prepare
from ctcspeech.train.processes import Process, precision, process_group
from ctcspeech.train.validation import Validation, average_checkpoints, validate

__all__ = ["train"]


def train(
    config: RunConfig,
    run: str | os.PathLike[str],
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Trains a model as `config` says, in the folder `run`; returns the folder of the result.

    With `resume` the run in that folder goes on where it stopped (or begins, if there is none).
    Under `torchrun` each process calls this. SIGTERM and SIGINT end it after the current step with
    a checkpoint to resume from, and KeyboardInterrupt.

    Raises TrainingError when training cannot go on, ConfigError, ManifestError, CheckpointError.
    """
    with process_group(config.train) as process:
        if process.rank:
            report = _silent
        trainer = Trainer(config, Path(run), resume, process, report)
        with trainer.signals():
            return trainer.run()


def _silent(_: str) -> None:
    pass


class Trainer:
    """One run. `run` does everything; the rest are its parts, in the order in which they come."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        resume: bool,
        process: Process,
        report: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.process = config, folder, process
        self.device, self.report = process.device, report
        self.stop_signal: int | None = None
        self.created = time.monotonic()
        self.epoch_began = 0.0  # seconds of training
        self.profile = Profile(process.device)
        self.epoch = 0  # the one that is being trained, from 0
        self.step = 0  # optimizer steps done
        self.position = 0  # batches done in this epoch
        self.sums = Sums()
        self.elapsed_before = 0.0  # seconds of training before this process
        self.best: list[dict[str, Any]] = []  # validations of the checkpoints kept, best first
        self.waited = 0  # validations since the best
        self.reported: set[str] = set()  # validation utterances that could not be scored
        self.audio_seconds = 0.0  # trained on by this process
        last = self._last(resume)
        materials = prepare(config, last, report)
        self.alphabet, self.augmenter = materials.alphabet, materials.augmenter
        self.dataset, self.validation = materials.dataset, materials.validation
        self.features = materials.features.to(self.device)
        self.model = materials.model.to(self.device)
        self._report_data()
        self._compute_statistics()
        self.dataset.augmenter = self.augmenter
        self._make_optimizer(last)
        self._make_log(last)

    # -- setting up ---------------------------------------------------------------------------

    @property
    def last_folder(self) -> Path:
        return self.folder / "checkpoints" / "last"

    def _last(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from; None to begin."""
        try:
            folder = find_checkpoint(self.last_folder)
        except CheckpointError:
            if (self.folder / "metrics.jsonl").exists() and not resume:
                self.report(f"{self.folder} holds a run without a checkpoint; it begins anew")
            elif resume:
                self.report(f"nothing to resume in {self.folder}; the run begins")
            return None
        if not resume:
            raise TrainingError(
                f"{self.folder} already holds a run: go on with --resume, or give another --run"
            )
        before = load_config(self.folder / "config.toml")
        changed = sorted(set(differences(before, self.config)) - MAY_CHANGE)
        if changed:
            raise ConfigError(
                f"the configuration is not that of the run in {self.folder}: "
                f"{', '.join(changed)} changed. Begin a new run (--run), or fine-tune this one's "
                "model (train.init_from)"
            )
        return load_checkpoint(folder)

    def _report_data(self) -> None:
        for name, dataset in (("training", self.dataset), ("validation", self.validation)):
            if len(dataset):
                hours = sum(dataset.durations) / 3600
                self.report(f"{name} on {len(dataset)} utterances, {hours:.2f} h")
        self.report(repr(self.alphabet))
        self.report(describe(self.model, self.features.config.shift_ms))
        self.report(f"device {self.device}, {torch.get_num_threads()} threads")

    def _compute_statistics(self) -> None:
        """Of the features, on a sample of the data; fine-tuned models keep theirs."""
        config, features = self.config.train, self.features
        if features.config.normalization != "corpus" or features.statistics is not None:
            return
        with self.profile("statistics"):
            statistics = None
            if not self.process.rank:
                statistics = compute_statistics(
                    self.dataset, features, config.statistics_utterances, config.seed
                )
            features.set_statistics(self.process.share(statistics))

    def _make_optimizer(self, last: Checkpoint | None) -> None:
        """Loader, optimizer, schedule, precision; their states when resuming."""
        config, process = self.config, self.process
        sampler = DurationBatchSampler(
            self.dataset.durations,
            config.data.batch_seconds,
            max_utterances=config.data.max_utterances,
            sorta_grad=config.data.sorta_grad,
            seed=config.train.seed,
            rank=process.rank,
            world_size=process.world_size,
        )
        cuda = self.device.type == "cuda"
        self.loader = BatchLoader(
            self.dataset, sampler, config.data.workers, report=self.report, pin_memory=cuda
        )
        self.optimizer = build_optimizer(self.model, config.train)
        self.schedule = Schedule(self.optimizer, config.train)
        self.autocast = precision(config.train.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast == torch.float16)
        self.network: Callable[..., tuple[Tensor, Tensor]] = self.model
        if process.world_size > 1:
            ids = [self.device.index] if cuda else None
            self.network = torch.nn.parallel.DistributedDataParallel(self.model, device_ids=ids)
        self.log_keep = 0
        if last is not None:
            self._load_state(load_training(self.last_folder))

    def _make_log(self, last: Checkpoint | None) -> None:
        self.log: MetricsLog | None = None
        if self.process.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_config(self.config, self.folder / "config.toml")
        self.log = MetricsLog(self.folder, self.config.train.tensorboard, self.log_keep, self.step)

    # -- stopping and resuming ----------------------------------------------------------------

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for a stop after the step; a second SIGINT stops at once."""

        def handle(number: int, _: Any) -> None:
            if self.stop_signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = number

        before: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                try:
                    before[number] = signal.signal(number, handle)
                except ValueError:  # not in the main thread: the caller's business
                    pass
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "position": self.position,
            "sums": vars(self.sums),
            "elapsed": self.elapsed,
            "best": self.best,
            "waited": self.waited,
            "world_size": self.process.world_size,
            "log_size": self.log.size if self.log else 0,
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["world_size"] != self.process.world_size:
            raise TrainingError(
                f"the run in {self.folder} was trained by {state['world_size']} processes, and can "
                f"be resumed only so, not by {self.process.world_size}"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self.sums = Sums(**state["sums"])
        self.elapsed_before, self.log_keep = state["elapsed"], state["log_size"]
        self.best, self.waited = state["best"], state["waited"]
        self.report(
            f"resuming in epoch {self.epoch + 1} after batch {self.position}, step {self.step}"
        )

    def _save_last(self) -> None:
        """Writes the checkpoint to resume from; then the epochs that are not kept go."""
        self.saved = time.monotonic()
        if self.process.rank:
            return
        with self.profile("checkpoints"):
            info = {"epoch": self.epoch, "step": self.step}
            save_checkpoint(self.last_folder, self._checkpoint(self.model, info), self._state())
            kept = {item["folder"] for item in self.best}
            for folder in self.last_folder.parent.glob("epoch-*"):
                if folder.name not in kept:
                    remove_checkpoint(folder)

    def _checkpoint(self, model: AcousticModel, info: dict[str, Any]) -> Checkpoint:
        config = self.config.model_dump(mode="json")
        return Checkpoint(model, self.features, self.alphabet, config, info)

    @property
    def elapsed(self) -> float:
        """Seconds of training, all processes that this run had one after the other."""
        return self.elapsed_before + time.monotonic() - self.started

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> Path:
        config = self.config.train
        self.started = self.saved = time.monotonic()
        self.epoch_began = self.elapsed_before
        try:
            while self.epoch < config.epochs and not self._finished():
                self._train_epoch()
                self._end_epoch()
            result = self._finish()
        finally:
            if self.log is not None:
                self.log.close()
        self._report_profile()
        return result

    def _finished(self) -> bool:
        config = self.config.train
        if config.patience is not None and self.waited >= config.patience:
            self.report(f"no gain in {self.waited} validations: training stops early")
            return True
        return self._share_done(self.process.share(self.elapsed)) >= 1

    def _share_done(self, elapsed: float) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock."""
        config = self.config.train
        steps = math.ceil(len(self.loader) / config.accumulate) * config.epochs
        done = self.step / steps
        if config.max_minutes is not None:
            done = max(done, elapsed / (60 * config.max_minutes))
        return done

    def _train_epoch(self) -> None:
        config, loader = self.config.train, self.loader
        loader.set_epoch(self.epoch, self.position)
        self.model.train()
        progress = self._progress()
        batches = iter(loader)
        pending: list[Batch] = []  # those of the next step
        while True:
            with self.profile("data"):
                batch = next(batches, None)
            if batch is not None:
                pending.append(batch)
                if len(pending) < config.accumulate:
                    continue
            if not pending:
                break
            done, stop = self._step(pending)
            self.position = loader.position
            for item in pending:
                progress.advance(len(item), item.seconds, f"loss {self.sums.mean:.3f}")
            pending = []
            if stop:
                self._stop(progress)
            if batch is None or (done >= 1 and config.max_minutes is not None):
                break
            if time.monotonic() - self.saved > 60 * config.checkpoint_minutes:
                self._save_last()
        if progress.live:
            progress.stream.write("\r\x1b[2K")

    def _progress(self) -> Progress:
        """The display of an epoch: on a terminal only, a log has `_end_epoch`'s line."""
        world = self.process.world_size
        progress = Progress(
            f"epoch {self.epoch + 1}/{self.config.train.epochs}",
            len(self.dataset) // world,
            "utterance",
            sum(self.dataset.durations) / world,
        )
        progress.live = progress.live and self.process.rank == 0
        return progress

    def _step(self, batches: list[Batch]) -> tuple[float, bool]:
        """One step of the optimizer; returns the share of the run that is done, and whether to
        stop. The loss is the mean over the labels of all batches, in all processes."""
        self.profile.step = self.step
        config, world = self.config.train, self.process.world_size
        prepared = [item for batch in batches if (item := self._prepare(batch)) is not None]
        trained = sum(len(item.utterances) for item in prepared)
        own = sum(int(item.target_lengths.sum()) for item in prepared)
        labels, counted, stop, elapsed = self.process.sum(
            own, trained, self.stop_signal is not None, (not self.process.rank) * self.elapsed
        )
        done = self._share_done(elapsed)
        self.step += 1
        if not counted:
            return done, stop > 0
        rate = self.schedule.apply(done)
        torch.manual_seed(step_seed(config.seed, self.step, self.process.rank))
        self.optimizer.zero_grad(set_to_none=True)
        for i, item in enumerate(prepared):
            last = i + 1 == len(prepared)
            with nullcontext() if last or world == 1 else self.network.no_sync():  # type: ignore
                losses = self._losses(item)
                with self.profile("backward", sampled=True):
                    mean = losses.sum() * (world / max(1.0, labels))
                    self.scaler.scale(mean).backward()
        with self.profile("optimizer", sampled=True):
            norm = self._update(batches)
        self._log_step(rate, norm)
        return done, stop > 0

    def _prepare(self, batch: Batch) -> Batch | None:
        """Features in place of samples, without utterances that cannot be aligned (the augmentation
        may have shortened them); None if nothing is left."""
        with self.profile("features", sampled=True):
            moved = batch.to(self.device, non_blocking=True)
            features, lengths = self.features(moved.inputs, moved.input_lengths)
            frames = self.model.output_lengths(lengths).cpu()
            bad = infeasible(batch.targets, frames, batch.target_lengths) | (frames < 1)
            if not self.dataset.precomputed:  # those the dataset has masked
                names = [utterance.id for utterance in batch.utterances]
                seed = self.config.train.seed
                features = self.augmenter.mask_batch(features, lengths, seed, self.epoch, names)
        self.sums.utterances += len(batch)
        self.sums.seconds += batch.seconds
        self.audio_seconds += batch.seconds
        keep = (~bad).nonzero()[:, 0]
        self.sums.skipped += int(bad.sum())
        if len(keep) < len(batch):
            moved.utterances = [batch.utterances[i] for i in keep.tolist()]
            for name in ("targets", "target_lengths"):
                setattr(moved, name, getattr(moved, name)[keep.to(self.device)])
            features, lengths = features[keep.to(self.device)], lengths[keep.to(self.device)]
        if not len(keep):
            if self.process.world_size == 1:
                return None
            features = features.new_zeros(1, self.model.subsampling, self.features.num_features)
            lengths = torch.full((1,), self.model.subsampling, device=self.device)
        moved.inputs, moved.input_lengths = features, lengths
        return moved

    def _losses(self, item: Batch) -> Tensor:
        """The loss of each utterance. Raises TrainingError naming those where it is no number."""
        config = self.config.train
        with self.profile("forward", sampled=True), self._autocast():
            emissions, lengths = self.network(item.inputs, item.input_lengths)
        if not item.utterances:  # a stand-in, so that this process takes part in the step
            return emissions.sum() * 0.0
        with self.profile("loss", sampled=True):
            # A build without CUDA kernels computes the loss on the CPU: the emissions travel there.
            place = self.device if cuda_built() else torch.device("cpu")
            losses = ctc_loss(
                emissions.float().to(place),
                item.targets.to(place),
                lengths.to(place),
                item.target_lengths.to(place),
                self.alphabet.blank,
                reduction="none",
                batch_first=True,
                label_smoothing=config.label_smoothing,
                delay_penalty=config.delay_penalty,
            )
            values = losses.detach()
        wrong = (~values.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            names = [f"{item.utterances[i].path} ({values[i]:g})" for i in wrong]
            self._fail(f"the loss is no finite number for {', '.join(names)}")
        self.sums.loss += float(values.double().sum())
        self.sums.labels += int(item.target_lengths.sum())
        return losses.to(self.device)

    def _autocast(self) -> Any:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _update(self, batches: list[Batch]) -> float:
        """Clips the gradient and steps; returns the gradient's norm before clipping."""
        clip = self.config.train.gradient_clip
        self.scaler.unscale_(self.optimizer)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or math.inf, foreach=True)
        )
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            names = ", ".join(str(u.path) for batch in batches for u in batch.utterances)
            self._fail(f"the gradient is no finite number ({norm}) for the batch of {names}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _fail(self, what: str) -> None:
        kept = (
            f"the last good checkpoint is {self.last_folder}"
            if self.last_folder.exists()
            else "no checkpoint had been written"
        )
        raise TrainingError(
            f"step {self.step} (epoch {self.epoch + 1}): {what}; {kept}. Look at these recordings, "
            "or lower train.learning_rate or train.gradient_clip"
        )

    def _log_step(self, rate: float, norm: float) -> None:
        if self.log is None or self.step % self.config.train.log_every:
            return
        self.log.write(
            "step",
            self.step,
            epoch=self.epoch + 1,
            loss=self.sums.since_last(),
            learning_rate=rate,
            gradient_norm=norm,
            seconds=round(self.elapsed, 3),
        )

    def _stop(self, progress: Progress | None) -> None:
        """Writes a checkpoint and ends, as a signal asked for."""
        self._save_last()
        if progress is not None and progress.live:
            progress.stream.write("\r\x1b[2K")
        self.report(
            f"stopped in epoch {self.epoch + 1} after step {self.step}; to go on, give the same "
            f"command with --resume (checkpoint {self.last_folder})"
        )
        raise KeyboardInterrupt

    # -- ends ---------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        """Validates, reports, keeps the best, and writes the checkpoint to resume from."""
        config, sums = self.config.train, self.sums
        totals = self.process.sum(sums.loss, sums.labels, sums.utterances, sums.seconds)
        skipped = int(self.process.sum(sums.skipped)[0])
        loss = totals[0] / max(1.0, totals[1])
        last = self.epoch + 1 == config.epochs or self._share_done(self.elapsed) >= 1
        numbers: dict[str, float] = {}
        if len(self.validation) and (last or (self.epoch + 1) % config.validate_every == 0):
            with self.profile("validation"):
                numbers = self._validate()
            self._keep(numbers)
        self.schedule.epoch_ended(numbers[config.select] if numbers else loss)
        if self.log is not None:
            self.log.write(
                "epoch",
                self.step,
                epoch=self.epoch + 1,
                loss=loss,
                **{f"validation_{name}": value for name, value in numbers.items()},
                utterances=int(totals[2]),
                audio_hours=totals[3] / 3600,
                skipped=skipped,
                learning_rate=self.optimizer.param_groups[0]["lr"],
                seconds=round(self.elapsed, 3),
            )
        self._report_epoch(loss, totals, skipped, numbers)
        self.epoch, self.position, self.sums = self.epoch + 1, 0, Sums()
        self._save_last()

    def _report_epoch(
        self, loss: float, totals: list[float], skipped: int, numbers: dict[str, float]
    ) -> None:
        elapsed = self.elapsed
        spent, self.epoch_began = elapsed - self.epoch_began, elapsed
        done = min(1.0, self._share_done(elapsed))
        parts = [
            f"epoch {self.epoch + 1}/{self.config.train.epochs}: {int(totals[2])} utterances",
            f"{totals[3] / max(spent, 1e-9):.0f}x real time",
            f"loss {loss:.4f}",
        ]
        if skipped:
            parts.append(f"{skipped} left out (too short once augmented)")
        if numbers:
            parts.append(
                f"validation loss {numbers['loss']:.4f} WER {100 * numbers['wer']:.2f}% "
                f"CER {100 * numbers['cer']:.2f}%"
            )
        parts.append(f"{format_duration(elapsed)} elapsed")
        if 0 < done < 1:
            parts.append(f"{format_duration(elapsed * (1 - done) / done)} left")
        self.report(", ".join(parts))

    def _validate(self) -> dict[str, float]:
        """Scores the model, each process a part of the utterances."""
        process = self.process
        result = validate(
            self._checkpoint(self.model, {}),
            self.validation,
            self.config.data.batch_seconds,
            part=slice(process.rank, None, process.world_size),
            autocast=self._autocast,
            stopped=lambda: self.stop_signal is not None,
        )
        self._report_failures(result)
        words, characters = result.words, result.characters
        loss, labels, *counts, stop = process.sum(
            result.loss,
            result.labels,
            *(words.errors, words.reference_length, characters.errors, characters.reference_length),
            self.stop_signal is not None,
        )
        if stop:
            self._stop(None)
        return {
            "wer": counts[0] / max(1.0, counts[1]),
            "cer": counts[2] / max(1.0, counts[3]),
            "loss": loss / max(1.0, labels),
        }

    def _report_failures(self, result: Validation) -> None:
        for failure in result.failures:
            if failure not in self.reported:
                self.reported.add(failure)
                self.report(f"left out of the validation: {failure}")

    def _order(self, numbers: dict[str, Any]) -> tuple[float, ...]:
        """By what a validation is better than another: lower is better."""
        names = [self.config.train.select, "wer", "cer", "loss"]
        return tuple(numbers[name] for name in names)

    def _keep(self, numbers: dict[str, float]) -> None:
        """Writes a checkpoint of this epoch if it is among the best."""
        name = f"epoch-{self.epoch + 1:04d}"
        item = {"folder": name, "epoch": self.epoch + 1, "step": self.step, **numbers}
        previous = self.best[0] if self.best else None
        ranked = sorted([*self.best, item], key=self._order)[: self.config.train.keep_best]
        self.waited = 0 if ranked[0] is item else self.waited + 1
        if item in ranked and not self.process.rank:
            with self.profile("checkpoints"):
                checkpoint = self._checkpoint(self.model, item)
                save_checkpoint(self.last_folder.with_name(name), checkpoint)
                if ranked[0] is item or previous is None:
                    save_checkpoint(self.folder / "model", checkpoint)
        self.best = ranked

    def _finish(self) -> Path:
        """Writes the run's result."""
        result = self.folder / "model"
        if self.process.rank:
            return result
        if not self.best:
            info = {"epoch": self.epoch, "step": self.step}
            save_checkpoint(result, self._checkpoint(self.model, info))
            self.report(f"the model is in {result}")
            return result
        folders = [self.last_folder.with_name(item["folder"]) for item in self.best]
        best = load_checkpoint(folders[0], self.device)
        how = f"epoch {self.best[0]['epoch']}"
        if self.config.train.average and len(folders) > 1:
            mean = average_checkpoints(folders)
            mean.model.to(self.device)
            mean.features.to(self.device)
            with self.profile("validation"):
                numbers = validate(
                    mean,
                    self.validation,
                    self.config.data.batch_seconds,
                    autocast=self._autocast,
                ).numbers()
            self.report(
                f"mean of {len(folders)} checkpoints: WER {100 * numbers['wer']:.2f}% "
                f"CER {100 * numbers['cer']:.2f}% loss {numbers['loss']:.4f}"
            )
            if self._order(numbers) < self._order(self.best[0]):
                epochs = sorted(item["epoch"] for item in self.best)
                mean.info = {**best.info, **numbers, "averaged_epochs": epochs}
                best, how = mean, f"mean of epochs {', '.join(map(str, epochs))}"
        save_checkpoint(result, best)
        wer, cer = 100 * best.info["wer"], 100 * best.info["cer"]
        self.report(f"the model is in {result}: {how}, validation WER {wer:.2f}% CER {cer:.2f}%")
        return result

    def _report_profile(self) -> None:
        if self.process.rank:
            return
        total = time.monotonic() - self.created
        self.report(f"where the time went ({format_duration(total)}):")
        for line in self.profile.table(total, self.audio_seconds):
            self.report(line)
        values = {
            "seconds": total,
            "audio_seconds": self.audio_seconds,
            "parts": self.profile.seconds,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }
        with atomic_write(self.folder / "profile.json") as file:
            json.dump(values, file, indent=1)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the noise of one step in one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
