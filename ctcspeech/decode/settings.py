"""How a model's emissions are decoded: the language model and the weights that were found for it.

    settings = DecoderSettings.find("runs/english")      # None where the model has none
    decoder = settings.decoder(alphabet, frame_shift_ms=20)

Format version 1: `decoder.json` in the folder of a checkpoint MUST hold

    {"format": "ctcspeech decoder", "version": 1}

and MAY hold each of the fields of `DecoderSettings` (what is missing has its default), and
`tuning`, what is known of how they were found. `lm` is a file's name, relative to the folder unless
it is absolute. Another version, and an unknown field, is refused.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.errors import DecoderError
from ctcspeech.files import ChecksumError, atomic_write, parse_json, seal, verify
from ctcspeech.lm.model import LanguageModel
from ctcspeech.lm.neural import NeuralLanguageModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["DecoderSettings"]

FORMAT, VERSION = "ctcspeech decoder", 1
FILE = "decoder.json"
_FILES = ("lm", "neural_lm")
LARGEST_BEAM = 1_000_000
_MOST = 1e6
_NUMBERS = (  # the ranges that the decoder takes
    ("lm_weight", -_MOST, _MOST),
    ("word_score", -_MOST, _MOST),
    ("unk_score", -_MOST, 0.0),
    ("beam_threshold", sys.float_info.min, math.inf),
    ("token_min_logp", -math.inf, 0.0),
    ("neural_weight", 0.0, _MOST),
    ("prior_weight", 0.0, _MOST),
)


@dataclass
class DecoderSettings:
    """The arguments of `BeamDecoder` that belong to a model; see there."""

    lm: Path | None = None  # absolute, or from the working folder
    lm_unit: str = "word"
    lm_weight: float = 0.5
    word_score: float | None = None  # None: the decoder's default for this kind of model
    unk_score: float = -10.0
    open_vocabulary: bool = False
    beam_size: int = 100
    beam_threshold: float = 15.0
    token_min_logp: float = -8.0
    neural_lm: Path | None = None  # like lm
    neural_weight: float = 0.3
    prior_weight: float = 0.0
    label_priors: list[float] | None = None
    tuning: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, folder: str | os.PathLike[str]) -> "DecoderSettings | None":
        """The settings in a checkpoint's folder, or None if there are none there."""
        path = Path(folder) / FILE
        return cls.load(path) if path.is_file() else None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DecoderSettings":
        """Reads a `decoder.json`. Raises DecoderError if it is damaged or of another version."""
        path = Path(path)
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DecoderError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise DecoderError(f"{path} is damaged: {error}") from error
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise DecoderError(
                f'{path} holds no decoder\'s settings: it lacks "format": "{FORMAT}"'
            )
        version = values.pop("version", None)
        if version != VERSION:
            raise DecoderError(
                f"{path} has format version {version!r}, this release reads version {VERSION}; "
                "read it with a newer ctcspeech"
            )
        values.pop("ctcspeech", None)
        unknown = sorted(values.keys() - {item.name for item in fields(cls)})
        if unknown:
            raise DecoderError(f"{path} has unknown fields: {', '.join(unknown)}")
        try:
            _check(values)
        except (ValueError, OverflowError) as error:
            raise DecoderError(f"{path}: {error}") from error
        for name in _FILES:
            if values.get(name) is not None:
                values[name] = path.parent / values[name]
        return cls(**values)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `decoder.json` into a checkpoint's folder; `lm` relative to it if it is there."""
        from ctcspeech import __version__

        path = Path(folder) / FILE
        values = asdict(self)
        base = path.parent.absolute()
        for name in _FILES:
            if values[name] is not None:
                lm = values[name].absolute()
                values[name] = str(lm.relative_to(base) if lm.is_relative_to(base) else lm)
        values = {"format": FORMAT, "version": VERSION, "ctcspeech": __version__, **values}
        with atomic_write(path) as file:
            file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        if self.lm is not None and self.lm.absolute().parent == path.parent.absolute():
            if self.lm.is_file():
                seal(path.parent, [self.lm.name])  # a model that lies in the folder belongs to it
        return path

    def load_lm(self) -> LanguageModel | None:
        """The language model. Raises DecoderError if its file is missing, LanguageModelError if it
        is damaged."""
        if self.lm is None:
            return None
        _require(self.lm, "--lm")
        return LanguageModel.load(self.lm)

    def load_neural_lm(self) -> NeuralLanguageModel | None:
        """The neural language model, likewise."""
        if self.neural_lm is None:
            return None
        _require(self.neural_lm, "--neural-lm")
        return NeuralLanguageModel.load(self.neural_lm)

    def decoder(
        self,
        alphabet: Alphabet,
        frame_shift_ms: float,
        *,
        lm: LanguageModel | None = None,
        neural_lm: NeuralLanguageModel | None = None,
        hot_words: Mapping[str, float] | None = None,
        n_best: int = 1,
        word_times: bool = True,
        threads: int | None = None,
    ) -> BeamDecoder:
        """The decoder. `lm`, `neural_lm`: the language models, if they are loaded already."""
        lm = lm or self.load_lm()
        return BeamDecoder(
            alphabet,
            lm,
            lm_unit=self.lm_unit if lm is not None else "word",
            lm_weight=self.lm_weight,
            word_score=self.word_score,
            unk_score=self.unk_score,
            open_vocabulary=self.open_vocabulary,
            beam_size=self.beam_size,
            beam_threshold=self.beam_threshold,
            token_min_logp=self.token_min_logp,
            neural_lm=neural_lm or self.load_neural_lm(),
            neural_weight=self.neural_weight,
            prior_weight=self.prior_weight,
            label_priors=self.label_priors,
            hot_words=hot_words,
            n_best=n_best,
            frame_shift_ms=frame_shift_ms,
            word_times=word_times,
            threads=threads,
        )


def _require(lm: Path, option: str) -> None:
    if not lm.is_file():
        raise DecoderError(
            f"the language model {lm} is missing; give another with {option}, or decode with "
            "--decoder greedy"
        )
    try:
        verify(lm)
    except ChecksumError as error:
        raise DecoderError(str(error)) from error


def _check(values: dict[str, Any]) -> None:
    """Kinds and ranges of the values of a file. Raises ValueError naming the field."""
    for name, low, high in _NUMBERS:
        value = values.get(name)
        if value is None and (name not in values or name == "word_score"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{name} must be {low:g} to {high:g}, got {value!r}")
    for name, kind, words in (
        ("lm", (str, type(None)), "a file's name or null"),
        ("neural_lm", (str, type(None)), "a file's name or null"),
        ("open_vocabulary", bool, "true or false"),
        ("tuning", dict, "an object"),
    ):
        if name in values and not isinstance(values[name], kind):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be {words}, got {values[name]!r}")
    priors = values.get("label_priors")
    if priors is not None and not (
        isinstance(priors, list) and all(type(p) in (int, float) and 0 < p <= 1 for p in priors)
    ):
        raise ValueError(f"label_priors must be probabilities above 0, got {priors!r:.80}")
    if values.get("prior_weight") and priors is None:
        raise ValueError("prior_weight needs label_priors")
    if "\0" in (values.get("lm") or ""):
        raise ValueError(f"lm must be a file's name, got {values['lm']!r}")
    if values.get("lm_unit", "word") not in ("word", "token"):
        raise ValueError(f'lm_unit must be "word" or "token", got {values["lm_unit"]!r}')
    size = values.get("beam_size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_BEAM:
        raise ValueError(f"beam_size must be an integer of 1 to {LARGEST_BEAM}, got {size!r}")
