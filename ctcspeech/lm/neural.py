"""Neural language models over characters or pieces: an LSTM that predicts the next label.

    model = NeuralLanguageModel.load("lm.safetensors")
    model.score("the quick brown fox")          # log10 P, </s> included
    model.sample(temperature=0.8, seed=1)
    BeamDecoder(alphabet, "lm.bin", neural_lm=model, neural_weight=0.4)

`ctcspeech lm train` makes one (neural_train.py, which needs torch); here the native core computes
(csrc/neural), and torch is not needed. The network (Mikolov et al. 2010; Sundermeyer et al. 2012;
for CTC decoding Graves and Jaitly 2014, Hwang and Sung 2016): an embedding of the last label, LSTM
layers (Hochreiter and Schmidhuber 1997, with forget gates), a softmax over the labels.

The file is safetensors. Its metadata holds `format` (always "ctcspeech-neural-lm"), `version`,
`config` (JSON: layers, hidden, embedding, vocabulary, and the alphabet of a model over pieces) and
`sha256` of the tensors; a reader MUST refuse a version that it does not know.

Label 0 is `</s>`, which begins and ends a sentence, and 1 is `<unk>`.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctcspeech import _core
from ctcspeech.errors import LanguageModelError
from ctcspeech.files import atomic_write
from ctcspeech.text.alphabet import Alphabet

__all__ = ["NeuralConfig", "NeuralLanguageModel", "is_neural"]

FORMAT = "ctcspeech-neural-lm"
VERSION = 1
END, UNKNOWN = 0, 1
SPECIAL = ("</s>", "<unk>")
LN10 = math.log(10)
_MOST_LABELS, _MOST_WIDTH, _MOST_LAYERS = 1 << 20, 1 << 14, 16


@dataclass
class NeuralConfig:
    """The shape of a network and what it writes."""

    vocabulary: list[str]  # of labels; the first two are </s> and <unk>
    hidden: int = 256
    layers: int = 1
    embedding: int = 64
    alphabet: dict[str, Any] | None = field(default=None, repr=False)  # of a model over pieces

    def check(self) -> None:
        """Raises LanguageModelError for what cannot be."""
        words = self.vocabulary
        if not isinstance(words, list) or tuple(words[:2]) != SPECIAL or len(words) > _MOST_LABELS:
            raise LanguageModelError(f"the vocabulary must be a list that begins with {SPECIAL}")
        if not all(isinstance(word, str) for word in words) or len(set(words)) != len(words):
            raise LanguageModelError("the vocabulary must hold different strings")
        for name, most in (
            ("hidden", _MOST_WIDTH),
            ("embedding", _MOST_WIDTH),
            ("layers", _MOST_LAYERS),
        ):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise LanguageModelError(f"{name} must be from 1 to {most}, got {value!r}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the file. Gates are in the order input, forget, cell, output."""
        gates, size = 4 * self.hidden, len(self.vocabulary)
        shapes: dict[str, tuple[int, ...]] = {"embedding": (size, self.embedding)}
        for layer in range(self.layers):
            width = self.hidden if layer else self.embedding
            shapes[f"input.{layer}"] = (gates, width)
            shapes[f"recurrent.{layer}"] = (gates, self.hidden)
            shapes[f"bias.{layer}"] = (gates,)
        shapes["output"] = (size, self.hidden)
        shapes["output_bias"] = (size,)
        return shapes


def is_neural(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of these, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(16)
    return len(head) == 16 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 28


class NeuralLanguageModel:
    """A neural language model over labels. Immutable; may be shared among threads.

    The native network is in `.core`.
    """

    def __init__(
        self, config: NeuralConfig, tensors: dict[str, np.ndarray], path: Path | None = None
    ) -> None:
        """Raises LanguageModelError where a tensor is missing, of a wrong shape, or not finite."""
        config.check()
        self.config, self.tensors, self.path = config, {}, path
        for name, shape in config.shapes().items():
            array = tensors.get(name)
            if array is None or array.shape != shape:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise LanguageModelError(f"the tensor {name} must be of shape {shape}, is {found}")
            if not np.isfinite(array).all():
                raise LanguageModelError(f"the tensor {name} holds NaN or infinity")
            self.tensors[name] = np.ascontiguousarray(array, dtype=np.float32)
        names = [f"{kind}.{k}" for k in range(config.layers) for kind in _LAYER]
        self.core = _core.NeuralModel(
            self.tensors["embedding"],
            [self.tensors[name] for name in names],
            self.tensors["output"],
            self.tensors["output_bias"],
        )
        self._index = {label: i for i, label in enumerate(config.vocabulary)}
        self._alphabet = Alphabet.from_dict(config.alphabet) if config.alphabet else None

    # -- files ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NeuralLanguageModel":
        """Reads a model. Raises LanguageModelError if it is damaged or of another kind or version,
        FileNotFoundError and the like if it cannot be opened."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        path.stat()
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, TypeError) as error:
            raise LanguageModelError(f"{path}: not a neural language model: {error}") from error
        try:
            if metadata.get("format") != FORMAT:
                raise LanguageModelError("not a neural language model of ctcspeech")
            if metadata.get("version") != str(VERSION):
                raise LanguageModelError(
                    f"version {metadata.get('version')}, but this release reads version {VERSION}; "
                    "read it with a newer ctcspeech"
                )
            if metadata.get("sha256") != _digest(tensors, metadata.get("config", "")):
                raise LanguageModelError("damaged: its checksum does not match")
            return cls(_read_config(metadata["config"]), tensors, path)
        except LanguageModelError as error:
            raise LanguageModelError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model, whole or not at all."""
        from safetensors.numpy import save

        config = json.dumps(vars(self.config), ensure_ascii=False)
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "config": config,
            "sha256": _digest(self.tensors, config),
        }
        with atomic_write(path, "wb") as file:
            file.write(save(self.tensors, metadata))

    def __reduce__(self) -> Any:
        return NeuralLanguageModel, (self.config, self.tensors, self.path)

    def __copy__(self) -> "NeuralLanguageModel":
        return self

    def __deepcopy__(self, memo: Any) -> "NeuralLanguageModel":
        return self

    def __repr__(self) -> str:
        c = self.config
        return f"NeuralLanguageModel({len(c.vocabulary)} labels, {c.layers} x {c.hidden})"

    # -- text and labels -----------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The labels of a text, white space normalised, without `</s>`."""
        text = " ".join(text.split())
        if self._alphabet is None:
            return [self._index.get(character, UNKNOWN) for character in text]
        return [self.index(self._alphabet.labels[i]) for i in self._alphabet.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of labels."""
        labels = [self.config.vocabulary[i] for i in ids if i != END]
        if self._alphabet is None:
            return "".join("\ufffd" if label == SPECIAL[UNKNOWN] else label for label in labels)
        return self._alphabet.decode([self._alphabet.labels.index(label) for label in labels])

    def index(self, label: str) -> int:
        """The number of a label, that of `<unk>` for one that the model does not have."""
        return self._index.get(label, UNKNOWN)

    # -- scores --------------------------------------------------------------------------------

    def log_probs(self, text: str) -> np.ndarray:
        """ln P of each label given those before it, `</s>` last: float32 (labels + 1,)."""
        return self.core.score(np.asarray([*self.encode(text), END], dtype=np.int32))

    def score(self, text: str) -> float:
        """log10 P(text </s>)."""
        return float(self.log_probs(text).sum(dtype=np.float64)) / LN10

    def sample(
        self, prompt: str = "", *, temperature: float = 1.0, seed: int = 0, longest: int = 1000
    ) -> str:
        """A sentence that goes on from the prompt, drawn label by label from P^(1 / temperature);
        0 takes the likeliest each time. The same seed draws the same sentence."""
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
        return self.decode(list(self._draw(prompt, temperature, seed, longest)))

    def _draw(self, prompt: str, temperature: float, seed: int, longest: int) -> Iterator[int]:
        chance = np.random.default_rng(seed)
        given = self.encode(prompt)
        state, ln_p = self.core.step(None, END)
        for count in range(longest + len(given)):
            if count < len(given):
                label = given[count]
            else:
                ln_p[UNKNOWN] = -np.inf
                if temperature == 0:
                    label = int(np.argmax(ln_p))
                else:
                    scaled = ln_p.astype(np.float64) / temperature
                    p = np.exp(scaled - scaled.max())
                    label = int(chance.choice(len(p), p=p / p.sum()))
                if label == END:
                    return
            yield label
            state, ln_p = self.core.step(state, label)


_LAYER = ("input", "recurrent", "bias")


def _digest(tensors: dict[str, np.ndarray], config: str) -> str:
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _read_config(text: str) -> NeuralConfig:
    try:
        return NeuralConfig(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise LanguageModelError(f"its configuration is damaged: {error}") from None
