"""pyctcdecode's decoder, by this package's search."""

import math
import os
import weakref
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctcspeech.compat.pyctcdecode.alphabet import BPE_TOKEN, UNK_BPE_TOKEN, UNK_TOKEN, Alphabet
from ctcspeech.compat.pyctcdecode.language_model import (
    DEFAULT_ALPHA,
    DEFAULT_BETA,
    DEFAULT_HOTWORD_WEIGHT,
    DEFAULT_SCORE_LM_BOUNDARY,
    DEFAULT_UNK_LOGP_OFFSET,
    LN10,
    AbstractLanguageModel,
    LanguageModel,
    mean,
)
from ctcspeech.compat.pyctcdecode.scorers import From, Weighted
from ctcspeech.decode import beam as native
from ctcspeech.decode.hypothesis import Hypothesis
from ctcspeech.lm.model import LanguageModel as NgramModel
from ctcspeech.lm.model import State

__all__ = [
    "DEFAULT_BEAM_WIDTH",
    "DEFAULT_MIN_TOKEN_LOGP",
    "DEFAULT_PRUNE_BEAMS",
    "DEFAULT_PRUNE_LOGP",
    "MIN_TOKEN_CLIP_P",
    "BeamSearchDecoderCTC",
    "Frames",
    "OutputBeam",
    "OutputBeamMPSafe",
    "build_ctcdecoder",
]

DEFAULT_BEAM_WIDTH = 100
DEFAULT_PRUNE_LOGP = -10.0
DEFAULT_PRUNE_BEAMS = False
DEFAULT_MIN_TOKEN_LOGP = -5.0
MIN_TOKEN_CLIP_P = 1e-15

Frames = tuple[int, int]
# text, state of the language model after it, words with their frames, logit_score, lm_score: the
# logarithm of the labelling's probability, and the whole score with language model and hot words.
OutputBeam = tuple[str, State | None, list[tuple[str, Frames]], float, float]
OutputBeamMPSafe = tuple[str, list[tuple[str, Frames]], float, float]


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
            unknown = mean([part.alpha * LN10 * part.unk_score_offset for part in parts] or [0])
            return {
                "lm": Weighted(lm, start, known, unknown),
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
            arguments["lm"] = From(lm.model, first, lm.score_boundary)
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
