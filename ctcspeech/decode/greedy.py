"""Greedy decoding: the labelling of the best path, with the times and confidences of its words."""

from collections.abc import Sequence

import numpy as np

from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

__all__ = ["GreedyDecoder", "word_frames", "word_spans"]

# Labels of a word do not stand further apart than this. A model that sees the whole utterance can
# put a word's first or last label far out into the silence beside it; the word's time is then that
# of its other labels, and _STRAY_SECONDS more in place of the stray one.
_LONGEST_GAP_SECONDS = 0.25
_STRAY_SECONDS = 0.1


class GreedyDecoder:
    """Takes the most probable label of every frame (best path decoding, Graves et al. 2006, 3.2).

    `ctc_score`, and with it `score`, is the natural logarithm of the probability of the best path,
    the sum over the frames of the logarithm of the largest probability. That is a lower bound of
    ln P_ctc(c | x), which sums over all paths of the same labelling.
    """

    def __init__(self, alphabet: Alphabet, frame_shift_ms: float) -> None:
        """frame_shift_ms: milliseconds from one frame of emissions to the next, for word times."""
        if not frame_shift_ms > 0:
            raise ValueError(f"frame_shift_ms must be above 0, got {frame_shift_ms}")
        self.alphabet = alphabet
        self.frame_shift_ms = frame_shift_ms

    def decode(self, emissions: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """One hypothesis for each utterance, in a list of its own as n-best decoders have it.

        emissions: for each utterance (T, C), logits or log-probabilities. Word times are seconds
        from the utterance's first frame: from the start of the word's first label to the end of its
        last in the best path, strays left out (`word_frames`). A word's confidence is the mean
        probability of the best path over its frames. Raises ValueError for a wrong shape,
        DecoderError where a frame has no largest label (NaN, or nothing but -inf).
        """
        return [[self._decode_one(i, np.asarray(item))] for i, item in enumerate(emissions)]

    def _decode_one(self, index: int, emissions: np.ndarray) -> Hypothesis:
        if emissions.ndim != 2 or emissions.shape[1] != len(self.alphabet):
            raise ValueError(
                f"emissions[{index}] must be (frames, {len(self.alphabet)}), one column for each "
                f"label of the alphabet, got shape {emissions.shape}"
            )
        if not len(emissions):
            return Hypothesis(text="", tokens=[], score=0.0, ctc_score=0.0)
        path = emissions.argmax(axis=1)
        best = emissions.max(axis=1, keepdims=True)
        if not np.isfinite(best).all():
            frame = int(np.flatnonzero(~np.isfinite(best[:, 0]))[0])
            raise DecoderError(
                f"emissions[{index}] has no largest label at frame {frame}: {best[frame, 0]}; "
                "check the model and its input for NaN"
            )
        log_probs = -np.log(np.exp((emissions - best).astype(np.float64)).sum(axis=1))  # (T,)

        changes = np.flatnonzero(np.diff(path, prepend=-1))  # first frame of each run
        run_ends = np.append(changes[1:], len(path))
        labelled = path[changes] != self.alphabet.blank
        starts, ends = changes[labelled], run_ends[labelled]
        tokens = path[starts].tolist()
        words = []
        seconds = self.frame_shift_ms / 1000
        for first, last in word_spans(self.alphabet, tokens):
            begin, end = word_frames(starts[first:last], ends[first:last], seconds)
            text = self.alphabet.decode(tokens[first:last]).strip()
            if text:
                confidence = float(np.exp(log_probs[begin:end]).mean())
                words.append(Word(text, begin * seconds, end * seconds, confidence))
        score = float(log_probs.sum())
        text = " ".join(self.alphabet.decode(tokens).split())
        return Hypothesis(text=text, tokens=tokens, score=score, ctc_score=score, words=words)


def word_spans(alphabet: Alphabet, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Which tokens make a word: (first, last + 1) for each, the separators left out.

    Words end at the separator (`alphabet.space`); with SentencePiece they begin at a piece that is
    marked so. Where an alphabet has neither, all tokens are one word.
    """
    pieces = alphabet.has_pieces
    spans: list[tuple[int, int]] = []
    first = 0
    for i, token in enumerate(tokens):
        if token == alphabet.space:
            spans.append((first, i))
            first = i + 1
        elif pieces and alphabet.labels[token].startswith("▁"):
            spans.append((first, i))
            first = i
    spans.append((first, len(tokens)))
    return [(begin, end) for begin, end in spans if end > begin]


def word_frames(starts: np.ndarray, ends: np.ndarray, seconds: float) -> tuple[int, int]:
    """First frame and last + 1 of a word, from those of its labels (L,), `seconds` a frame.

    Where labels stand more than 0.25 s apart, those that stand most together tell the time, and 0.1
    s is added for the others.
    """
    far = np.flatnonzero((starts[1:] - ends[:-1]) * seconds > _LONGEST_GAP_SECONDS) + 1
    if not len(far):
        return int(starts[0]), int(ends[-1])
    edges = [0, *far.tolist(), len(starts)]
    first, last = max(zip(edges, edges[1:], strict=False), key=lambda group: group[1] - group[0])
    stray = round(_STRAY_SECONDS / seconds)
    begin = int(starts[first]) - (stray if first else 0)
    return begin, int(ends[last - 1]) + (stray if last < len(starts) else 0)
