"""The beam decoder's arguments, checked: numbers, models, hot words, emissions."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ctcspeech import _core
from ctcspeech.lm.model import LanguageModel

__all__ = [
    "HOT_WORD_WEIGHT", "bad_frame", "hot_phrases", "integer", "matrices", "options_of", "positive",
    "prior_discount", "processors", "split_lm",
]  # fmt: skip

HOT_WORD_WEIGHT = 5.0  # natural logarithm, where a hot word comes without its own weight


def split_lm(lm: Any) -> tuple[Any, Any]:
    """(native n-gram model or None, object of the user's own or None)"""
    if lm is None:
        return None, None
    if isinstance(lm, LanguageModel):
        return lm.core, None
    if callable(getattr(lm, "begin_state", None)) and callable(getattr(lm, "score", None)):
        return None, lm
    raise TypeError(
        "lm must be a LanguageModel, its file, or an object with begin_state() and score(state, "
        f"word), got {type(lm).__name__}"
    )


def hot_phrases(
    hot_words: Mapping[str, float] | Iterable[str] | None,
) -> list[tuple[list[str], float]]:
    if isinstance(hot_words, str):
        raise TypeError("hot_words must be a mapping or an iterable of phrases, got a single str")
    if not isinstance(hot_words, Mapping):
        hot_words = dict.fromkeys(hot_words or (), HOT_WORD_WEIGHT)
    phrases = []
    for phrase, weight in hot_words.items():
        if not phrase.split():
            raise ValueError("hot_words has an empty phrase")
        phrases.append((phrase.split(), _finite(f"hot_words[{phrase!r}]", weight)))
    return phrases


def options_of(given: Mapping[str, Any]) -> _core.BeamOptions:
    """The core's options, checked, from the arguments of their names."""
    options = _core.BeamOptions()
    for name in ("lm_weight", "word_score", "unk_score"):
        setattr(options, name, _finite(name, given[name]))
    for name in ("beam_threshold", "unknown_at_once"):
        setattr(options, name, positive(name, given[name]))
    for name in ("beam_size", "n_best"):
        setattr(options, name, integer(name, given[name]))
    for name in (
        "strict_minimum", "open_vocabulary", "recombine", "end_of_sentence", "word_times",
    ):  # fmt: skip
        setattr(options, name, bool(given[name]))
    options.neural_weight = _at_least_zero("neural_weight", given["neural_weight"])
    options.token_min_logp = _at_most_zero("token_min_logp", given["token_min_logp"])
    return options


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return float(value)


def _at_least_zero(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return float(value)


def _at_most_zero(name: str, value: float) -> float:
    if not value <= 0:
        raise ValueError(f"{name} must be at most 0, got {value}")
    return float(value)


def integer(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return min(int(value), 2**31 - 1)


def processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _to_numpy(array: Any, name: str) -> np.ndarray:
    """Float32, on the CPU, whatever array it was."""
    if hasattr(array, "detach"):  # torch, whose bfloat16 NumPy does not know
        array = array.detach().cpu().float().numpy()
    elif not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        array = np.from_dlpack(array)
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}")
    return array


def prior_discount(priors: Any, weight: Any, classes: int) -> np.ndarray | None:
    """What is taken off each frame's logits, float32 (C,); None where that is nothing."""
    weight = _at_least_zero("prior_weight", weight)
    if weight == 0:
        return None
    if priors is None:
        raise ValueError("prior_weight needs label_priors")
    values = np.asarray(priors, dtype=np.float64)
    if values.shape != (classes,):
        raise ValueError(
            f"label_priors must be one for each of the {classes} labels, got shape {values.shape}"
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("label_priors must be finite and above 0")
    return np.float32(weight) * np.log(values).astype(np.float32)


def matrices(emissions: Any, lengths: Any, classes: int) -> list[np.ndarray]:
    """Emissions as a list of contiguous float32 (T, C)."""
    if isinstance(emissions, (list, tuple)):
        items = [_to_numpy(item, f"emissions[{i}]") for i, item in enumerate(emissions)]
    else:
        whole = _to_numpy(emissions, "emissions")
        if whole.ndim not in (2, 3):
            raise ValueError(
                f"emissions must be (T, {classes}), (N, T, {classes}) or a list of (T, {classes}), "
                f"got shape {whole.shape}"
            )
        items = [whole] if whole.ndim == 2 else list(whole)
    for i, item in enumerate(items):
        if item.ndim != 2 or item.shape[1] != classes:
            raise ValueError(
                f"emissions[{i}] must be (frames, {classes}), one column for each label, got shape "
                f"{item.shape}"
            )
    if lengths is not None:
        numbers = np.atleast_1d(
            lengths.detach().cpu().numpy() if hasattr(lengths, "detach") else np.asarray(lengths)
        )
        if numbers.dtype.kind not in "iu" or numbers.shape != (len(items),):
            raise ValueError(
                f"lengths must be {len(items)} integers, got {numbers.dtype} {numbers.shape}"
            )
        for i, (item, length) in enumerate(zip(items, numbers, strict=True)):
            if not 0 <= length <= len(item):
                raise ValueError(
                    f"lengths[{i}] must be between 0 and {len(item)} frames, got {length}"
                )
        items = [item[: int(n)] for item, n in zip(items, numbers, strict=True)]
    return [np.ascontiguousarray(item, dtype=np.float32) for item in items]


def bad_frame(name: str, bad: tuple[int, str]) -> str:
    frame, what = bad
    return f"{name}: frame {frame} {what}; check the network and its input"
