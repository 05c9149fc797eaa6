"""pyctcdecode's interface: the same calls, arguments and result types, by this package's search.

    from ctcspeech.compat.pyctcdecode import build_ctcdecoder    # was: from pyctcdecode import ...

    decoder = build_ctcdecoder(labels, "lm.arpa", alpha=0.5, beta=1.0)
    text = decoder.decode(logits)                                # (T, C)

How its parameters map (natural logarithms; LN10 = ln 10):

    alpha               lm_weight; pyctcdecode turns KenLM's log10 into natural logarithms itself
    beta                word_score
    unk_score_offset    a log10 probability that alpha weighs: unk_score = alpha LN10 offset
    beam_prune_logp     -beam_threshold
    hotwords            each word of each phrase is a hot word of `hotword_weight`
    lm_score_boundary   whether the language model sees <s> and </s>

What differs, on purpose:

- The search is another one, which sums over all labellings of a text and recombines what the
  language model cannot tell apart. Labels below `token_min_logp` are not tried, the blank included.
- Special labels (<s>, [CLS]) are never written. A trailing space is not one more unknown word.
- `unigrams` limits the known words to those also in the model; without it all the model's are.
- `prune_history` has no effect: histories that the language model cannot tell apart are pruned for
  a single text and kept for lists of beams. A word's frames are those of the best alignment.
- A pool is accepted and not used: batches are decoded by threads.
- A model of one's own (AbstractLanguageModel) is asked for whole words only.
- A language model's file is read by this package: ARPA files, its own binaries, KenLM's.

`install()` makes the name `pyctcdecode` mean this module, for libraries that import it themselves,
such as the Wav2Vec2ProcessorWithLM of transformers.
"""

import abc
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import weakref
from collections.abc import Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ctcspeech.decode import beam as native
from ctcspeech.decode.hypothesis import Hypothesis
from ctcspeech.lm.model import LanguageModel as NgramModel
from ctcspeech.lm.model import State

__all__ = [
    "AbstractLanguageModel",
    "Alphabet",
    "BeamSearchDecoderCTC",
    "HotwordScorer",
    "LanguageModel",
    "MultiLanguageModel",
    "OutputBeam",
    "OutputBeamMPSafe",
    "build_ctcdecoder",
    "install",
    "load_unigram_set_from_arpa",
]

DEFAULT_ALPHA = 0.5
DEFAULT_BETA = 1.5
DEFAULT_UNK_LOGP_OFFSET = -10.0
DEFAULT_BEAM_WIDTH = 100
DEFAULT_HOTWORD_WEIGHT = 10.0
DEFAULT_PRUNE_LOGP = -10.0
DEFAULT_PRUNE_BEAMS = False
DEFAULT_MIN_TOKEN_LOGP = -5.0
DEFAULT_SCORE_LM_BOUNDARY = True
MIN_TOKEN_CLIP_P = 1e-15

LN10 = math.log(10)
_LM_SUFFIXES = (".arpa", ".bin", ".binary")

BPE_TOKEN = "▁"  # begins a word's first piece
UNK_TOKEN = "⁇"
UNK_BPE_TOKEN = "▁⁇▁"
BLANK_TOKEN_PTN = re.compile(r"^[<\[]pad[>\]]$", flags=re.IGNORECASE)
UNK_TOKEN_PTN = re.compile(r"^[<\[]unk[>\]]$", flags=re.IGNORECASE)
_SPECIAL_PTN = re.compile(r"^[<\[].+[>\]]$")

Frames = tuple[int, int]
# text, state of the language model after it, words with their frames, logit_score, lm_score: the
# logarithm of the labelling's probability, and the whole score with language model and hot words.
OutputBeam = tuple[str, State | None, list[tuple[str, Frames]], float, float]
OutputBeamMPSafe = tuple[str, list[tuple[str, Frames]], float, float]


class Alphabet:
    """Labels in the form that the decoder knows: the blank is "", the space " " (or pieces begin
    with "▁")."""

    def __init__(self, labels: list[str], is_bpe: bool) -> None:
        self._labels = labels
        self._is_bpe = is_bpe

    @property
    def is_bpe(self) -> bool:
        """Whether the labels are pieces of words that mark the words' beginnings."""
        return self._is_bpe

    @property
    def labels(self) -> list[str]:
        return list(self._labels)

    @classmethod
    def build_alphabet(cls, labels: Sequence[str], ctc_token_idx: int | None = None) -> "Alphabet":
        """The labels of a model, by the names that are usual for blank, space and unknown.

        ctc_token_idx: the blank, where its label does not tell ("", [PAD], <pad>, or "_" among
        characters). If there is none it is taken to come after the last label.
        """
        names = [str(label) for label in labels]
        if len(set(names)) != len(names):
            raise ValueError("Alphabet contains duplicate entries, this is not allowed.")
        word_pieces = any(name.startswith("##") for name in names)
        is_bpe = word_pieces or any(name.startswith(BPE_TOKEN) for name in names)
        if is_bpe and any(" " in name for name in names):
            raise ValueError("Space token ' ' found in vocabulary even though it looks like BPE.")
        if ctc_token_idx is not None:
            names[ctc_token_idx] = ""
        if word_pieces:
            names = [_marked(name) for name in names]
        if not is_bpe and "|" in names and " " not in names:
            names[names.index("|")] = " "
        names = ["" if BLANK_TOKEN_PTN.match(name) else name for name in names]
        if not is_bpe and "_" in names and "" not in names:
            names[names.index("_")] = ""
        if "" not in names:
            names.append("")
        unknown = UNK_BPE_TOKEN if is_bpe else UNK_TOKEN
        return cls([unknown if UNK_TOKEN_PTN.match(name) else name for name in names], is_bpe)

    def dumps(self) -> str:
        return json.dumps({"labels": self.labels, "is_bpe": self.is_bpe})

    @classmethod
    def loads(cls, s: str) -> "Alphabet":
        values = json.loads(s)
        if set(values) != {"is_bpe", "labels"}:
            raise ValueError(f"expected the keys is_bpe and labels, found {sorted(values)}")
        return cls(values["labels"], values["is_bpe"])


def _marked(piece: str) -> str:
    """A WordPiece in the manner of SentencePiece."""
    if piece.startswith("##"):
        return piece[2:]
    if _SPECIAL_PTN.match(piece) or piece in ("", BPE_TOKEN, UNK_BPE_TOKEN):
        return piece
    return BPE_TOKEN + piece


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
        return _mean(lm.score_partial_token(partial_token) for lm in self._language_models)

    def score(
        self, prev_state: list[State], word: str, is_last_word: bool = False
    ) -> tuple[float, list[State]]:
        pairs = [
            lm.score(state, word, is_last_word)
            for lm, state in zip(self._language_models, prev_state, strict=True)
        ]
        return _mean(score for score, _ in pairs), [state for _, state in pairs]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


class _Place:
    """A state of a user's model, and how it was reached, for the end of the sentence."""

    def __init__(self, state: Any, before: Any = None, word: str | None = None) -> None:
        self.state, self.before, self.word = state, before, word
        self._key = tuple(state) if isinstance(state, list) else state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class _Weighted:
    """A model of the user's own (`AbstractLanguageModel`) as a WordScorer: its scores are final."""

    def __init__(
        self, model: AbstractLanguageModel, start: Any, known: Collection[str], unknown: float
    ) -> None:
        """known: the words of the search's lexicon. unknown: what the search itself charges for
        others, as soon as they leave it; it is part of the model's score for them."""
        self.model, self.start = model, start
        self.known, self.unknown = known, unknown

    def begin_state(self) -> _Place:
        return _Place(self.model.get_start_state() if self.start is None else self.start)

    def score(self, place: _Place, word: str) -> tuple[float, _Place]:
        score, after = self.model.score(place.state, word, is_last_word=False)
        if self.known and word not in self.known:
            score -= self.unknown
        return score, _Place(after, place.state, word)

    def finish(self, place: _Place) -> float:
        if place.word is None:
            return 0.0
        last, _ = self.model.score(place.before, place.word, is_last_word=True)
        return last - self.model.score(place.before, place.word, is_last_word=False)[0]


class _From:
    """The model from a state of its own (`ctcspeech.decode.beam.WordScorer`)."""

    def __init__(self, model: NgramModel, start: State, end: bool) -> None:
        self.model, self.start, self.end = model, start, end

    def begin_state(self) -> State:
        return self.start

    def score(self, state: State, word: str) -> tuple[float, State]:
        log10, after = self.model.score_word(state, word)
        return log10 * LN10, after

    def finish(self, state: State) -> float:
        return self.model.score_end(state) * LN10 if self.end else 0.0


class BeamSearchDecoderCTC:
    """The decoder. Made by `build_ctcdecoder`."""

    _ALPHABET_SERIALIZED_FILENAME = "alphabet.json"
    _LANGUAGE_MODEL_SERIALIZED_DIRECTORY = "language_model"

    # The language models of all decoders by their keys; one goes with its decoder.
    model_container: dict[bytes, AbstractLanguageModel | None] = {}

    def __init__(
        self, alphabet: Alphabet, language_model: AbstractLanguageModel | None = None
    ) -> None:
        self._alphabet = alphabet
        self._idx2vocab = dict(enumerate(alphabet.labels))
        self._is_bpe = alphabet.is_bpe
        self._made: dict[Any, native.BeamDecoder] = {}  # the last few
        self._keep(language_model)

    def _keep(self, language_model: AbstractLanguageModel | None) -> None:
        self._model_key = os.urandom(16)
        models = BeamSearchDecoderCTC.model_container
        models[self._model_key] = language_model
        weakref.finalize(self, models.pop, self._model_key, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"alphabet": self._alphabet, "language_model": self._language_model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def _language_model(self) -> AbstractLanguageModel | None:
        return self.model_container[self._model_key]

    def reset_params(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        unk_score_offset: float | None = None,
        lm_score_boundary: bool | None = None,
    ) -> None:
        """Sets weights of the language model; None leaves one as it is."""
        if self._language_model is not None:
            self._language_model.reset_params(
                alpha=alpha,
                beta=beta,
                unk_score_offset=unk_score_offset,
                score_boundary=lm_score_boundary,
            )

    @classmethod
    def clear_class_models(cls) -> None:
        """Lets go of all decoders' language models; the decoders are of no use afterwards."""
        cls.model_container.clear()

    def cleanup(self) -> None:
        """Lets go of the language model; the decoder is of no use afterwards."""
        self.model_container.pop(self._model_key, None)
        self._made.clear()

    def decode(
        self,
        logits: Any,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        beam_prune_logp: float = DEFAULT_PRUNE_LOGP,
        token_min_logp: float = DEFAULT_MIN_TOKEN_LOGP,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = DEFAULT_HOTWORD_WEIGHT,
        lm_start_state: State | None = None,
    ) -> str:
        """The best text. logits: (T, C), logits, log-probabilities or probabilities."""
        decoder = self._decoder(
            beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight, lm_start_state, 1
        )
        return decoder.decode([self._checked(logits)])[0][0].text

    def decode_batch(
        self,
        pool: Any,
        logits_list: Any,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        beam_prune_logp: float = DEFAULT_PRUNE_LOGP,
        token_min_logp: float = DEFAULT_MIN_TOKEN_LOGP,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = DEFAULT_HOTWORD_WEIGHT,
    ) -> list[str]:
        """The best text of each. The pool is not used: threads decode the batch."""
        decoder = self._decoder(
            beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight, None, 1
        )
        return [best[0].text for best in decoder.decode([self._checked(x) for x in logits_list])]

    def decode_beams(
        self,
        logits: Any,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        beam_prune_logp: float = DEFAULT_PRUNE_LOGP,
        token_min_logp: float = DEFAULT_MIN_TOKEN_LOGP,
        prune_history: bool = DEFAULT_PRUNE_BEAMS,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = DEFAULT_HOTWORD_WEIGHT,
        lm_start_state: State | None = None,
    ) -> list[OutputBeam]:
        """The hypotheses within `beam_prune_logp` of the best, at most `beam_width`."""
        decoder = self._decoder(
            beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight,
            lm_start_state, beam_width,
        )  # fmt: skip
        (found,) = decoder.decode([self._checked(logits)])
        return [
            (item.text, self._state(item.text, lm_start_state), _frames(item), *_scores(item))
            for item in _near(found, beam_prune_logp)
        ]

    def decode_beams_batch(
        self,
        pool: Any,
        logits_list: Any,
        beam_width: int = DEFAULT_BEAM_WIDTH,
        beam_prune_logp: float = DEFAULT_PRUNE_LOGP,
        token_min_logp: float = DEFAULT_MIN_TOKEN_LOGP,
        prune_history: bool = DEFAULT_PRUNE_BEAMS,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = DEFAULT_HOTWORD_WEIGHT,
    ) -> list[list[OutputBeamMPSafe]]:
        """`decode_beams` of each, without the language model's states. The pool is not used."""
        decoder = self._decoder(
            beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight, None, beam_width
        )
        return [
            [(item.text, _frames(item), *_scores(item)) for item in _near(found, beam_prune_logp)]
            for found in decoder.decode([self._checked(x) for x in logits_list])
        ]

    def save_to_dir(self, filepath: str) -> None:
        """Writes alphabet.json and a folder language_model. What was made from an ARPA file can be
        read by pyctcdecode, too."""
        folder = Path(filepath)
        (folder / self._ALPHABET_SERIALIZED_FILENAME).write_text(self._alphabet.dumps())
        if self._language_model is not None:
            place = folder / self._LANGUAGE_MODEL_SERIALIZED_DIRECTORY
            place.mkdir(parents=True, exist_ok=True)
            self._language_model.save_to_dir(str(place))

    @classmethod
    def load_from_dir(
        cls, filepath: str, unigram_encoding: str | None = None
    ) -> "BeamSearchDecoderCTC":
        """What `save_to_dir`, of this module or of pyctcdecode with an ARPA file, has written."""
        files = cls.parse_directory_contents(filepath)
        place = files["language_model"]
        lm = None if place is None else LanguageModel.load_from_dir(place, unigram_encoding)
        return cls(Alphabet.loads(Path(files["alphabet"] or "").read_text()), lm)

    @staticmethod
    def parse_directory_contents(filepath: str) -> dict[str, str | None]:
        """A folder's alphabet, and its language_model or None. ValueError if it has no alphabet."""
        folder, decoder = Path(filepath), BeamSearchDecoderCTC
        alphabet = folder / decoder._ALPHABET_SERIALIZED_FILENAME
        if not alphabet.is_file():
            raise ValueError(f"{folder} holds no decoder: there is no {alphabet.name}")
        place = folder / decoder._LANGUAGE_MODEL_SERIALIZED_DIRECTORY
        return {"alphabet": str(alphabet), "language_model": str(place) if place.is_dir() else None}

    @classmethod
    def load_from_hf_hub(
        cls, model_id: str, cache_dir: str | None = None, **kwargs: Any
    ) -> "BeamSearchDecoderCTC":
        """Downloads a folder of the Hugging Face hub and loads it.

        Raises ImportError without huggingface_hub.
        """
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise ImportError(
                "load_from_hf_hub needs the package huggingface_hub: pip install huggingface_hub"
            ) from error
        return cls.load_from_dir(snapshot_download(model_id, cache_dir=cache_dir, **kwargs))

    # -- inside ---------------------------------------------------------------------------------

    def _checked(self, logits: Any) -> np.ndarray:
        array = np.asarray(logits)
        if array.ndim != 2:
            raise ValueError(
                f"Input logits have {array.ndim} dimensions, but need 2: (time, vocabulary)"
            )
        if array.shape[1] != len(self._idx2vocab):
            raise ValueError(
                f"Input logits shape is {array.shape}, but vocabulary is size "
                f"{len(self._idx2vocab)}. Need logits of shape: (time, vocabulary)"
            )
        if len(array) and math.isclose(array.sum(axis=1).mean(), 1):  # probabilities
            array = np.log(np.clip(array, MIN_TOKEN_CLIP_P, 1))
        return array

    def _decoder(
        self,
        beam_width: int,
        beam_prune_logp: float,
        token_min_logp: float,
        hotwords: Iterable[str] | None,
        hotword_weight: float,
        start: State | None,
        n_best: int,
    ) -> native.BeamDecoder:
        if not beam_prune_logp <= 0:
            raise ValueError(f"beam_prune_logp must be at most 0, got {beam_prune_logp}")
        lm = self._language_model
        words = sorted({word for phrase in hotwords or () for word in phrase.split()})
        hot = dict.fromkeys(words, float(hotword_weight))
        weights: Any = None if lm is None else id(lm)
        if isinstance(lm, LanguageModel):
            # A hot word is in the search's lexicon, but no less unknown to the model.
            unknown = lm.alpha * LN10 * lm.unk_score_offset
            hot = {word: hot[word] + (0.0 if lm.knows(word) else unknown) for word in words}
            weights = (lm.alpha, lm.beta, lm.unk_score_offset, lm.score_boundary)
        key = (
            beam_width, beam_prune_logp, token_min_logp, tuple(hot.items()), _hashable(start),
            n_best, weights,
        )  # fmt: skip
        if key not in self._made:
            while len(self._made) >= 4:
                del self._made[next(iter(self._made))]
            self._made[key] = native.BeamDecoder(
                _native_labels(self._alphabet),
                blank=self._alphabet.labels.index(""),
                hot_words=hot or None,
                beam_size=beam_width,
                beam_threshold=max(-beam_prune_logp, 1e-9),
                token_min_logp=min(token_min_logp, 0.0),
                strict_minimum=True,
                n_best=n_best,
                frame_shift_ms=1000.0,  # so that times are frames
                **self._lm_arguments(start),
            )
        return self._made[key]

    def _lm_arguments(self, start: State | None) -> dict[str, Any]:
        lm = self._language_model
        if lm is None:
            return {"word_score": 0.0}
        if not isinstance(lm, LanguageModel):
            parts = getattr(lm, "_language_models", [])  # of a MultiLanguageModel
            known = {word for part in parts for word in part.words()}
            unknown = _mean([part.alpha * LN10 * part.unk_score_offset for part in parts] or [0])
            return {
                "lm": _Weighted(lm, start, known, unknown),
                "lexicon": known or None,
                "open_vocabulary": True,
                "lm_weight": 1.0,
                "word_score": 0.0,
                "unk_score": unknown,
            }
        arguments: dict[str, Any] = {
            "lm": lm.model,
            "lexicon": lm.unigrams,
            "open_vocabulary": True,
            "lm_weight": lm.alpha,
            "word_score": lm.beta,
            "unk_score": lm.alpha * LN10 * lm.unk_score_offset,
            "end_of_sentence": lm.score_boundary,
        }
        if start is not None or not lm.score_boundary:
            first = lm.get_start_state() if start is None else start
            arguments["lm"] = _From(lm.model, first, lm.score_boundary)
            arguments["lexicon"] = lm.words()
        return arguments

    def _state(self, text: str, start: Any) -> Any:
        """The language model's state after a text."""
        lm = self._language_model
        if lm is None:
            return None
        state = lm.get_start_state() if start is None else start
        for word in text.split():
            _, state = lm.score(state, word)
        return state


def _native_labels(alphabet: Alphabet) -> list[str]:
    if not alphabet.is_bpe:
        return alphabet.labels
    # "▁⁇▁" is a word of its own; what comes after it begins with "▁" anyway.
    return [BPE_TOKEN + UNK_TOKEN if x == UNK_BPE_TOKEN else x for x in alphabet.labels]


def _hashable(state: Any) -> Any:
    return tuple(state) if isinstance(state, list) else state


def _near(found: list[Hypothesis], beam_prune_logp: float) -> list[Hypothesis]:
    return [item for item in found if item.score >= found[0].score + beam_prune_logp]


def _frames(item: Hypothesis) -> list[tuple[str, Frames]]:
    return [(word.text, (round(word.start), round(word.end))) for word in item.words]


def _scores(item: Hypothesis) -> tuple[float, float]:
    return item.ctc_score, item.score


def build_ctcdecoder(
    labels: Sequence[str],
    kenlm_model_path: str | os.PathLike[str] | None = None,
    unigrams: Collection[str] | None = None,
    alpha: float = DEFAULT_ALPHA,
    beta: float = DEFAULT_BETA,
    unk_score_offset: float = DEFAULT_UNK_LOGP_OFFSET,
    lm_score_boundary: bool = DEFAULT_SCORE_LM_BOUNDARY,
    ctc_token_idx: int | None = None,
) -> BeamSearchDecoderCTC:
    """A decoder, from the labels of a model and perhaps a language model's file.

    labels: of each class of the logits. kenlm_model_path: ARPA or a binary of `ctcspeech lm`.
    unigrams: the known words, by default the model's. ctc_token_idx: the blank, where its label
    does not tell. For the weights see the head of this module.
    Raises LanguageModelError if the file is damaged.
    """
    alphabet = Alphabet.build_alphabet(labels, ctc_token_idx)
    if kenlm_model_path is None:
        return BeamSearchDecoderCTC(alphabet)
    lm = LanguageModel(
        NgramModel.load(kenlm_model_path), unigrams, alpha, beta, unk_score_offset,
        lm_score_boundary,
    )  # fmt: skip
    return BeamSearchDecoderCTC(alphabet, lm)


def install() -> None:
    """Makes `import pyctcdecode` give this module, in this process.

    Call it before a library imports pyctcdecode, or asks whether it is there. Where the package
    kenlm is not installed, its name means `ctcspeech.compat.kenlm`, since transformers asks for
    both before it loads a processor. Raises RuntimeError if the real pyctcdecode is imported
    already.
    """
    this = sys.modules[__name__]
    known = sys.modules.get("pyctcdecode")
    if known is not None and getattr(known, "build_ctcdecoder", None) is not build_ctcdecoder:
        raise RuntimeError("pyctcdecode is imported already; call install() before that")
    for part in ("", ".alphabet", ".constants", ".decoder", ".language_model"):
        name = "pyctcdecode" + part
        module = ModuleType(name, this.__doc__)
        module.__dict__.update({k: v for k, v in vars(this).items() if not k.startswith("__")})
        module.__spec__ = ModuleSpec(name, None, is_package=not part)
        module.__path__ = []
        module.__version__ = "0.5.0"  # type: ignore[attr-defined]  # whose interface it is
        sys.modules[name] = module
        if part:
            setattr(sys.modules["pyctcdecode"], part[1:], module)
    if "kenlm" not in sys.modules and importlib.util.find_spec("kenlm") is None:
        from ctcspeech.compat import kenlm

        stand_in = ModuleType("kenlm", kenlm.__doc__)
        stand_in.__dict__.update({k: v for k, v in vars(kenlm).items() if not k.startswith("__")})
        stand_in.__spec__ = ModuleSpec("kenlm", None)
        sys.modules["kenlm"] = stand_in
