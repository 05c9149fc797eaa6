"""What a training run tells: lines for people, metrics.jsonl, profile.json."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ctcspeech.data.dataset import SpeechDataset
from ctcspeech.files import atomic_write
from ctcspeech.model.deepspeech import AcousticModel, describe
from ctcspeech.progress import format_duration
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.train.config import RunConfig, save_config
from ctcspeech.train.log import MetricsLog, Profile, Sums
from ctcspeech.train.processes import Process
from ctcspeech.train.validation import Validation

__all__ = ["EpochEnd", "Reports"]


@dataclass
class EpochEnd:
    """An epoch that has ended, summed over all processes."""

    epoch: int  # from 0
    step: int
    loss: float
    utterances: int
    seconds: float  # of audio
    skipped: int
    learning_rate: float
    validation: dict[str, float]  # empty where there was none
    attention_loss: float | None = None  # of the attention decoder, where there is one


class Reports:
    """Rank 0 writes and says; of the other processes nothing is heard (`say` is silent there)."""

    def __init__(
        self, config: RunConfig, folder: Path, process: Process, say: Callable[[str], None]
    ) -> None:
        self.config, self.folder, self.process, self.say = config, folder, process, say
        self.log: MetricsLog | None = None
        self.epoch_began = 0.0  # seconds of training
        self.unscored_so_far: set[str] = set()

    def open(self, keep: int, step: int) -> None:
        """Writes config.toml; goes on with metrics.jsonl after its first `keep` bytes."""
        if self.process.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_config(self.config, self.folder / "config.toml")
        self.log = MetricsLog(self.folder, self.config.train.tensorboard, keep, step)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    @property
    def log_size(self) -> int:
        """Bytes of metrics.jsonl so far."""
        return self.log.size if self.log else 0

    def begin(self, elapsed: float) -> None:
        """The loop begins after so many seconds of training (of former processes)."""
        self.epoch_began = elapsed

    def data(self, training: SpeechDataset, validation: SpeechDataset) -> None:
        for name, dataset in (("training", training), ("validation", validation)):
            if len(dataset):
                hours = float(dataset.durations.sum()) / 3600
                self.say(f"{name} on {len(dataset)} utterances, {hours:.2f} h")

    def model(self, alphabet: Alphabet, model: AcousticModel, shift_ms: float) -> None:
        self.say(repr(alphabet))
        self.say(describe(model, shift_ms))
        self.say(f"device {self.process.device}, {torch.get_num_threads()} threads")

    def step(
        self, number: int, epoch: int, sums: Sums, rate: float, norm: float, elapsed: float
    ) -> None:
        if self.log is None or number % self.config.train.log_every:
            return
        self.log.write(
            "step",
            number,
            epoch=epoch + 1,
            loss=sums.since_last(),
            learning_rate=rate,
            gradient_norm=norm,
            seconds=round(elapsed, 3),
        )

    def epoch(self, ended: EpochEnd, elapsed: float, share_done: float) -> None:
        if self.log is not None:
            self.log.write(
                "epoch",
                ended.step,
                epoch=ended.epoch + 1,
                loss=ended.loss,
                attention_loss=ended.attention_loss,
                **{f"validation_{name}": value for name, value in ended.validation.items()},
                utterances=ended.utterances,
                audio_hours=ended.seconds / 3600,
                skipped=ended.skipped,
                learning_rate=ended.learning_rate,
                seconds=round(elapsed, 3),
            )
        spent, self.epoch_began = elapsed - self.epoch_began, elapsed
        done = min(1.0, share_done)
        parts = [
            f"epoch {ended.epoch + 1}/{self.config.train.epochs}: {ended.utterances} utterances",
            f"{ended.seconds / max(spent, 1e-9):.0f}x real time",
            f"loss {ended.loss:.4f}",
        ]
        if ended.skipped:
            parts.append(f"{ended.skipped} left out (too short once augmented)")
        if ended.validation:
            numbers = ended.validation
            parts.append(
                f"validation loss {numbers['loss']:.4f} WER {100 * numbers['wer']:.2f}% "
                f"CER {100 * numbers['cer']:.2f}%"
            )
        parts.append(f"{format_duration(elapsed)} elapsed")
        if 0 < done < 1:
            parts.append(f"{format_duration(elapsed * (1 - done) / done)} left")
        self.say(", ".join(parts))

    def unscored(self, result: Validation) -> None:
        """Validation utterances that could not be scored, each told once."""
        for failure in result.failures:
            if failure not in self.unscored_so_far:
                self.unscored_so_far.add(failure)
                self.say(f"left out of the validation: {failure}")

    def profile(self, profile: Profile, seconds: float, audio_seconds: float) -> None:
        """Where `seconds` went, in which this process trained on `audio_seconds`."""
        if self.process.rank:
            return
        self.say(f"where the time went ({format_duration(seconds)}):")
        for line in profile.table(seconds, audio_seconds):
            self.say(line)
        values = {
            "seconds": seconds,
            "audio_seconds": audio_seconds,
            "parts": profile.seconds,
            "device": str(self.process.device),
            "threads": torch.get_num_threads(),
        }
        with atomic_write(self.folder / "profile.json") as file:
            json.dump(values, file, indent=1)
