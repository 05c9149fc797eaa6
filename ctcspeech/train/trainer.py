"""Training: `ctcspeech train recipes/an4/an4.toml --run runs/an4`.

A run's folder holds

    config.toml         the configuration, all keys, overrides applied
    data.npz            digests and sizes of the data, by which `--resume` notices others
    metrics.jsonl       a line every few steps and every epoch
    profile.json        where the time went
    tensorboard/
    checkpoints/last    what `--resume` goes on from
    checkpoints/epoch-* the best so far
    model/              the result: the best checkpoint, or the mean of the best where it is better

Stopping and resuming changes nothing: batches and augmentation follow from (seed, epoch), the
noise of a step (dropout) from (seed, step), and everything else is in the checkpoint.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ctcspeech.data.batches import BatchLoader
from ctcspeech.data.dataset import Batch
from ctcspeech.data.shards import ShardBatchSampler
from ctcspeech.errors import TrainingError
from ctcspeech.model.checkpoint import Checkpoint, load_training, save_checkpoint
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.progress import Progress
from ctcspeech.train.best import Best
from ctcspeech.train.config import RunConfig
from ctcspeech.train.learner import Learner, StepError
from ctcspeech.train.log import Profile, Sums
from ctcspeech.train.prepare import Manifests, compute_statistics, make_sampler, prepare
from ctcspeech.train.processes import Process, process_group
from ctcspeech.train.reports import EpochEnd, Reports
from ctcspeech.train.resume import check_data, last_checkpoint, last_folder
from ctcspeech.train.signals import StopSignal
from ctcspeech.train.validation import validate

__all__ = ["train"]


def train(
    config: RunConfig,
    run: str | os.PathLike[str],
    resume: bool = False,
    report: Callable[[str], None] = print,
    *,
    force: bool = False,
) -> Path:
    """Trains a model as `config` says, in the folder `run`; returns the folder of the result.

    With `resume` the run in that folder goes on where it stopped (or begins, if there is none); it
    is refused when its data are no longer those of the run, unless `force` lets it begin the epoch
    anew with the data as they are. Under `torchrun` each process calls this; what torchrun starts
    again (`--max-restarts`) resumes by itself. SIGTERM and SIGINT end it after the current step
    with a checkpoint to resume from, and with KeyboardInterrupt.

    Raises TrainingError when training cannot go on, ConfigError, ManifestError, CheckpointError.
    """
    with process_group(config.train) as process:
        if process.rank:
            report = _silent
        trainer = Trainer(config, Path(run), resume or process.restarted, process, report, force)
        process.begun()
        with trainer.stop:
            return trainer.run()


def _silent(_: str) -> None:
    pass


@dataclass
class Agreed:
    """What all processes know before a step: sums over them, and what rank 0's clock says."""

    labels: float
    utterances: float  # that can be trained on
    batches: float  # taken from the loaders, those without such an utterance too
    stop: bool  # a signal has come to one of them
    elapsed: float  # seconds
    save: bool  # a checkpoint is due


class Trainer:
    """One run. `run` does everything; the rest are its parts, in the order in which they come.

    Where several processes train, what they do next is agreed upon: it follows from sums over all
    of them, or from what rank 0 tells the others, never from one's own clock or files.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        resume: bool,
        process: Process,
        report: Callable[[str], None],
        force: bool = False,
    ) -> None:
        self.config, self.folder, self.process = config, folder, process
        self.device, self.report = process.device, report
        self.stop = StopSignal()
        self.created = time.monotonic()
        self.profile = Profile(process.device)
        self.epoch = 0  # the one that is being trained, from 0
        self.step = 0  # optimizer steps done
        self.position = 0  # batches done in this epoch, by all processes
        self.planned_for = process.world_size  # processes for which this epoch's batches were made
        self.elapsed_before = 0.0  # seconds of training before this process
        self.log_keep = 0  # bytes of metrics.jsonl
        self.last_folder = last_folder(folder)
        self.best = Best(config.train, folder / "checkpoints", folder / "model")
        last = last_checkpoint(config, folder, resume, process, report)
        manifests = Manifests.read(config.data)
        other_data = check_data(config, folder, manifests, last, force, process, report)
        materials = prepare(config, manifests, last, report)
        self.alphabet = materials.alphabet
        self.dataset, self.validation = materials.dataset, materials.validation
        self.features = materials.features = materials.features.to(self.device)
        self.model = materials.model = materials.model.to(self.device)
        self.reports = Reports(config, folder, process, report)
        self.reports.data(self.dataset, self.validation)
        self.reports.model(self.alphabet, self.model, self.features.config.shift_ms)
        self._compute_statistics()
        self.dataset.augmenter = materials.augmenter
        self.loader = self._make_loader()
        self.learner = Learner(config, materials, process, self.profile)
        if last is not None:
            self._load_state(load_training(self.last_folder), other_data)
        self.reports.open(self.log_keep, self.step)

    # -- setting up ---------------------------------------------------------------------------

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

    def _make_loader(self) -> BatchLoader:
        data, process = self.config.data, self.process
        sampler = make_sampler(self.config, self.dataset, process.rank, process.world_size)
        readers = process.world_size * max(1, data.workers)
        if isinstance(sampler, ShardBatchSampler) and sampler.streams % readers:
            self.report(
                f"{sampler.streams} streams of shards (data.shard_streams, or fewer where there "
                f"are fewer shards) are no multiple of {process.world_size} processes with "
                f"{data.workers} workers each: shards are read more than once"
            )
        cuda = self.device.type == "cuda"
        return BatchLoader(self.dataset, sampler, data.workers, report=self.report, pin_memory=cuda)

    # -- stopping and resuming ----------------------------------------------------------------

    def _state(self, sums: list[dict[str, Any]], carried: list[Any] | None) -> dict[str, Any]:
        return {
            **self.learner.state_dict(),
            "sums": sums,
            "carried": carried,
            "epoch": self.epoch,
            "step": self.step,
            "position": self.position,
            "planned_for": self.planned_for,
            "elapsed": self.elapsed,
            "best": self.best.items,
            "waited": self.best.waited,
            "log_size": self.reports.log_size,
        }

    def _load_state(self, state: dict[str, Any], other_data: bool) -> None:
        self.learner.load_state_dict(state)
        if self.learner.carried is not None and state.get("carried"):
            states = state["carried"]
            self.learner.carried.load_state_dict(states[self.process.rank % len(states)])
        self.learner.sums = Sums.share(state["sums"], self.process.rank, self.process.world_size)
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self.planned_for = state["planned_for"]
        if other_data:
            self.position, self.planned_for = 0, self.process.world_size
            self.learner.sums = Sums()
        self.elapsed_before, self.log_keep = state["elapsed"], state["log_size"]
        self.best.items, self.best.waited = state["best"], state["waited"]
        self.report(
            f"resuming in epoch {self.epoch + 1} after batch {self.position}, step {self.step}"
        )

    def _save_last(self) -> None:
        """Writes the checkpoint to resume from; then the epochs that are not kept go. All processes
        call this together."""
        self.saved = time.monotonic()
        sums = self.process.gather(vars(self.learner.sums))
        carried = self.learner.carried
        states = self.process.gather(carried.state_dict()) if carried is not None else None
        if self.process.rank:
            return
        with self.profile("checkpoints"):
            info = {"epoch": self.epoch, "step": self.step}
            checkpoint = self._checkpoint(self.model, info)
            save_checkpoint(self.last_folder, checkpoint, self._state(sums, states))
            self.best.remove_others()

    def _checkpoint(self, model: AcousticModel, info: dict[str, Any]) -> Checkpoint:
        config = self.config.model_dump(mode="json")
        return Checkpoint(model, self.features, self.alphabet, config, info)

    @property
    def elapsed(self) -> float:
        """Seconds of training, all processes that this run had one after the other."""
        return self.elapsed_before + time.monotonic() - self.started

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> Path:
        self.started = self.saved = time.monotonic()
        self.reports.begin(self.elapsed_before)
        try:
            while self.epoch < self.config.train.epochs and not self._finished():
                self._train_epoch()
                self._end_epoch()
            result = self._finish()
        finally:
            self.reports.close()
        audio_seconds = self.learner.audio_seconds
        self.reports.profile(self.profile, time.monotonic() - self.created, audio_seconds)
        return result

    def _finished(self) -> bool:
        patience, waited = self.config.train.patience, self.best.waited
        if patience is not None and waited >= patience:
            self.report(f"no gain in {waited} validations: training stops early")
            return True
        return self._share_done(self.process.share(self.elapsed)) >= 1

    def _share_done(self, elapsed: float) -> float:
        """How much of the run is done, 0 to 1, by batches or by the clock."""
        config = self.config.train
        batches = max(1, self.loader.sampler.total(self.planned_for))
        done = (self.epoch + self.position / batches) / config.epochs
        if config.max_minutes is not None:
            done = max(done, elapsed / (60 * config.max_minutes))
        return done

    def _train_epoch(self) -> None:
        self.loader.set_epoch(self.epoch, self.position, self.planned_for)
        self.taken = 0  # batches of this process since then
        self.model.train()
        progress = self._progress()
        batches = iter(self.loader)
        try:
            while (agreed := self._step(self._take(batches), progress)) is not None:
                if agreed.stop:
                    progress.clear()
                    self._stop()
                if self.config.train.max_minutes and self._share_done(agreed.elapsed) >= 1:
                    break
                if agreed.save:
                    self._save_last()
        finally:
            progress.clear()

    def _take(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of this process for the next step; none at the epoch's end."""
        with self.profile("data"):
            count = self.config.train.accumulate
            return [batch for _ in range(count) if (batch := next(batches, None)) is not None]

    def _progress(self) -> Progress:
        """The display of an epoch: on a terminal only, a log has `_end_epoch`'s line."""
        world = self.process.world_size
        progress = Progress(
            f"epoch {self.epoch + 1}/{self.config.train.epochs}",
            len(self.dataset) // world,
            "utterance",
            float(self.dataset.durations.sum()) / world,
        )
        progress.live = progress.live and self.process.rank == 0
        return progress

    def _step(self, batches: list[Batch], progress: Progress) -> Agreed | None:
        """One step of the optimizer on the batches of all processes; None when none has any. The
        loss is the mean over the labels of all."""
        learner = self.learner
        self.profile.step = self.step
        made = (learner.prepare(batch, self.epoch) for batch in batches)
        prepared = [item for item in made if item is not None]
        agreed = self._agree(prepared)
        if not agreed.batches:
            return None
        share = self._share_done(agreed.elapsed)
        self.position += round(agreed.batches)
        self.step += 1
        if agreed.utterances:
            if not prepared:
                prepared = [learner.stand_in()]
            try:
                rate = learner.train(prepared, agreed.labels, share, self.step)
                with self.profile("optimizer", sampled=True):
                    norm = learner.update(batches)
            except StepError as error:
                self._fail(error)
            self.reports.step(self.step, self.epoch, learner.sums, rate, norm, self.elapsed)
        for item in batches:
            progress.advance(len(item), item.seconds, f"loss {learner.sums.mean:.3f}")
        return agreed

    def _agree(self, prepared: list[Batch]) -> Agreed:
        taken, self.taken = self.loader.position - self.taken, self.loader.position
        first = not self.process.rank
        due = time.monotonic() - self.saved > 60 * self.config.train.checkpoint_minutes
        labels, utterances, batches, stop, elapsed, save = self.process.sum(
            sum(int(item.target_lengths.sum()) for item in prepared),
            sum(len(item.utterances) for item in prepared),
            taken,
            self.stop.came,
            first * self.elapsed,
            first and due,
        )
        return Agreed(labels, utterances, batches, stop > 0, elapsed, save > 0)

    def _fail(self, error: StepError) -> NoReturn:
        kept = (
            f"the last good checkpoint is {self.last_folder}"
            if self.last_folder.exists()
            else "no checkpoint had been written"
        )
        raise TrainingError(
            f"step {self.step} (epoch {self.epoch + 1}): {error}; {kept}. Look at these "
            "recordings, or lower train.learning_rate or train.gradient_clip"
        ) from None

    def _stop(self) -> None:
        """Writes a checkpoint and ends, as a signal asked for."""
        self._save_last()
        self.report(
            f"stopped in epoch {self.epoch + 1} after step {self.step}; to go on, give the same "
            f"command with --resume (checkpoint {self.last_folder})"
        )
        raise KeyboardInterrupt

    # -- ends ---------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        """Validates, reports, keeps the best, and writes the checkpoint to resume from."""
        config, sums = self.config.train, self.learner.sums
        totals = self.process.sum(
            sums.loss, sums.labels, sums.utterances, sums.seconds, sums.attention_loss
        )
        skipped = int(self.process.sum(sums.skipped)[0])
        loss = totals[0] / max(1.0, totals[1])
        over = self._share_done(self.process.share(self.elapsed)) >= 1
        last = self.epoch + 1 == config.epochs or over
        numbers: dict[str, float] = {}
        if len(self.validation) and (last or (self.epoch + 1) % config.validate_every == 0):
            with self.profile("validation"):
                numbers = self._validate(self._checkpoint(self.learner.judged, {}))
            self._keep(numbers)
        self.learner.schedule.epoch_ended(numbers[config.select] if numbers else loss)
        ended = EpochEnd(
            self.epoch,
            self.step,
            loss,
            int(totals[2]),
            totals[3],
            skipped,
            self.learner.optimizer.param_groups[0]["lr"],
            numbers,
            totals[4] / max(1.0, totals[1]) if self.model.attention is not None else None,
        )
        self.reports.epoch(ended, self.elapsed, self._share_done(self.elapsed))
        self.epoch, self.position, self.learner.sums = self.epoch + 1, 0, Sums()
        self.planned_for = self.process.world_size
        self._save_last()

    def _keep(self, numbers: dict[str, float]) -> None:
        with self.profile("checkpoints"):
            self.best.keep(
                numbers,
                self.epoch + 1,
                self.step,
                lambda info: self._checkpoint(self.learner.judged, info),
                write=not self.process.rank,
            )

    def _validate(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Scores a model, each process a part of the utterances."""
        process = self.process
        result = validate(
            checkpoint,
            self.validation,
            self.config.data.batch_seconds,
            part=slice(process.rank, None, process.world_size),
            autocast=self.learner.autocast,
            stopped=lambda: self.stop.came,
            ctc_share=self.learner.ctc_share,
        )
        self.reports.unscored(result)
        words, characters = result.words, result.characters
        loss, labels, *counts, stop = process.sum(
            result.loss,
            result.labels,
            *(words.errors, words.reference_length, characters.errors, characters.reference_length),
            self.stop.came,
        )
        if stop:
            self._stop()
        numbers = {
            "wer": counts[0] / max(1.0, counts[1]),
            "cer": counts[2] / max(1.0, counts[3]),
            "loss": loss / max(1.0, labels),
        }
        return process.share(numbers)

    def _finish(self) -> Path:
        """Writes the run's result."""
        result, first = self.folder / "model", not self.process.rank
        if not self.best.items:
            if first:
                info = {"epoch": self.epoch, "step": self.step}
                save_checkpoint(result, self._checkpoint(self.learner.judged, info))
            self.report(f"the model is in {result}")
            return result
        mean, numbers = None, None
        if self.best.averages:
            if first:
                mean = self.best.mean(self.device)
            with self.profile("validation"):
                numbers = self._validate(self._shared(mean))
        if first:
            best, how = self.best.choose(self.device, mean, numbers, self.report)
            save_checkpoint(result, best)
            self.report(f"the model is in {result}: {how}")
        return result

    def _shared(self, checkpoint: Checkpoint | None) -> Checkpoint:
        """Rank 0's checkpoint in all processes; the others' own weights are overwritten."""
        own = checkpoint or self._checkpoint(self.learner.judged, {})
        self.process.share_weights(own.model)
        return own
