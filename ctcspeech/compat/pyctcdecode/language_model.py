"""pyctcdecode's language models and hot words, over this package's n-gram models."""

import abc
import json
import math
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ctcspeech.lm.model import LanguageModel as NgramModel
from ctcspeech.lm.model import State

__all__ = [
    "DEFAULT_ALPHA",
    "DEFAULT_BETA",
    "DEFAULT_HOTWORD_WEIGHT",
    "DEFAULT_SCORE_LM_BOUNDARY",
    "DEFAULT_UNK_LOGP_OFFSET",
    "LN10",
    "AbstractLanguageModel",
    "HotwordScorer",
    "LanguageModel",
    "MultiLanguageModel",
    "load_unigram_set_from_arpa",
    "mean",
]

DEFAULT_ALPHA = 0.5
DEFAULT_BETA = 1.5
DEFAULT_UNK_LOGP_OFFSET = -10.0
DEFAULT_HOTWORD_WEIGHT = 10.0
DEFAULT_SCORE_LM_BOUNDARY = True

LN10 = math.log(10)
_LM_SUFFIXES = (".arpa", ".bin", ".binary")


def load_unigram_set_from_arpa(arpa_path: str) -> set[str]:
    """The words of an ARPA file that n-grams go on from (pyctcdecode leaves the others out).
    Raises ValueError if there are none."""
    words, reading = set(), False
    with open(arpa_path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\2-grams:"):
                break
            reading = reading or line.startswith("\\1-grams:")
            fields = line.strip().split("\t")
            if reading and len(fields) == 3:
                words.add(fields[1])
    if not words:
        raise ValueError("No unigrams found in arpa file. Something is wrong with the file.")
    return words


class HotwordScorer:
    """What hot words add to a text. The search has its own; this is for programs that ask."""

    def __init__(self, words: Collection[str], weight: float = DEFAULT_HOTWORD_WEIGHT) -> None:
        self._words = frozenset(words)
        self._weight = weight

    @classmethod
    def build_scorer(
        cls, hotwords: Iterable[str] | None = None, weight: float = DEFAULT_HOTWORD_WEIGHT
    ) -> "HotwordScorer":
        """hotwords: words and phrases, whose words count each."""
        return cls([word for phrase in hotwords or () for word in phrase.split()], weight)

    def __contains__(self, item: str) -> bool:
        """Whether a hot word begins so."""
        return any(word.startswith(item) for word in self._words)

    def score(self, text: str) -> float:
        return self._weight * sum(word in self._words for word in text.split())

    def score_partial_token(self, token: str) -> float:
        """The part of the weight that the letters of the shortest such hot word so far make."""
        lengths = [len(word) for word in self._words if word.startswith(token)]
        return self._weight * len(token) / min(lengths) if lengths else 0.0


class AbstractLanguageModel(abc.ABC):
    """A language model of a user's own: scores are natural logarithms, weighted, as they add to a
    hypothesis. `score_partial_token` is not asked for: the search has no need of it."""

    @property
    @abc.abstractmethod
    def order(self) -> int: ...

    @abc.abstractmethod
    def get_start_state(self) -> Any: ...

    @abc.abstractmethod
    def score_partial_token(self, partial_token: str) -> float: ...

    @abc.abstractmethod
    def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
        """What the word adds, and the state after it; with the sentence's end where it is last."""

    def save_to_dir(self, filepath: str) -> None:
        raise NotImplementedError

    @classmethod
    def load_from_dir(cls, filepath: str) -> "AbstractLanguageModel":
        raise NotImplementedError

    def reset_params(self, **params: Any) -> None:  # noqa: B027  # not every model has some
        """Sets parameters, where the model has some."""


class LanguageModel(AbstractLanguageModel):
    """An n-gram model over words with its weights. The weights may be set at any time."""

    JSON_ATTRS = ("alpha", "beta", "unk_score_offset", "score_boundary")
    _ATTRS_SERIALIZED_FILENAME = "attrs.json"
    _UNIGRAMS_SERIALIZED_FILENAME = "unigrams.txt"

    def __init__(
        self,
        kenlm_model: Any,
        unigrams: Collection[str] | None = None,
        alpha: float = DEFAULT_ALPHA,
        beta: float = DEFAULT_BETA,
        unk_score_offset: float = DEFAULT_UNK_LOGP_OFFSET,
        score_boundary: bool = DEFAULT_SCORE_LM_BOUNDARY,
    ) -> None:
        """kenlm_model: a `ctcspeech.LanguageModel`, a file, or a `kenlm.Model`.
        unigrams: the known words; by default the model's."""
        if isinstance(getattr(kenlm_model, "path", None), bytes):  # a kenlm.Model
            kenlm_model = os.fsdecode(kenlm_model.path)
        if not isinstance(kenlm_model, NgramModel):
            kenlm_model = NgramModel.load(kenlm_model)
        self.model: NgramModel = kenlm_model
        known = None if unigrams is None else {word for word in unigrams if word in self.model}
        self.unigrams = sorted(known) if known else None
        self._known = frozenset(known) if known else None
        self.alpha = alpha
        self.beta = beta
        self.unk_score_offset = unk_score_offset
        self.score_boundary = score_boundary

    def reset_params(self, **params: Any) -> None:
        """Sets some of alpha, beta, unk_score_offset, score_boundary; None leaves one as it is."""
        for name in self.JSON_ATTRS:
            value = params.get(name)
            if value is None:
                continue
            kind = bool if name == "score_boundary" else float
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be a {kind.__name__}. Got {type(value)}.")
            setattr(self, name, value)

    @property
    def order(self) -> int:
        return self.model.order

    def get_start_state(self) -> State:
        return self.model.begin_state() if self.score_boundary else self.model.null_state()

    def score(
        self, prev_state: State, word: str, is_last_word: bool = False
    ) -> tuple[float, State]:
        """What a word adds to the score (natural logarithm, weighted), and the state after it."""
        log10, state = self.model.score_word(prev_state, word)
        if not self.knows(word):
            log10 += self.unk_score_offset
        if is_last_word and self.score_boundary:
            log10 += self.model.score_end(state)
        return self.alpha * log10 * LN10 + self.beta, state

    def words(self) -> list[str]:
        """The words that are not charged as unknown."""
        special = ("<s>", "</s>", "<unk>")
        return self.unigrams or [word for word in self.model.vocabulary if word not in special]

    def knows(self, word: str) -> bool:
        """Whether a word is not charged as unknown."""
        return word in self._known if self._known is not None else word in self.model

    def score_partial_token(self, partial_token: str) -> float:
        """pyctcdecode's cost of a word's beginning that no known word has (the search here charges
        unknown words in its own way)."""
        begins = self._known is not None and any(w.startswith(partial_token) for w in self._known)
        return 0.0 if begins else self.unk_score_offset * max(1.0, len(partial_token) / 6)

    def save_to_dir(self, filepath: str, unigram_encoding: str | None = None) -> None:
        """Writes attrs.json, unigrams.txt and the model's file."""
        folder = Path(filepath)
        values = {name: getattr(self, name) for name in self.JSON_ATTRS}
        for old in folder.iterdir():  # of an earlier save
            if old.suffix in _LM_SUFFIXES:
                old.unlink()
        (folder / self._ATTRS_SERIALIZED_FILENAME).write_text(json.dumps(values))
        words = "".join(word + "\n" for word in self.unigrams or ())
        (folder / self._UNIGRAMS_SERIALIZED_FILENAME).write_text(
            words, encoding=unigram_encoding or "utf-8"
        )
        source = self.model.path
        if source is not None and source.suffix in _LM_SUFFIXES:
            shutil.copyfile(source, folder / source.name)
        else:
            self.model.save(folder / "lm.bin")

    @staticmethod
    def parse_directory_contents(filepath: str) -> dict[str, str]:
        """A folder's three files: json_attrs, unigrams, kenlm. Raises ValueError for others."""
        own = (
            LanguageModel._ATTRS_SERIALIZED_FILENAME,
            LanguageModel._UNIGRAMS_SERIALIZED_FILENAME,
        )
        names = [name for name in os.listdir(filepath) if not name.startswith((".", "__"))]
        models = [name for name in names if name not in own]
        if len(models) != 1 or len(names) != 3:
            raise ValueError(f"expected attrs.json, unigrams.txt and one model, found {names}")
        if Path(models[0]).suffix not in _LM_SUFFIXES:
            raise ValueError(f"the model's name must end in one of {_LM_SUFFIXES}, got {models[0]}")
        found = dict(zip(("json_attrs", "unigrams", "kenlm"), (*own, models[0]), strict=True))
        return {kind: os.path.join(filepath, name) for kind, name in found.items()}

    @classmethod
    def load_from_dir(cls, filepath: str, unigram_encoding: str | None = None) -> "LanguageModel":
        files = cls.parse_directory_contents(filepath)
        values = json.loads(Path(files["json_attrs"]).read_text())
        if set(values) != set(cls.JSON_ATTRS):
            raise ValueError(f"attrs.json must have {cls.JSON_ATTRS}, found {sorted(values)}")
        text = Path(files["unigrams"]).read_text(encoding=unigram_encoding or "utf-8")
        return cls(files["kenlm"], text.splitlines() or None, **values)


class MultiLanguageModel(AbstractLanguageModel):
    """Several models, whose weighted scores are averaged."""

    def __init__(self, language_models: list[LanguageModel]) -> None:
        if len(language_models) < 2:
            raise ValueError("This class is meant to contain at least 2 language models.")
        self._language_models = language_models

    @property
    def order(self) -> int:
        return max(lm.order for lm in self._language_models)

    def get_start_state(self) -> list[State]:
        return [lm.get_start_state() for lm in self._language_models]

    def score_partial_token(self, partial_token: str) -> float:
        return mean(lm.score_partial_token(partial_token) for lm in self._language_models)

    def score(
        self, prev_state: list[State], word: str, is_last_word: bool = False
    ) -> tuple[float, list[State]]:
        pairs = [
            lm.score(state, word, is_last_word)
            for lm, state in zip(self._language_models, prev_state, strict=True)
        ]
        return mean(score for score, _ in pairs), [state for _, state in pairs]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
