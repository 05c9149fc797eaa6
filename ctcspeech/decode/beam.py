"""The beam decoder: the reading of an utterance that the network and a language model agree on.

    decoder = BeamDecoder(alphabet, LanguageModel.load("lm.bin"), lm_weight=0.6, word_score=2.0)
    best = [hypotheses[0].text for hypotheses in decoder.decode(emissions)]

    stream = decoder.stream()
    for chunk in chunks:                      # (t, C) each
        stream.accept(chunk)
        print(stream.partial().text)
    print(stream.finish()[0].text)

It searches for the text c with the highest

    Q(c) = ln P_ctc(c | x) + lm_weight * ln P_lm(c) + word_score * word_count(c)
           + unk_score * unknown_words(c) + hot words + neural_weight * ln P_neural(c)

(Hannun et al. 2014, section 3; natural logarithms) by prefix beam search (Graves 2012, section 7).

P_ctc(c | x) is the probability of the text, the sum over all sequences of labels that are it once
white space is normalised: separators before the first word and after the last, and several between
two, make no difference, and pieces may write a word in any way. Where the language model is one
over tokens it tells labellings apart, so that there c is a labelling, but for such separators.
With `prior_weight` all of this is of the emissions from which the labels' priors were taken.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ctcspeech import _core
from ctcspeech.decode.beam_arguments import (
    bad_frame,
    hot_phrases,
    integer,
    matrices,
    options_of,
    positive,
    prior_discount,
    processors,
    split_lm,
)
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.decode.tokens import neural_labels, read_labels, token_words, tokens_of
from ctcspeech.errors import DecoderError
from ctcspeech.lm.model import LanguageModel
from ctcspeech.lm.neural import NeuralLanguageModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["BeamDecoder", "BeamStream", "PartialHypothesis", "WordScorer"]

LN10 = math.log(10)


class WordScorer(Protocol):
    """A language model of the user's own. States may be any objects; those that can be hashed are
    compared with ==, and equal states must score alike from then on."""

    def begin_state(self) -> Any:
        """The state at the start of a sentence."""

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """ln P(word | state) (natural logarithm) and the state after the word."""

    def finish(self, state: Any) -> float:
        """ln P(end of sentence | state). An object without this method scores no end."""


@dataclass
class PartialHypothesis:
    """What a stream makes of the frames so far. `text` begins with `final`."""

    text: str
    # The leading words that no later frame can change. Where n_best is above 1: of the reading that
    # the search holds for the best; the finished list may begin with another that scores higher.
    final: str
    tokens: list[int]
    score: float  # Q of the frames so far, the last word and the sentence's end not yet scored
    words: list[Word] = field(default_factory=list)


class BeamDecoder:
    """Prefix beam search over CTC emissions. Immutable; may be shared among threads."""

    def __init__(
        self,
        labels: Alphabet | Sequence[str],
        lm: LanguageModel | WordScorer | str | os.PathLike[str] | None = None,
        *,
        blank: int | None = None,
        lexicon: Iterable[str] | None = None,
        open_vocabulary: bool = False,
        lm_unit: str = "word",
        lm_weight: float = 0.5,
        word_score: float | None = None,
        unk_score: float = -10.0,
        hot_words: Mapping[str, float] | Iterable[str] | None = None,
        neural_lm: NeuralLanguageModel | str | os.PathLike[str] | None = None,
        neural_weight: float = 0.3,
        beam_size: int = 100,
        beam_threshold: float = 15.0,
        token_min_logp: float = -8.0,
        n_best: int = 1,
        frame_shift_ms: float = 20.0,
        word_times: bool = True,
        end_of_sentence: bool = True,
        recombine: bool = True,
        separator: str | None = None,
        threads: int | None = None,
        unknown_at_once: float = math.inf,
        strict_minimum: bool = False,
        label_priors: Any = None,
        prior_weight: float = 0.0,
    ) -> None:
        """Prepares the search.

        labels: an Alphabet, or the label of each class. A label " " or "|" (or `separator`)
            separates words; pieces that begin with "▁" begin a word, and where there are
            WordPieces ("##ing") all others do; "<0xE4>" is a byte. Special labels such as <unk> or
            [PAD], and empty ones, are never hypothesised.
        lm: an n-gram model or its file; or any object with the methods of WordScorer.
        blank: index of the blank; by default the alphabet's, or 0.
        lexicon: the words that may be written; by default all words of the n-gram model. Words
            with characters that no label has are left out (`words_skipped` counts them).
        open_vocabulary: words outside the lexicon may be written too, each at `unk_score` on top
            of what the model gives its unknown word. Without a lexicon every word may be.
        lm_unit: "word", or "token" where the model is one over labels (characters or pieces); then
            there is no lexicon unless one is given.
        lm_weight, word_score, unk_score: see Q above. By default word_score is 1.5 with a language
            model over words, else 0. Where labels mark no words, it counts tokens if lm_unit is
            "token".
        hot_words: words or phrases with the natural logarithm that each occurrence adds to Q (5 if
            none is given). They may be outside the lexicon.
        neural_lm, neural_weight: a neural language model over labels or its file, alone or beside
            `lm`, and its weight (at least 0) in Q. Prefixes are then never recombined. Its part is
            in a hypothesis' score, not in `lm_score`.
        beam_size: prefixes kept in each frame. beam_threshold: prefixes this much (natural
            logarithm) below the best are dropped. token_min_logp: labels with a lower natural-log
            probability are not tried in a frame (the likeliest always is).
        n_best: hypotheses a decode returns, with different texts, best first.
        frame_shift_ms: milliseconds between frames, for word times.
        word_times: whether to find words with their times and confidences; else `words` is empty.
        end_of_sentence: whether the language model scores the end of the sentence.
        recombine: whether of prefixes that the language model and the lexicon cannot tell apart
            only the best goes on. Without either, prefixes never are. The others are kept for
            n-best lists.
        threads: for batches; by default the processors that this process may use.
        unknown_at_once: the most (natural logarithm) of an unknown word's cost that pruning sees
            when the word leaves the lexicon; the rest is charged at its end. By default all of it;
            12 finds readings of higher Q among unknown words that cost more, more slowly, and
            where the weights are not tuned with more errors (benchmarks/results/decoder.md).
        strict_minimum: whether token_min_logp holds for the blank and for repetitions, too, as in
            pyctcdecode: what a clear frame does not say is then not tried at any score.
        label_priors, prior_weight: how probable each label is over all frames, (C,), the blank
            included, all above 0; `prior_weight` times its natural logarithm is taken from each
            frame's, which is normalised again. What the network expects of labels before it hears
            anything then counts less, and the language model may count more (Bourlard and Morgan
            1994; for CTC Miao et al. 2015, "EESEN", section 3.3). `ctcspeech tune` finds both.

        Raises ValueError or TypeError for arguments that are wrong, DecoderError if the labels can
        write none of the lexicon's words, LanguageModelError for a file that is no model.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        names, blank, separator = read_labels(labels, blank, separator)
        tokens = tokens_of(names, blank, separator)
        if isinstance(lm, (str, os.PathLike)):
            lm = LanguageModel.load(Path(lm))
        core_lm, custom = split_lm(lm)
        if isinstance(neural_lm, (str, os.PathLike)):
            neural_lm = NeuralLanguageModel.load(neural_lm)
        if lm_unit not in ("word", "token"):
            raise ValueError(f'lm_unit must be "word" or "token", got {lm_unit!r}')
        over_tokens = lm_unit == "token"
        if word_score is None:
            word_score = 1.5 if lm is not None and not over_tokens else 0.0
        if isinstance(lexicon, str):
            raise TypeError("lexicon must be an iterable of words, got a single str")
        words = None if lexicon is None else [str(word) for word in lexicon]
        from_lm = words is None and core_lm is not None and not over_tokens
        given.update(
            lm=lm,
            neural_lm=neural_lm,
            blank=blank,
            lexicon=words,
            word_score=word_score,
            separator=separator,
        )
        self._arguments: dict[str, Any] = given  # what replace() and copies make another one of
        options = options_of(given)
        if lm is None:
            options.lm_weight = 0.0
        self.labels = names
        self.blank = blank
        self.lm = lm
        self.neural_lm = neural_lm
        self.neural_weight: float = options.neural_weight
        self.lm_weight: float = options.lm_weight
        self.word_score: float = options.word_score
        self.unk_score: float = options.unk_score
        self.n_best: int = options.n_best
        self.frame_shift_ms = positive("frame_shift_ms", frame_shift_ms)
        self.threads = integer("threads", threads) if threads is not None else None
        self._end_of_sentence = bool(end_of_sentence)
        self._over_tokens = over_tokens
        self._discount = prior_discount(label_priors, prior_weight, len(names))
        config = _core.BeamConfig()
        config.tokens = tokens
        config.blank = blank
        config.options = options
        if custom is not None:
            config.custom_lm = custom
        config.lm_over_tokens = over_tokens
        if over_tokens:
            config.token_words = token_words(names, tokens, core_lm)
        config.lexicon_from_lm = from_lm
        config.lexicon = words or []
        config.hot_words = hot_phrases(hot_words)
        config.neural_labels = neural_labels(names, separator, neural_lm)
        neural = None if neural_lm is None else neural_lm.core
        self._core = _core.BeamDecoder(config, ngram=core_lm, neural=neural)
        if (from_lm or words) and self._core.lexicon_size == 0 and not open_vocabulary:
            raise DecoderError(
                f"the labels can write none of the {self._core.words_skipped} words of the "
                f"{'language model' if from_lm else 'lexicon'}; do both have the same case?"
            )

    @property
    def lexicon_size(self) -> int:
        """The number of words that the lexicon holds, hot words included."""
        return self._core.lexicon_size

    @property
    def words_skipped(self) -> int:
        """The number of words left out of the lexicon since no label can write them."""
        return self._core.words_skipped

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def replace(self, **changes: Any) -> "BeamDecoder":
        """A decoder with some arguments changed, named as for the class."""
        return BeamDecoder(**{**self._arguments, **changes})

    def decode(
        self,
        emissions: Any,
        lengths: Any = None,
        *,
        context: str | Sequence[str | None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `n_best` hypotheses of each utterance, best first.

        emissions: (T, C) for one utterance, (N, T, C) for a batch, or a list of (T, C): NumPy or
        torch arrays or any with DLPack, logits or log-probabilities.
        lengths: frames of each utterance in a batch, by default T.
        context: text that each utterance goes on from, so that the language model's state is
        carried over (None: the start of a sentence). It is no part of the result.

        With n_best 1, a hypothesis' `ctc_score` is the logarithm of the alignments that the search
        followed, a lower bound of ln P_ctc which pruning makes smaller; with more it is ln P_ctc,
        but for alignments that hold under 1e-40 of its mass in some frame, and so a list may begin
        with a better hypothesis than n_best 1 finds. `tokens` are the likeliest labelling that the
        search met, without superfluous separators at the end. `lm_score` is exact.
        Where a closed vocabulary leaves no hypothesis with a complete last word, that word is left
        out. Where no hypothesis can produce a frame, the one up to it is returned, with score -inf.

        A word's start and end are those of its first and last token in the best alignment. Its
        confidence comes of the weight of the best reading that has another word there, among those
        that met the best one again; where the search does not recombine, it is the geometric mean
        of the tokens' highest probabilities.

        Raises ValueError or TypeError for wrong shapes, DecoderError for a frame with NaN, +inf, or
        nothing but -inf.
        """
        rows = self._rows(emissions, lengths)
        contexts = self._contexts(context, len(rows))
        threads = self.threads or processors()
        answers = self._core.decode(rows, contexts, threads)
        for i, answer in enumerate(answers):
            if isinstance(answer, tuple):
                raise DecoderError(bad_frame(f"emissions[{i}]", answer))
        return [self._hypotheses(answer) for answer in answers]

    def stream(self, *, context: str | None = None) -> "BeamStream":
        """A stream for one utterance whose frames come in pieces."""
        return BeamStream(self, context)

    def rescore(
        self,
        hypotheses: Sequence[Hypothesis],
        lm: LanguageModel | WordScorer,
        *,
        lm_weight: float | None = None,
        word_score: float | None = None,
    ) -> list[Hypothesis]:
        """An n-best list in the order that another language model over words gives it.

        `lm` takes the place of this decoder's in `lm_score` and `score`; the weights are this
        decoder's unless given. Unknown-word costs and hot words stay as they were.
        """
        weight = self.lm_weight if lm_weight is None else lm_weight
        per_word = self.word_score if word_score is None else word_score
        rescored = []
        for hypothesis in hypotheses:
            words = hypothesis.text.split()
            lm_score = _ln_probability(lm, words, self._end_of_sentence)
            change = weight * lm_score - self.lm_weight * hypothesis.lm_score
            change += (per_word - self.word_score) * len(words)
            rescored.append(replace(hypothesis, score=hypothesis.score + change, lm_score=lm_score))
        return sorted(rescored, key=lambda hypothesis: -hypothesis.score)

    def exact_ctc_score(self, emissions: Any, hypothesis: Hypothesis) -> float:
        """ln P_ctc of a hypothesis' text over all its labellings and their alignments, as Q has it,
        by the forward algorithm (Graves et al. 2006, section 4.1) on a lattice of the labellings.
        emissions: (T, C). Raises as `decode` does."""
        (rows,) = self._rows(emissions)
        answer = self._core.ctc_score(rows, list(hypothesis.tokens))
        if isinstance(answer, tuple):
            raise DecoderError(bad_frame("emissions", answer))
        return answer

    def best_path(self, emissions: Any, hypothesis: Hypothesis) -> tuple[float, list[int]]:
        """The natural logarithm of the likeliest alignment of a hypothesis' text (Viterbi), in any
        of its labellings, and its label in each frame: T indices, blanks and separators, too.
        emissions: (T, C). Raises as `decode` does."""
        (rows,) = self._rows(emissions)
        score, path = self._core.best_path(rows, list(hypothesis.tokens))
        if isinstance(path, str):
            raise DecoderError(bad_frame("emissions", (score, path)))
        return score, path

    # -- inside ---------------------------------------------------------------------------------

    def _rows(self, emissions: Any, lengths: Any = None) -> list[np.ndarray]:
        """Of each utterance logits (T, C), float32, the labels' priors taken off."""
        rows = matrices(emissions, lengths, len(self.labels))
        return rows if self._discount is None else [row - self._discount for row in rows]

    def _hypotheses(self, answers: list[Any]) -> list[Hypothesis]:
        return [
            Hypothesis(text, tokens, score, ctc, lm, self._words(words))
            for text, tokens, words, score, ctc, lm in answers
        ]

    def _words(self, words: list[Any]) -> list[Word]:
        shift = self.frame_shift_ms / 1000
        return [Word(text, a * shift, b * shift, p) for text, a, b, p in words]

    def _contexts(self, context: Any, count: int) -> list[list[str]]:
        if context is None:
            return []
        if isinstance(context, str):
            context = [context]
        if len(context) != count:
            raise ValueError(f"context must have one text for each of the {count} utterances")
        if self._over_tokens:
            raise ValueError("context needs a language model over words, this one is over tokens")
        if self.neural_lm is not None:
            raise ValueError("context cannot be given to a neural language model")
        return [(text or "").split() for text in context]


class BeamStream:
    """One utterance, decoded as its frames come. Made by `BeamDecoder.stream()`; for one thread."""

    def __init__(self, decoder: BeamDecoder, context: str | None = None) -> None:
        self._decoder = decoder
        contexts = decoder._contexts(context, 1)
        self._core = _core.BeamStream(decoder._core, contexts[0] if contexts else [])
        self._ended = ""

    @property
    def num_frames(self) -> int:
        """Frames taken so far."""
        return self._core.num_frames

    @property
    def num_bytes(self) -> int:
        """Memory that this stream holds beyond the decoder's own."""
        return self._core.bytes

    def accept(self, emissions: Any) -> None:
        """Takes the next frames, (t, C) with any t. Raises as `BeamDecoder.decode` does."""
        self._check_open()
        (rows,) = self._decoder._rows(emissions)
        bad = self._core.accept(rows)
        if bad is not None:
            self._ended = "has failed"
            raise DecoderError(bad_frame("the stream", bad))

    def partial(self) -> PartialHypothesis:
        """The best hypothesis so far, and how much of it is final."""
        self._check_open()
        (text, tokens, words, score, _, _), final = self._core.partial()
        return PartialHypothesis(text, final, tokens, score, self._decoder._words(words))

    def finish(self) -> list[Hypothesis]:
        """Ends the utterance. The same hypotheses as `BeamDecoder.decode` gives for all frames."""
        self._check_open()
        self._ended = "is finished"
        return self._decoder._hypotheses(self._core.finish())

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be copied or pickled: make another with decoder.stream()")

    def _check_open(self) -> None:
        if self._ended:
            raise DecoderError(f"this stream {self._ended}; make another with decoder.stream()")


def _ln_probability(lm: Any, words: list[str], end: bool) -> float:
    """ln P of a sentence, by either kind of language model."""
    if isinstance(lm, LanguageModel):
        return LN10 * lm.score(words, True, end)
    state, total = lm.begin_state(), 0.0
    for word in words:
        ln, state = lm.score(state, word)
        if not ln < math.inf:
            raise ValueError(f"score(state, {word!r}) of the language model returned {ln}")
        total += ln
    return total + (lm.finish(state) if end and hasattr(lm, "finish") else 0.0)
