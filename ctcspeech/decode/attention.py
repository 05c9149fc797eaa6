"""Decoding with an attention decoder: alone, jointly with CTC in one pass, or as a second opinion.

    head = recognizer.emitter.attention
    decoder = AttentionSearch(alphabet, 40, head)                     # attention alone
    decoder = AttentionSearch(alphabet, 40, head, ctc_weight=0.3)     # jointly
    decoder = AttentionSearch(alphabet, 40, head, ctc_weight=0.3, fusion=WordFusion(alphabet, lm))
    decoder = AttentionRescorer(BeamDecoder(..., n_best=50), head, ctc_weight=0.5)
    recognizer.transcribe(["call.wav"], decoder)

The search goes from label to label. Of each prefix g it knows

    a(g) = ln P_attention(g | x)      the sum over its labels
    b(g) = ln P_ctc(g ... | x)        the prefix probability (`ctc_prefix`); with the end, P_ctc(g)
    score(g) = ctc_weight b(g) + (1 - ctc_weight) a(g) + the language model's share (`fusion`)

(Hori, Watanabe & Hershey 2017, "Joint CTC/attention decoding", equations 14 to 17), and at each
length the `beam_size` best are kept. Complete texts are ranked by

    score(g) / ((5 + L) / 6)^length_normalization + coverage * frames attended to by more than 1/2

where L counts the labels and the end (the division: Wu et al. 2016, arXiv 1609.08144, equation 14;
the coverage: Chorowski & Jaitly 2017, arXiv 1612.02695, equation 11), and the search ends when no
prefix can become better than what is complete (with a bonus for words: not by the bonus of 5 more).
Rescoring ranks the hypotheses of another decoder by ctc_weight Q + (1 - ctc_weight) a(g), Q being
that decoder's score.

These decoders take rows (T, C + H): log-probabilities with the encoder's states beside them, as
`Emitter.with_states` gives them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.ctc_prefix import CtcPrefixScorer, PrefixState
from ctcspeech.decode.fusion import FusedPrefix, WordFusion
from ctcspeech.decode.hypothesis import Hypothesis, Word, word_frames, word_spans
from ctcspeech.errors import DecoderError
from ctcspeech.text.alphabet import Alphabet

__all__ = ["AttentionHead", "AttentionRescorer", "AttentionSearch", "LabelScorer"]

SPARE = 10  # labels that a text may have besides those for its frames
WORDS_AHEAD = 5  # whose bonus may still lift a prefix above what is complete
COVERED = 0.5  # weight that a frame must have got, over all labels, to count as attended to
Floats = npt.NDArray[np.floating[Any]]
_Spans = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # first frame and last + 1 of labels


class LabelScorer(Protocol):
    """An attention decoder on one utterance (`ctcspeech.model.attention.Attender`)."""

    end: int  # the class that begins a text as input and ends it as output

    def start(self) -> Any: ...

    def step(self, labels: np.ndarray, state: Any) -> tuple[np.ndarray, np.ndarray, Any]: ...

    def select(self, state: Any, rows: np.ndarray) -> Any: ...

    def read(self, texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]: ...


class AttentionHead(Protocol):
    """An attention decoder (`ctcspeech.model.attention.AttentionDecoder`)."""

    def attend(self, states: np.ndarray) -> LabelScorer: ...


@dataclass
class _Beam:
    """The B prefixes that are kept, all of one length, best first."""

    texts: list[list[int]]
    attention: Floats  # (B,) a(g)
    scores: Floats  # (B,)
    weights: Floats  # (B, L, T) by which frames each label was found
    ctc: PrefixState | None
    fused: list[FusedPrefix] | None

    @property
    def covered(self) -> Floats:
        """(B, T) the weight that each frame has got."""
        return self.weights.sum(axis=1)


@dataclass
class _Complete:
    """A text that has ended."""

    text: list[int]
    value: float  # by which it is ranked
    attention: float
    ctc: float
    lm: float
    weights: Floats  # (L, T)


class AttentionSearch:
    """Beam search over labels by the attention decoder, and by CTC as far as `ctc_weight` says."""

    attends = True

    def __init__(
        self,
        alphabet: Alphabet,
        frame_shift_ms: float,
        head: AttentionHead,
        *,
        ctc_weight: float = 0.0,
        beam_size: int = 10,
        length_normalization: float = 0.0,
        coverage: float = 0.0,
        candidates: int = 40,
        longest: float = 1.0,
        n_best: int = 1,
        fusion: WordFusion | None = None,
    ) -> None:
        """
        ctc_weight: 0 is attention alone, 1 CTC alone, by its prefix probabilities.
        beam_size: prefixes kept at each length.
        length_normalization: 0 none, 1 nearly the mean over the labels.
        coverage: added for each frame that is attended to.
        candidates: labels that a prefix is extended by, the likeliest by the attention decoder.
        longest: labels of a text, at most, for each frame of emissions, and 10 more.
        fusion: an n-gram language model of words.

        Raises ValueError for a value out of range.
        """
        for name, value, low, high in (
            ("ctc_weight", ctc_weight, 0.0, 1.0),
            ("beam_size", beam_size, 1, 100_000),
            ("length_normalization", length_normalization, 0.0, 10.0),
            ("coverage", coverage, 0.0, 1000.0),
            ("candidates", candidates, 1, 1_000_000),
            ("longest", longest, 0.0, 1000.0),
            ("n_best", n_best, 1, 100_000),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low:g} to {high:g}, got {value!r}")
        if not frame_shift_ms > 0:
            raise ValueError(f"frame_shift_ms must be above 0, got {frame_shift_ms}")
        self.alphabet, self.frame_shift_ms, self.head = alphabet, frame_shift_ms, head
        self.ctc_weight, self.beam_size, self.n_best = ctc_weight, beam_size, n_best
        self.length_normalization, self.coverage = length_normalization, coverage
        self.candidates, self.longest, self.fusion = candidates, longest, fusion
        self._aligner = BeamDecoder(alphabet, beam_size=1)

    def decode(self, emissions: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """The `n_best` hypotheses of each utterance, best first; emissions: rows (T, C + H) each.

        `score` is the rank's value, `ctc_score` ln P_ctc of the labels (0 where CTC has no weight),
        `attention_score` a(g), `lm_score` ln P_lm of the words. A word's times are those of its
        labels' likeliest alignment by CTC; where CTC has no weight, or not enough frames, of the
        frames that its labels attend to most. Its confidence is the geometric mean of its labels'
        probabilities.

        Raises ValueError for a wrong shape, DecoderError for a frame with NaN.
        """
        return [self._decode_one(i, np.asarray(item)) for i, item in enumerate(emissions)]

    def _decode_one(self, index: int, rows: np.ndarray) -> list[Hypothesis]:
        log_probs, states = split_rows(index, rows, len(self.alphabet))
        if not len(rows):
            return [Hypothesis(text="", tokens=[], score=0.0, ctc_score=0.0, attention_score=0.0)]
        scorer = self.head.attend(states)
        found = self._search(scorer, log_probs)
        return [self._hypothesis(item, scorer, log_probs) for item in found]

    # -- the search -----------------------------------------------------------------------------

    def _search(self, scorer: LabelScorer, log_probs: Floats) -> list[_Complete]:
        frames, joint = len(log_probs), self.ctc_weight > 0
        prefixes = CtcPrefixScorer(log_probs, self.alphabet.blank) if joint else None
        state = scorer.start()
        beam = _Beam(
            [[]], np.zeros(1), np.zeros(1), np.zeros((1, 0, frames)),
            None if prefixes is None else prefixes.start(),
            None if self.fusion is None else [self.fusion.start()],
        )  # fmt: skip
        longest = int(self.longest * frames) + SPARE
        complete: list[_Complete] = []
        for length in range(longest + 1):
            last = np.array([text[-1] if text else scorer.end for text in beam.texts])
            following, weights, state = scorer.step(last, state)
            following = following.astype(np.float64)
            following[:, self.alphabet.blank] = -np.inf
            complete += self._ended(beam, following[:, scorer.end])
            complete = sorted(complete, key=lambda item: -item.value)[: self.n_best]
            if length == longest:
                break
            following[:, scorer.end] = -np.inf
            beam, kept = self._extended(beam, following, weights, prefixes)
            if not beam.texts or self._decided(complete, beam, longest, frames):
                break
            state = scorer.select(state, kept)
        return complete

    def _ended(self, beam: _Beam, end: Floats) -> list[_Complete]:
        """The prefixes as whole texts. end (B,): ln P_attention of the end."""
        attention = beam.attention + end
        ctc = np.zeros(len(end)) if beam.ctc is None else beam.ctc.complete
        scores = self._mixed(attention, ctc)
        lm: Floats = np.zeros(len(end))
        if self.fusion is not None and beam.fused is not None:
            ended = [self.fusion.ended(item) for item in beam.fused]
            lm = np.array([item.lm for item in ended])
            scores = scores + [self.fusion.value(item) for item in ended]
        found = []
        for i, text in enumerate(beam.texts):
            value = scores[i] / self._norm(len(text) + 1)
            if self.coverage:
                value += self.coverage * float((beam.covered[i] > COVERED).sum())
            if text and value == -math.inf:
                continue  # cannot be said: by CTC, or by the language model
            found.append(
                _Complete(
                    text, float(value), float(attention[i]), float(ctc[i]), float(lm[i]),
                    beam.weights[i],
                )
            )  # fmt: skip
        return found

    def _extended(
        self,
        beam: _Beam,
        following: Floats,
        weights: Floats,
        prefixes: CtcPrefixScorer | None,
    ) -> tuple[_Beam, npt.NDArray[np.int64]]:
        """The best prefixes with a label more, and which prefix each has come from."""
        count, classes = following.shape
        width = min(self.candidates, classes - 2)  # neither the blank nor the end
        labels = np.argsort(-following, axis=1, kind="stable")[:, :width].astype(np.int64)
        attention = beam.attention[:, None] + np.take_along_axis(following, labels, axis=1)
        scores: Floats = attention
        ctc: PrefixState | None = None
        if prefixes is not None and beam.ctc is not None:
            ctc_scores, ctc = prefixes.extend(beam.ctc, labels)
            scores = self._mixed(attention, ctc_scores)
        fused: list[FusedPrefix] = []
        if self.fusion is not None and beam.fused is not None:
            fused = [
                self.fusion.extended(item, label)
                for item, row in zip(beam.fused, labels.tolist(), strict=True)
                for label in row
            ]
            scores = scores + np.reshape([self.fusion.value(item) for item in fused], scores.shape)
        flat = scores.reshape(-1)
        best = np.argsort(-flat, kind="stable")[: self.beam_size]
        best = best[np.isfinite(flat[best])]
        kept = best // max(width, 1)
        chosen = labels.reshape(-1)[best]
        texts = [[*beam.texts[i], int(label)] for i, label in zip(kept, chosen, strict=True)]
        history = np.concatenate([beam.weights[kept], weights[kept][:, None]], axis=1)
        following_ctc = None if ctc is None else ctc.select(best)
        following_fused = None if beam.fused is None else [fused[i] for i in best.tolist()]
        return _Beam(
            texts, attention.reshape(-1)[best], flat[best], history, following_ctc, following_fused
        ), kept

    def _mixed(self, attention: Floats, ctc: Floats) -> Floats:
        """The two scores by their weights; one without weight does not count, be it -inf."""
        if not self.ctc_weight:
            return attention
        if self.ctc_weight == 1:
            return ctc
        return self.ctc_weight * ctc + (1 - self.ctc_weight) * attention

    def _norm(self, length: int) -> float:
        return float(((5 + length) / 6) ** self.length_normalization)

    def _decided(self, complete: list[_Complete], beam: _Beam, longest: int, frames: int) -> bool:
        """Whether no prefix can become better than the n-th best complete text: a score only falls
        as a text grows, but for the words' bonus, and is divided by no more than the norm of the
        longest."""
        if len(complete) < self.n_best:
            return False
        scores = beam.scores
        if self.fusion is not None and beam.fused is not None:
            scores = scores - [item.pending for item in beam.fused]  # an estimate is no bound
            scores = scores + WORDS_AHEAD * max(self.fusion.word_score, 0.0)
        best = float(scores.max())
        bound = best / self._norm(longest + 1) if best < 0 else best
        bound += self.coverage * frames
        return complete[-1].value >= bound

    # -- hypotheses -----------------------------------------------------------------------------

    def _hypothesis(self, found: _Complete, scorer: LabelScorer, log_probs: Floats) -> Hypothesis:
        labels, _ = scorer.read([found.text])
        text = " ".join(self.alphabet.decode(found.text).split())
        hypothesis = Hypothesis(
            text, found.text, found.value, found.ctc, found.lm, attention_score=found.attention
        )
        spans = self._aligned(hypothesis, log_probs) if self.ctc_weight else None
        if spans is None:
            peaks = np.maximum.accumulate(found.weights.argmax(axis=1).astype(np.int64))
            spans = peaks, peaks + 1
        hypothesis.words = words_of(
            self.alphabet, found.text, *spans, labels[0, :-1], self.frame_shift_ms / 1000
        )
        return hypothesis

    def _aligned(self, hypothesis: Hypothesis, log_probs: Floats) -> _Spans | None:
        """Of each label in the likeliest path by CTC; None where these labels have none. The path
        may have other separators than the labels: those get no frames of their own."""
        score, path = self._aligner.best_path(log_probs, hypothesis)
        if not math.isfinite(score) or not path:
            return None
        labels, tokens = np.asarray(path), np.asarray(hypothesis.tokens, np.int64)
        begins = np.flatnonzero(np.diff(labels, prepend=-1))
        ends = np.append(begins[1:], len(labels))
        silent = [self.alphabet.blank, self.alphabet.space]
        said = np.array([label not in silent for label in labels[begins]])
        wanted = np.array([token not in silent for token in tokens], dtype=bool)
        if labels[begins][said].tolist() != tokens[wanted].tolist():
            return None
        starts, stops = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
        starts[wanted], stops[wanted] = begins[said], ends[said]
        return starts, stops


class AttentionRescorer:
    """The hypotheses of a beam search by CTC, ranked anew with the attention decoder's opinion."""

    attends = True

    def __init__(
        self,
        beam: BeamDecoder,
        head: AttentionHead,
        *,
        ctc_weight: float = 0.5,
        n_best: int = 1,
    ) -> None:
        """beam: gives the hypotheses, as many as its own n_best. ctc_weight: of its score Q.

        Raises ValueError for a value out of range.
        """
        if not 0 <= ctc_weight <= 1:
            raise ValueError(f"ctc_weight must be 0 to 1, got {ctc_weight!r}")
        if n_best < 1:
            raise ValueError(f"n_best must be at least 1, got {n_best}")
        self.beam, self.head, self.ctc_weight, self.n_best = beam, head, ctc_weight, n_best

    def decode(self, emissions: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """The `n_best` hypotheses of each utterance, best first; emissions: rows (T, C + H) each.

        `score` is ctc_weight Q + (1 - ctc_weight) attention_score; the rest is the beam decoder's.
        """
        classes = len(self.beam.labels)
        parts = [split_rows(i, np.asarray(row), classes) for i, row in enumerate(emissions)]
        lists = self.beam.decode([log_probs for log_probs, _ in parts])
        return [
            self.rescored(hypotheses, states)[: self.n_best]
            for hypotheses, (_, states) in zip(lists, parts, strict=True)
        ]

    def rescored(self, hypotheses: Sequence[Hypothesis], states: np.ndarray) -> list[Hypothesis]:
        """One utterance's hypotheses in the order that both opinions give; states (T, H)."""
        if not len(states):
            return list(hypotheses)
        scorer = self.head.attend(states)
        log_probs, _ = scorer.read([list(item.tokens) for item in hypotheses])
        found = []
        for item, attention in zip(hypotheses, log_probs.sum(axis=1).tolist(), strict=True):
            # -inf times 0 is no number: a score without weight does not count.
            score = self.ctc_weight * item.score if self.ctc_weight else 0.0
            score += (1 - self.ctc_weight) * attention
            found.append(replace(item, score=score, attention_score=attention))
        return sorted(found, key=lambda item: -item.score)


def split_rows(index: int, rows: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, C) log-probabilities and (T, H) states. Raises ValueError, DecoderError."""
    if rows.ndim != 2 or rows.shape[1] <= classes:
        raise ValueError(
            f"emissions[{index}] must be (frames, {classes} + H), the log-probability of each "
            f"label and then the encoder's states, got shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        frame = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DecoderError(
            f"emissions[{index}] has a value that is no finite number at frame {frame}; check the "
            "model and its input for NaN"
        )
    return rows[:, :classes], rows[:, classes:]


def words_of(
    alphabet: Alphabet,
    tokens: Sequence[int],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    log_probs: Floats,
    seconds: float,
) -> list[Word]:
    """The words of labels with their frames (L,) and log-probabilities (L,), `seconds` a frame."""
    words = []
    for first, last in word_spans(alphabet, tokens):
        begin, end = word_frames(starts[first:last], ends[first:last], seconds)
        text = alphabet.decode(list(tokens[first:last])).strip()
        if text:
            confidence = float(np.exp(log_probs[first:last].mean()))
            words.append(Word(text, begin * seconds, end * seconds, confidence))
    return words
