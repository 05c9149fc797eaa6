"""Training a neural language model on text.

    train_neural_lm(["text.txt"], "lm.safetensors", NeuralOptions(epochs=3))

Sentences in a new order each epoch, joined by `</s>`, are cut into as many streams as the batch has
and read a window at a time, the state carried over (truncated backpropagation through time, Werbos
1990). Adam with a learning rate that falls along a cosine; gradients clipped by their norm. Every
hundredth sentence is held out; the weights that predict those best are kept.

All of an epoch follows from (seed, epoch), all of a step's dropout from (seed, step): a run that
was stopped goes on from its last saved step as if it had not been (on the same machine and torch).
"""

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctcspeech.errors import LanguageModelError
from ctcspeech.files import DECOMPRESSION_ERRORS, atomic_write, open_compressed
from ctcspeech.lm.neural import END, SPECIAL, UNKNOWN, NeuralConfig, NeuralLanguageModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["NeuralOptions", "NeuralReport", "train_neural_lm"]

_HELD_OUT_EVERY = 100
_STATE_VERSION = "1"


@dataclass(frozen=True)
class NeuralOptions:
    """How to train. The state of a run can be resumed with the same options only."""

    hidden: int = 256
    layers: int = 1
    embedding: int = 64
    epochs: float = 3.0
    batch: int = 64  # streams read at once
    window: int = 100  # labels a step reads of each stream
    learning_rate: float = 3e-3
    dropout: float = 0.1  # of what goes from layer to layer
    clip: float = 1.0  # largest norm of a gradient
    labels: int = 1000  # most characters of the vocabulary; rarer ones are <unk>
    save_seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class NeuralReport:
    """What a run came to."""

    steps: int
    labels: int  # of the training text, with one </s> a sentence
    bits_per_label: float  # of the sentences held out, by the weights that were kept


class _Network(torch.nn.Module):
    def __init__(self, config: NeuralConfig, dropout: float) -> None:
        super().__init__()
        size = len(config.vocabulary)
        self.embedding = torch.nn.Embedding(size, config.embedding)
        inner = dropout if config.layers > 1 else 0.0
        self.lstm = torch.nn.LSTM(config.embedding, config.hidden, config.layers, dropout=inner)
        self.drop = torch.nn.Dropout(dropout)
        self.output = torch.nn.Linear(config.hidden, size)
        self.config = config

    def forward(self, ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """ids (T, N) -> logits (T, N, V), state."""
        hidden, state = self.lstm(self.drop(self.embedding(ids)), state)
        return self.output(self.drop(hidden)), state

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors of the model's file."""
        values = {k: v.detach().numpy() for k, v in self.state_dict().items()}
        arrays = {"embedding": values["embedding.weight"]}
        for k in range(self.config.layers):
            arrays[f"input.{k}"] = values[f"lstm.weight_ih_l{k}"]
            arrays[f"recurrent.{k}"] = values[f"lstm.weight_hh_l{k}"]
            arrays[f"bias.{k}"] = values[f"lstm.bias_ih_l{k}"] + values[f"lstm.bias_hh_l{k}"]
        arrays["output"], arrays["output_bias"] = values["output.weight"], values["output.bias"]
        return {name: np.array(array, dtype=np.float32) for name, array in arrays.items()}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        values = {"embedding.weight": tensors["embedding"]}
        for k in range(self.config.layers):
            values[f"lstm.weight_ih_l{k}"] = tensors[f"input.{k}"]
            values[f"lstm.weight_hh_l{k}"] = tensors[f"recurrent.{k}"]
            values[f"lstm.bias_ih_l{k}"] = tensors[f"bias.{k}"]
            values[f"lstm.bias_hh_l{k}"] = torch.zeros_like(tensors[f"bias.{k}"])
        values["output.weight"], values["output.bias"] = tensors["output"], tensors["output_bias"]
        self.load_state_dict(values)


class _Corpus:
    """Sentences as numbers: all in one array, each ended by END."""

    def __init__(self, sentences: list[list[int]], seed: int) -> None:
        held = sentences[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
        if not held:
            raise LanguageModelError(
                f"the text has {len(sentences)} sentences; at least {_HELD_OUT_EVERY} are needed, "
                "one in a hundred to be held out"
            )
        self.held = [np.array([*s, END], dtype=np.int32) for s in held]
        kept = [s for i, s in enumerate(sentences) if (i + 1) % _HELD_OUT_EVERY]
        self.sentences = [np.array([*s, END], dtype=np.int32) for s in kept]
        self.labels = sum(len(s) for s in self.sentences)
        self.seed = seed

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for sentence in (*self.sentences, *self.held):
            digest.update(sentence.tobytes())
        return digest.hexdigest()

    def streams(self, epoch: int, batch: int) -> torch.Tensor:
        """(T, N): what each stream reads in this epoch, END before it."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.sentences))
        joined = np.concatenate([self.sentences[i] for i in order])
        length = len(joined) // batch
        if length < 1:
            raise LanguageModelError(
                f"the text has {self.labels} labels, too few for {batch} streams"
            )
        rows = joined[: length * batch].reshape(batch, length)
        first = np.full((batch, 1), END, dtype=np.int32)
        return torch.from_numpy(np.concatenate([first, rows], axis=1).T.astype(np.int64).copy())


def train_neural_lm(
    texts: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: NeuralOptions = NeuralOptions(),
    *,
    alphabet: Alphabet | None = None,
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> NeuralReport:
    """Trains a model and writes it.

    texts: files (plain, gzip, bzip2, xz), UTF-8, a sentence a line; one given twice counts twice.
    alphabet: its labels are predicted (characters or pieces); by default the text's characters.
    init: a model to start from, whose labels and shape are kept.
    resume: go on with the run that was stopped, from `output` + ".state".
    progress: called with (step, steps, seconds since the call before) now and then.
    report: called with a line for people after each epoch.

    Raises LanguageModelError where the text cannot be used, or the state to resume from is of
    another run; ValueError for wrong options.
    """
    _check(options)
    output = Path(output)
    start = NeuralLanguageModel.load(init) if init is not None else None
    lines = list(_lines(texts))
    config = start.config if start else _make_config(lines, options, alphabet)
    corpus = _Corpus(_encoded(lines, config), options.seed)
    run = _Run(config, corpus, options, output)
    if start is not None:
        run.network.set_arrays(start.tensors)
    if resume:
        run.restore()
    run.train(progress or (lambda *_: None), report or (lambda _: None))
    return NeuralReport(run.steps, corpus.labels, run.best / math.log(2))


class _Run:
    def __init__(
        self, config: NeuralConfig, corpus: _Corpus, options: NeuralOptions, output: Path
    ) -> None:
        torch.manual_seed(options.seed)
        self.network = _Network(config, options.dropout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=options.learning_rate)
        self.config, self.corpus, self.options, self.output = config, corpus, options, output
        self.state_path = output.with_name(output.name + ".state")
        self.per_epoch = max(1, math.ceil(corpus.labels // options.batch / options.window))
        self.steps = max(1, round(options.epochs * self.per_epoch))
        self.step, self.best = 0, math.inf  # nats a label of the held-out text
        self.carried: Any = None
        self.best_arrays = self.network.arrays()

    def train(self, progress: Callable[..., None], report: Callable[[str], None]) -> None:
        saved = before = time.monotonic()
        rows = None
        while self.step < self.steps:
            epoch, place = divmod(self.step, self.per_epoch)
            if rows is None or place == 0:
                rows = self.corpus.streams(epoch, self.options.batch)
            if place == 0:
                self.carried = None
            loss = self.update(rows, place)
            self.step += 1
            if self.step % 20 == 0 or self.step == self.steps:
                now = time.monotonic()
                progress(self.step, self.steps, now - before)
                before = now
            if self.step % self.per_epoch == 0 or self.step == self.steps:
                bits = self.evaluate() / math.log(2)
                report(
                    f"epoch {self.step / self.per_epoch:.2f}: training {loss / math.log(2):.3f}, "
                    f"held out {bits:.3f} bits a label"
                )
            if time.monotonic() - saved > self.options.save_seconds:
                self.save()
                saved = time.monotonic()
        NeuralLanguageModel(self.config, self.best_arrays).save(self.output)
        self.state_path.unlink(missing_ok=True)

    def update(self, rows: torch.Tensor, place: int) -> float:
        options = self.options
        torch.manual_seed(options.seed * 1_000_003 + self.step)  # dropout follows from the step
        part = rows[place * options.window : (place + 1) * options.window + 1]
        falling = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * (0.02 + 0.98 * falling)
        self.network.train()
        logits, carried = self.network(part[:-1], self.carried)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        self.optimizer.step()
        self.carried = tuple(part.detach() for part in carried)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LanguageModelError(
                f"the loss became {value} in step {self.step}; a lower learning rate may help"
            )
        return value

    def evaluate(self) -> float:
        """Nats a label of the held-out sentences, each by itself; keeps the best weights."""
        arrays = self.network.arrays()
        model = NeuralLanguageModel(self.config, arrays)
        total = -sum(float(model.core.score(s).sum(dtype=np.float64)) for s in self.corpus.held)
        value = total / sum(len(s) for s in self.corpus.held)
        if value < self.best:
            self.best, self.best_arrays = value, arrays
        return value

    # -- stopping and going on -----------------------------------------------------------------

    def _identity(self) -> dict[str, str]:
        config = json.dumps(vars(self.config), ensure_ascii=False)
        return {
            "version": _STATE_VERSION,
            "options": json.dumps({**asdict(self.options), "save_seconds": 0}),
            "config": hashlib.sha256(config.encode()).hexdigest(),
            "text": self.corpus.fingerprint(),
        }

    def save(self) -> None:
        """Writes all that going on needs beside the output."""
        from safetensors.torch import save

        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for name, array in self.best_arrays.items():
            tensors[f"best.{name}"] = torch.from_numpy(array)
        for i, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer.{i}.{name}"] = value
        for i, part in enumerate(self.carried or ()):
            tensors[f"carried.{i}"] = part
        tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
        metadata = {**self._identity(), "step": str(self.step), "best": repr(self.best)}
        with atomic_write(self.state_path, "wb") as file:
            file.write(save(tensors, metadata))

    def restore(self) -> None:
        from safetensors import SafetensorError, safe_open

        path = self.state_path
        if not path.exists():
            raise LanguageModelError(f"{path}: there is no run to resume; leave --resume out")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise LanguageModelError(f"{path}: damaged: {error}") from error
        for name, value in self._identity().items():
            if metadata.get(name) != value:
                what = {"text": "text", "options": "options", "config": "alphabet or shape"}
                raise LanguageModelError(
                    f"{path}: is of a run with another {what.get(name, name)}; start anew without "
                    "--resume"
                )
        self.step, self.best = int(metadata["step"]), float(metadata["best"])
        part = {k[len("network.") :]: v for k, v in tensors.items() if k.startswith("network.")}
        self.network.load_state_dict(part)
        self.best_arrays = {
            k[len("best.") :]: v.numpy() for k, v in tensors.items() if k.startswith("best.")
        }
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        carried = [tensors[f"carried.{i}"] for i in range(2) if f"carried.{i}" in tensors]
        self.carried = tuple(carried) if carried else None


def _lines(texts: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    for path in texts:
        try:
            with open_compressed(path) as file:
                for number, line in enumerate(file, 1):
                    try:
                        text = " ".join(line.decode("utf-8").split())
                    except UnicodeDecodeError as error:
                        raise LanguageModelError(f"{path}, line {number}: not UTF-8") from error
                    if text:
                        yield text
        except FileNotFoundError:
            raise
        except DECOMPRESSION_ERRORS as error:
            raise LanguageModelError(f"{path}: {error}") from error


def _make_config(
    lines: Iterable[str], options: NeuralOptions, alphabet: Alphabet | None
) -> NeuralConfig:
    if alphabet is not None:
        labels = [label for i, label in enumerate(alphabet.labels) if i != alphabet.blank]
        pieces = alphabet.to_dict() if alphabet.kind != "characters" else None
        if alphabet.space is not None and pieces is None:
            labels = [" " if label == alphabet.separator else label for label in labels]
    else:
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(line)
        labels = sorted(character for character, _ in counts.most_common(options.labels))
        pieces = None
    vocabulary = [*SPECIAL, *(label for label in labels if label not in SPECIAL)]
    config = NeuralConfig(vocabulary, options.hidden, options.layers, options.embedding, pieces)
    config.check()
    return config


def _encoded(lines: list[str], config: NeuralConfig) -> list[list[int]]:
    index = {label: i for i, label in enumerate(config.vocabulary)}
    if config.alphabet is None:
        return [[index.get(character, UNKNOWN) for character in line] for line in lines]
    alphabet = Alphabet.from_dict(config.alphabet)
    return [[index[alphabet.labels[i]] for i in alphabet.encode(line)] for line in lines]


def _check(options: NeuralOptions) -> None:
    for name, least, most in (
        ("hidden", 1, 1 << 14), ("layers", 1, 16), ("embedding", 1, 1 << 14),
        ("epochs", 1e-6, 1e6), ("batch", 1, 1 << 16), ("window", 1, 1 << 16),
        ("learning_rate", 1e-9, 10.0), ("dropout", 0.0, 0.99), ("clip", 1e-9, 1e9),
        ("labels", 1, 1 << 20), ("seed", 0, 1 << 40), ("save_seconds", 0.0, 1e9),
    ):  # fmt: skip
        value = getattr(options, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}")
