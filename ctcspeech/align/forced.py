"""Forced alignment: when each label of a known text is spoken.

alignment = forced_align(emissions, targets, blank=0)[0]
starts, ends = alignment.starts * 0.02, alignment.ends * 0.02      # seconds, at 20 ms a frame
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.errors import AlignmentError

__all__ = ["WILDCARD", "Alignment", "forced_align"]

# A label that stands for any stretch of speech of at least one frame.
WILDCARD = -1


@dataclass
class Alignment:
    """The most probable CTC path of one utterance's labels. Frames count from 0.

    Ends are exclusive: `starts[i] <= frame < ends[i]` are the frames in which label i is emitted;
    blanks belong to no label.
    """

    path: npt.NDArray[np.int64]  # (T,) class at each frame, the blank included; WILDCARD for one
    labels: npt.NDArray[np.int64]  # (L,) as given
    starts: npt.NDArray[np.int64]  # (L,) frames
    ends: npt.NDArray[np.int64]  # (L,) frames
    log_probs: npt.NDArray[np.float64]  # (L,) mean log-probability of the label over its frames
    frame_log_probs: npt.NDArray[np.float64]  # (T,) log-probability of the path's class
    score: float  # log-probability of the path, natural logarithm


def forced_align(
    emissions: Any,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    *,
    blank: int = 0,
    band: int | None = None,
    wildcard_score: float = -1.0,
    threads: int | None = None,
) -> list[Alignment]:
    """The most probable CTC path of each utterance's labels (Viterbi; Graves et al. 2006, 4.1).

    emissions: (N, T, C) or (T, C), logits or log-probabilities, float32 or float64 (float16 and
        bfloat16 are converted); an array, a CPU tensor or anything with DLPack.
    targets: labels: a list of N sequences, an (N, L) array, or for one utterance an (L,) sequence.
        `WILDCARD` stands for any stretch of at least one frame, at the log-probability of each
        frame's best class plus `wildcard_score` (<= 0).
    input_lengths, target_lengths: (N,) integers; by default T, and all of each target.
    band: only paths that keep within this many labels of the straight line from start to end.
    threads: over the utterances; by default torch's number where torch is imported, else 1.

    Where paths have the same probability, the path stays in its state rather than moves on, moves
    by one state rather than two, and ends in the blank. An utterance of T frames and L labels takes
    O(T L) time and, beyond its emissions and result, about 150 MB or less at any length.

    Raises AlignmentError naming the utterance where no path exists or emissions are NaN or +inf,
    and ValueError or TypeError for wrong shapes, types or values.
    """
    scores = _as_batch(emissions)
    N, T, C = scores.shape
    blank = int(blank)
    if not 0 <= blank < C:
        raise ValueError(f"blank must be in [0, {C}), got {blank}")
    if wildcard_score > 0:
        raise ValueError(f"wildcard_score must be at most 0, got {wildcard_score}")
    if band is not None and band < 1:
        raise ValueError(f"band must be at least 1 label, got {band}")
    labels = _as_label_lists(targets, target_lengths, N, single=np.ndim(emissions) == 2)
    for n, sequence in enumerate(labels):
        wrong = (sequence < WILDCARD) | (sequence >= C) | (sequence == blank)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"targets[{n}][{i}] must be a label in [0, {C}) other than the blank {blank}, "
                f"got {int(sequence[i])}"
            )
    lengths = _as_lengths("input_lengths", input_lengths, N, T)
    return _align(scores, labels, lengths, blank, band, wildcard_score, threads)


def _align(
    scores: npt.NDArray[Any],
    labels: list[npt.NDArray[np.int64]],
    lengths: npt.NDArray[np.int64],
    blank: int,
    band: int | None,
    wildcard_score: float,
    threads: int | None,
) -> list[Alignment]:
    from ctcspeech import _core
    from ctcspeech.ctc.core import isa

    N, T, _ = scores.shape
    states = np.zeros((N, T), np.int32)
    log_probs = np.zeros((N, T), scores.dtype)
    total = np.zeros(N, np.float64)
    status = np.zeros(N, np.int32)
    offsets = np.cumsum([0] + [len(sequence) for sequence in labels], dtype=np.int64)
    flat = np.concatenate([*labels, np.zeros(0, np.int64)])
    _core.align_batch(
        scores, flat, offsets, lengths, blank, -1 if band is None else band, float(wildcard_score),
        _num_threads(threads), isa(), states, log_probs, total, status,
    )  # fmt: skip
    result = []
    for n, sequence in enumerate(labels):
        length = int(lengths[n])
        if status[n]:
            raise AlignmentError(
                _explain(_core.AlignStatus(int(status[n])).name, n, sequence, length, band)
            )
        result.append(
            _alignment(states[n, :length], log_probs[n, :length], sequence, blank, float(total[n]))
        )
    return result


def _alignment(
    states: npt.NDArray[np.int32],
    log_probs: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    blank: int,
    score: float,
) -> Alignment:
    """States 2j are blanks and 2j + 1 label j (align.h); they never decrease."""
    frame_log_probs = log_probs.astype(np.float64)
    frames = np.bincount(states, minlength=2 * len(labels) + 1)  # of each state
    last = np.cumsum(frames)[1::2]
    starts, ends = last - frames[1::2], last
    sums = np.concatenate([[0.0], np.cumsum(frame_log_probs)])
    means = (sums[ends] - sums[starts]) / frames[1::2]  # each label has a frame
    extended = np.full(2 * len(labels) + 1, blank, np.int64)
    extended[1::2] = labels
    return Alignment(extended[states], labels, starts, ends, means, frame_log_probs, score)


def _as_batch(emissions: Any) -> npt.NDArray[Any]:
    """(N, T, C) in float32 or float64 with the classes of a frame side by side."""
    if hasattr(emissions, "detach"):  # a tensor
        emissions = emissions.detach()
        if emissions.device.type != "cpu":
            emissions = emissions.cpu()
        if emissions.dtype.itemsize < 4:
            emissions = emissions.float()
        emissions = emissions.numpy()
    elif not isinstance(emissions, np.ndarray):
        emissions = np.from_dlpack(emissions) if hasattr(emissions, "__dlpack__") else emissions
    scores = np.asarray(emissions)
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)
    if scores.dtype not in (np.float32, np.float64):
        raise TypeError(f"emissions must be floating point, got {scores.dtype}")
    if scores.ndim == 2:
        scores = scores[None]
    if scores.ndim != 3 or scores.shape[2] < 1:
        raise ValueError(f"emissions must be (N, T, C) or (T, C), got shape {scores.shape}")
    return scores if scores.strides[2] == scores.itemsize else np.ascontiguousarray(scores)


def _as_label_lists(
    targets: Any, target_lengths: Any, N: int, single: bool
) -> list[npt.NDArray[np.int64]]:
    if hasattr(targets, "detach"):
        targets = targets.detach().cpu().numpy()
    if single and (len(targets) == 0 or np.ndim(targets[0]) == 0):
        targets = [targets]
    if not isinstance(targets, (Sequence, np.ndarray)) or len(targets) != N:
        raise ValueError(f"targets must hold one sequence of labels for each of {N} utterances")
    rows = [np.asarray(row.cpu() if hasattr(row, "cpu") else row) for row in targets]
    for n, row in enumerate(rows):
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise TypeError(f"targets[{n}] must be a sequence of integers")
    if target_lengths is not None:
        longest = max((len(row) for row in rows), default=0)
        lengths = _as_lengths("target_lengths", target_lengths, N, longest)
        rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return [row.astype(np.int64) for row in rows]


def _as_lengths(name: str, lengths: Any, N: int, longest: int) -> npt.NDArray[np.int64]:
    if lengths is None:
        return np.full(N, longest, np.int64)
    if hasattr(lengths, "detach"):
        lengths = lengths.detach().cpu().numpy()
    array = np.atleast_1d(np.asarray(lengths))
    if array.shape != (N,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {N} integers, got {lengths!r}")
    if (array < 0).any() or (array > longest).any():
        n = int(np.flatnonzero((array < 0) | (array > longest))[0])
        raise ValueError(f"{name}[{n}] must be in [0, {longest}], got {int(array[n])}")
    return array.astype(np.int64)


def _num_threads(threads: int | None) -> int:
    if threads is None:
        import sys

        torch = sys.modules.get("torch")
        return torch.get_num_threads() if torch is not None else 1
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return int(threads)


def _explain(
    status: str, n: int, labels: npt.NDArray[np.int64], length: int, band: int | None
) -> str:
    if status == "NOT_FINITE":
        return f"emissions[{n}] hold NaN or +inf: they cannot be aligned"
    if status == "NO_MEMORY":
        return f"not enough memory to align utterance {n} ({length} frames, {len(labels)} labels)"
    wild = labels == WILDCARD
    repeats = int(((labels[1:] == labels[:-1]) & ~wild[1:]).sum())
    needed = len(labels) + repeats
    if length < needed:
        return (
            f"targets[{n}] needs at least {needed} frames ({len(labels)} labels + {repeats} "
            f"repeats), but input_lengths[{n}] is {length}: the text is another recording's, or "
            "too long for the model's frame rate"
        )
    reason = "its emissions are -inf where the labels need them"
    if band is not None:
        reason += f", or the band of {band} labels is too narrow"
    return f"targets[{n}] has no path of probability above zero: {reason}"
