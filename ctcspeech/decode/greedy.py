"""Greedy decoding: the labelling of the best path, with the times and confidences of its words."""

from collections.abc import Sequence

import numpy as np

from ctcspeech.decode.hypothesis import Hypothesis, Word, word_frames, word_spans
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

__all__ = ["GreedyDecoder"]


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
