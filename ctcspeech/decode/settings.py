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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.errors import DecoderError
from ctcspeech.files import atomic_write
from ctcspeech.lm.model import LanguageModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["DecoderSettings"]

FORMAT, VERSION = "ctcspeech decoder", 1
FILE = "decoder.json"
_NUMBERS = ("lm_weight", "word_score", "unk_score", "beam_threshold", "token_min_logp")


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
            values = json.loads(path.read_text(encoding="utf-8"))
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
        except ValueError as error:
            raise DecoderError(f"{path}: {error}") from error
        if values.get("lm") is not None:
            values["lm"] = path.parent / values["lm"]
        return cls(**values)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `decoder.json` into a checkpoint's folder; `lm` relative to it if it is there."""
        from ctcspeech import __version__

        path = Path(folder) / FILE
        values = asdict(self)
        if self.lm is not None:
            lm, base = self.lm.absolute(), path.parent.absolute()
            values["lm"] = str(lm.relative_to(base) if lm.is_relative_to(base) else lm)
        values = {"format": FORMAT, "version": VERSION, "ctcspeech": __version__, **values}
        with atomic_write(path) as file:
            file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        return path

    def load_lm(self) -> LanguageModel | None:
        """The language model. Raises DecoderError if its file is missing, LanguageModelError if it
        is damaged."""
        if self.lm is None:
            return None
        if not self.lm.is_file():
            raise DecoderError(
                f"the language model {self.lm} is missing; give another with --lm, or decode with "
                "--decoder greedy"
            )
        return LanguageModel.load(self.lm)

    def decoder(
        self,
        alphabet: Alphabet,
        frame_shift_ms: float,
        *,
        lm: LanguageModel | None = None,
        hot_words: Mapping[str, float] | None = None,
        n_best: int = 1,
        word_times: bool = True,
        threads: int | None = None,
    ) -> BeamDecoder:
        """The decoder. `lm`: the language model, if it is loaded already."""
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
            hot_words=hot_words,
            n_best=n_best,
            frame_shift_ms=frame_shift_ms,
            word_times=word_times,
            threads=threads,
        )


def _check(values: dict[str, Any]) -> None:
    """Kinds of the values of a file; their ranges are for the decoder to check."""
    for name in _NUMBERS:
        value = values.get(name, 0.0)
        if value is None and name == "word_score":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
    for name, kind, words in (
        ("lm", (str, type(None)), "a file's name or null"),
        ("lm_unit", str, '"word" or "token"'),
        ("open_vocabulary", bool, "true or false"),
        ("beam_size", int, "an integer"),
        ("tuning", dict, "an object"),
    ):
        if name in values and not isinstance(values[name], kind):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be {words}, got {values[name]!r}")
