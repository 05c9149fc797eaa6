"""Finding the decoder's weights: language model, words, words outside its vocabulary, priors.

    data = DevSet.collect(recognizer, read_manifest("dev.jsonl"))
    tuning = tune(data, recognizer, DecoderSettings(Path("lm.bin")), trials=100)
    tuning.best                                   # DecoderSettings
    tuning.plot("tune.png")

The emissions are computed once. A trial decodes them with other weights, a portion of the
utterances after the other, and is given up when its error rate so far is worse than the median of
the earlier trials' at that portion. Weights are proposed by the tree-structured Parzen estimator of
Optuna (Bergstra et al. 2011; Akiba et al. 2019).
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ctcspeech.data.manifest import Utterance
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import AlphabetError, DecoderError, ManifestError
from ctcspeech.files import atomic_write
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.recognize.transcript import Decoder, Transcript
from ctcspeech.text.error_rates import ErrorCounts, character_errors, word_errors

__all__ = ["RANGES", "DevSet", "Rates", "Trial", "Tuning", "require_optuna", "tune"]

# Where the weights are looked for (natural logarithms).
RANGES = {
    "lm_weight": (0.0, 4.0),
    "word_score": (-4.0, 8.0),
    "unk_score": (-20.0, 0.0),
    "neural_weight": (0.0, 2.0),
    "prior_weight": (0.0, 1.0),  # at 1 the posterior has become a likelihood, but for a factor
}
PORTIONS = 5  # of the utterances; a trial may be given up after each
STARTUP = 10  # trials that are never given up, and drawn at random


@dataclass
class Rates:
    """Errors in words and characters."""

    words: ErrorCounts = field(default_factory=ErrorCounts)
    characters: ErrorCounts = field(default_factory=ErrorCounts)

    @property
    def objective(self) -> float:
        """The WER, plus less than one word error for the character errors: the tie-break."""
        errors, length = self.characters.errors, self.characters.reference_length
        share = errors / (1 + errors + length)  # below 1, and grows with the errors
        return (self.words.errors + share) / max(self.words.reference_length, 1)

    def __str__(self) -> str:
        return f"WER {100 * self.words.rate:.2f}%, CER {100 * self.characters.rate:.2f}%"

    def to_dict(self) -> dict[str, float]:
        return {"wer": round(self.words.rate, 6), "cer": round(self.characters.rate, 6)}


class DevSet:
    """Emissions of utterances, computed as `Recognizer.transcribe` does, with their references."""

    def __init__(self, separator: str = " ") -> None:
        self.emissions: list[np.ndarray] = []  # (T, C) of each stretch between pauses
        self.utterances: list[list[int]] = []  # the stretches of each utterance
        self.references: list[str] = []
        self.separator = separator  # between the texts of two stretches
        self._known: dict[tuple[int, str], Rates] = {}

    @classmethod
    def collect(
        cls,
        recognizer: Recognizer,
        utterances: Iterable[Utterance],
        done: Callable[[Transcript], None] | None = None,
    ) -> "DevSet":
        """Computes the emissions. done: called with each Transcript, which has no text; those that
        could not be read have their `error` set and are left out.

        Raises ManifestError if no utterance is left, or none has a word.
        """
        utterances = list(utterances)
        data = cls()
        waiting = iter(utterances)
        kept: dict[int, list[int]] = {}  # by id(transcript)
        for portion in recognizer.stretches(utterances):
            for transcript, stretch in portion.stretches:
                kept.setdefault(id(transcript), []).append(len(data.emissions))
                data.emissions.append(stretch.emissions)
            for transcript in portion.ended:
                data._add(next(waiting), transcript, kept.pop(id(transcript), []), recognizer)
                if done is not None:
                    done(transcript)
        if not any(reference.split() for reference in data.references):
            raise ManifestError("there is no utterance with words to tune on")
        return data

    def _add(
        self,
        utterance: Utterance,
        transcript: Transcript,
        stretches: list[int],
        recognizer: Recognizer,
    ) -> None:
        """An utterance whose emissions are all there."""
        self.separator = transcript.separator
        try:
            text = utterance.text
            reference = text if recognizer.normalizer is None else recognizer.normalizer(text)
        except AlphabetError as error:
            transcript.error = transcript.error or error
        if transcript.error is None:
            self.utterances.append(stretches)
            self.references.append(reference)

    def __len__(self) -> int:
        return len(self.references)

    def label_priors(self) -> list[float]:
        """The labels' mean probability over all frames, (C,), as if each had had one frame more,
        so that a label which is rare here is not taken for an impossible one."""
        totals, frames = np.ones(self.emissions[0].shape[1]), 0
        for emissions in self.emissions:
            logits = emissions.astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            probabilities = np.exp(logits)
            totals += (probabilities / probabilities.sum(axis=1, keepdims=True)).sum(axis=0)
            frames += len(emissions)
        return [float(f"{value:.6g}") for value in totals / (frames + len(totals))]

    def rates(self, decoder: Decoder, indices: Sequence[int] | None = None) -> Rates:
        """The errors that a decoder makes on all utterances, or on some of them."""
        chosen = range(len(self)) if indices is None else indices
        stretches = [k for i in chosen for k in self.utterances[i]]
        decoded = decoder.decode([self.emissions[k] for k in stretches]) if stretches else []
        texts = dict(zip(stretches, (found[0].text for found in decoded), strict=True))
        total = Rates()
        for i in chosen:
            parts = (texts[k] for k in self.utterances[i])
            rates = self._compare(i, self.separator.join(part for part in parts if part))
            total = Rates(total.words + rates.words, total.characters + rates.characters)
        return total

    def _compare(self, index: int, text: str) -> Rates:
        """Kept, since most trials read most utterances alike."""
        found = self._known.get((index, text))
        if found is None:
            reference = self.references[index]
            found = Rates(word_errors(reference, text), character_errors(reference, text))
            self._known[index, text] = found
        return found


@dataclass
class Trial:
    """Weights that were tried, and the errors on the utterances decoded with them."""

    settings: DecoderSettings
    rates: Rates
    complete: bool  # whether all utterances were decoded


@dataclass
class Tuning:
    """What was found."""

    greedy: Rates
    trials: list[Trial]  # the first is the defaults
    interrupted: bool = False

    @property
    def completed(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.complete]

    @property
    def best_trial(self) -> Trial:
        """The first of those with the lowest error rate."""
        return min(self.completed, key=lambda trial: trial.rates.objective)

    @property
    def best(self) -> DecoderSettings:
        return self.best_trial.settings

    @property
    def helps(self) -> bool:
        """Whether decoding so is no worse than greedy decoding."""
        return self.best_trial.rates.objective <= self.greedy.objective

    def at_the_edge(self) -> list[str]:
        """The weights that lie where the search ended, so that better ones may lie beyond."""
        names = ["lm_weight"] * (self.best.lm is not None) + ["word_score"]
        names += ["unk_score"] * self.best.open_vocabulary
        names += ["neural_weight"] * (self.best.neural_lm is not None) + ["prior_weight"]
        found = []
        for name in names:
            low, high = RANGES[name]
            value, margin = getattr(self.best, name), 0.01 * (high - low)
            # No weight at all, and words that cost too much to be written, are ends of their own.
            if value > high - margin or (value < low + margin and name == "word_score"):
                found.append(name)
        return found

    def to_dict(self) -> dict[str, Any]:
        """What `decoder.json` keeps of it."""
        return {
            "words": self.greedy.words.reference_length,
            "trials": len(self.trials),
            "complete": len(self.completed),
            "greedy": self.greedy.to_dict(),
            "defaults": self.trials[0].rates.to_dict(),
            "tuned": self.best_trial.rates.to_dict(),
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the WER over lm_weight and word_score, for each kind of vocabulary that was tried,
        as a PNG file. The surface is smoothed from the complete trials."""
        from matplotlib.figure import Figure

        kinds = [
            kind
            for kind in (False, True)
            if any(trial.settings.open_vocabulary == kind for trial in self.completed)
        ]
        figure = Figure(figsize=(1 + 5.5 * len(kinds), 4.8), layout="constrained")
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for ax, kind in zip(axes, kinds, strict=True):
            self._panel(figure, ax, kind)
        unit = " words" if self.best.lm_unit == "word" else ""
        tuned, greedy = (100 * rates.words.rate for rates in (self.best_trial.rates, self.greedy))
        figure.suptitle(
            f"{len(self.trials)} trials on {self.greedy.words.reference_length}{unit}: "
            f"WER {greedy:.2f}% greedy, {tuned:.2f}% tuned"
        )
        with atomic_write(path, "wb") as file:
            figure.savefig(file, format="png", dpi=120)

    def _panel(self, figure: Any, ax: Any, open_vocabulary: bool) -> None:
        trials = [t for t in self.trials if t.settings.open_vocabulary == open_vocabulary]
        done = [t for t in trials if t.complete]
        points = np.array([_point(t.settings) for t in done])  # (trials, 2)
        rates = np.array([100 * t.rates.words.rate for t in done])
        x, y, surface = _surface(points, rates, np.array([_point(t.settings) for t in trials]))
        if np.ptp(surface) > 0:
            filled = ax.contourf(x, y, surface, levels=15, cmap="viridis_r")
            figure.colorbar(filled, ax=ax, label="WER, %")
        given_up = np.array([_point(t.settings) for t in trials if not t.complete])
        if len(given_up):
            ax.plot(*given_up.T, "x", color="0.3", markersize=4, label="given up")
        ax.plot(*points.T, "o", color="white", markeredgecolor="black", markersize=4, label="done")
        if self.best.open_vocabulary == open_vocabulary:
            label = f"best, {100 * self.best_trial.rates.words.rate:.2f}%"
            ax.plot(*_point(self.best), "*", color="red", markersize=13, label=label)
        name = "open" if open_vocabulary else "closed"
        ax.set_title(f"{name} vocabulary" if self.best.lm_unit == "word" else "labels' model")
        weight = "neural_weight" if self.best.lm is None else "lm_weight"
        ax.set(xlabel=weight, ylabel="word_score")
        ax.legend(loc="best", fontsize="small")


def require_optuna() -> Any:
    """The module. Raises DecoderError saying how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise DecoderError(
            "tuning needs the package optuna: pip install 'ctcspeech[tune]'"
        ) from error
    return optuna


def tune(
    data: DevSet,
    recognizer: Recognizer,
    settings: DecoderSettings,
    *,
    trials: int = 100,
    vocabulary: str = "any",
    seed: int = 0,
    done: Callable[[Trial, Tuning], None] | None = None,
) -> Tuning:
    """Looks for the weights with the fewest errors on the data.

    settings: the language model and the beam; its weights are not looked at.
    trials: how many weights to try; the first are the decoder's defaults, with a closed and an open
        vocabulary, then the same with more weight of the language model and the labels' priors
        taken off.
    vocabulary: "closed", "open", or "any": the search chooses. A model over labels has neither.
    seed: the same seed gives the same trials.
    done: called after each trial. KeyboardInterrupt ends the search, and what was found until then
        is returned, if one trial was complete.

    Raises DecoderError without Optuna or without a language model.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if vocabulary not in ("any", "closed", "open"):
        raise ValueError(f'vocabulary must be "any", "closed" or "open", got {vocabulary!r}')
    optuna = require_optuna()
    lm, neural_lm = settings.load_lm(), settings.load_neural_lm()
    if lm is None and neural_lm is None:
        raise DecoderError("tuning needs a language model")
    kinds = [False, True] if vocabulary == "any" else [vocabulary == "open"]
    if settings.lm_unit == "token" or lm is None:
        kinds = [False]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
    )
    settings = replace(settings, label_priors=data.label_priors())
    for discounted in (False, True):
        for kind in kinds:
            study.enqueue_trial(_start(settings, kind, len(kinds) > 1, discounted))
    portions = _portions(len(data), seed)
    tuning = Tuning(data.rates(recognizer.greedy_decoder()), [])
    try:
        for _ in range(trials):
            asked = study.ask()
            proposed = _propose(asked, settings, kinds)
            decoder = proposed.decoder(
                recognizer.alphabet,
                recognizer.frame_shift_ms,
                lm=lm,
                neural_lm=neural_lm,
                word_times=False,
                threads=recognizer.threads,
            )
            trial = _run(asked, Trial(proposed, Rates(), False), data, decoder, portions)
            if trial.complete:
                study.tell(asked, trial.rates.objective)
            else:
                study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            tuning.trials.append(trial)
            if done is not None:
                done(trial, tuning)
    except KeyboardInterrupt:
        if not tuning.completed:
            raise
        tuning.interrupted = True
    return tuning


def _run(
    asked: Any, trial: Trial, data: DevSet, decoder: Decoder, portions: list[list[int]]
) -> Trial:
    for step, portion in enumerate(portions):
        rates = data.rates(decoder, portion)
        total = trial.rates
        trial.rates = Rates(total.words + rates.words, total.characters + rates.characters)
        asked.report(trial.rates.objective, step)
        if step + 1 < len(portions) and asked.should_prune():
            return trial
    trial.complete = True
    return trial


def _portions(count: int, seed: int) -> list[list[int]]:
    """The utterances in random order, in parts: the same ones for each trial."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    parts = min(PORTIONS, count)
    return [order[count * k // parts : count * (k + 1) // parts] for k in range(parts)]


def _start(
    settings: DecoderSettings, open_vocabulary: bool, any_vocabulary: bool, discounted: bool
) -> dict[str, Any]:
    """The defaults; or, discounted, where weights were found that go with the labels' priors."""
    over_words = settings.lm_unit == "word" and settings.lm is not None
    values: dict[str, Any] = {"word_score": 1.5 if over_words else 0.0}
    values["prior_weight"] = 0.6 if discounted else 0.0
    if settings.lm is not None:
        values["lm_weight"] = 1.2 if discounted else 0.5
    if settings.neural_lm is not None:
        values["neural_weight"] = 0.3
    if open_vocabulary:
        values["unk_score"] = -10.0
    if any_vocabulary:
        values["open_vocabulary"] = open_vocabulary
    return values


def _propose(asked: Any, settings: DecoderSettings, kinds: list[bool]) -> DecoderSettings:
    opened = kinds[0]
    if len(kinds) > 1:
        opened = asked.suggest_categorical("open_vocabulary", kinds)
    names = ["lm_weight"] * (settings.lm is not None) + ["word_score"]
    names += ["neural_weight"] * (settings.neural_lm is not None) + ["prior_weight"]
    values = {name: asked.suggest_float(name, *RANGES[name]) for name in names}
    if opened:
        values["unk_score"] = asked.suggest_float("unk_score", *RANGES["unk_score"])
    rounded = {name: round(value, 4) for name, value in values.items()}
    return replace(settings, open_vocabulary=opened, tuning={}, **rounded)


def _point(settings: DecoderSettings) -> tuple[float, float]:
    weight = settings.neural_weight if settings.lm is None else settings.lm_weight
    return weight, float(settings.word_score or 0.0)


def _surface(
    points: np.ndarray, rates: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel regression (Nadaraya 1964, Watson 1964) of the rates on a grid around the points.

    points: (trials, 2); shown: the points that the grid must hold. Returns x (100,), y (100,) and
    the surface (100, 100), rows along y.
    """
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = np.maximum(0.05 * (high - low), 0.1)
    x, y = (np.linspace(low[k] - margin[k], high[k] + margin[k], 100) for k in (0, 1))
    width = 0.08 * (high - low + 2 * margin)
    grid = np.stack(np.meshgrid(x, y), axis=-1)  # (100, 100, 2)
    distances = (((grid[:, :, None] - points) / width) ** 2).sum(axis=-1)  # (100, 100, trials)
    weights = np.exp(-0.5 * (distances - distances.min(axis=-1, keepdims=True)))
    return x, y, (weights * rates).sum(axis=-1) / weights.sum(axis=-1)
