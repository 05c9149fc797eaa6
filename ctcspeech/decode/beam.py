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
"""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ctcspeech import _core
from ctcspeech.decode.hypothesis import Hypothesis, Word
from ctcspeech.errors import DecoderError
from ctcspeech.lm.model import LanguageModel
from ctcspeech.lm.neural import NeuralLanguageModel
from ctcspeech.text.alphabet import Alphabet

__all__ = ["BeamDecoder", "BeamStream", "PartialHypothesis", "WordScorer"]

LN10 = math.log(10)
WORD_START = "▁"  # SentencePiece's mark of a word's first piece
HOT_WORD_WEIGHT = 5.0  # natural logarithm, where a hot word comes without its own weight
_BYTE_LABEL = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPECIAL_LABEL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
# What a character n-gram model may call the space.
_SPACE_NAMES = ("|", WORD_START, "<space>", "<sp>", "_")


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

        Raises ValueError or TypeError for arguments that are wrong, DecoderError if the labels can
        write none of the lexicon's words, LanguageModelError for a file that is no model.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        names, blank, separator = _read_labels(labels, blank, separator)
        tokens = _tokens(names, blank, separator)
        if isinstance(lm, (str, os.PathLike)):
            lm = LanguageModel.load(Path(lm))
        core_lm, custom = _split_lm(lm)
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
        options = _options(given)
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
        self.frame_shift_ms = _positive("frame_shift_ms", frame_shift_ms)
        self.threads = _integer("threads", threads) if threads is not None else None
        self._end_of_sentence = bool(end_of_sentence)
        self._over_tokens = over_tokens
        config = _core.BeamConfig()
        config.tokens = tokens
        config.blank = blank
        config.options = options
        if custom is not None:
            config.custom_lm = custom
        config.lm_over_tokens = over_tokens
        if over_tokens:
            config.token_words = _token_words(names, tokens, core_lm)
        config.lexicon_from_lm = from_lm
        config.lexicon = words or []
        config.hot_words = _hot_phrases(hot_words)
        config.neural_labels = _neural_labels(names, separator, neural_lm)
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
        rows = _matrices(emissions, lengths, len(self.labels))
        contexts = self._contexts(context, len(rows))
        threads = self.threads or _processors()
        answers = self._core.decode(rows, contexts, threads)
        for i, answer in enumerate(answers):
            if isinstance(answer, tuple):
                raise DecoderError(_bad_frame(f"emissions[{i}]", answer))
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
        (rows,) = _matrices(emissions, None, len(self.labels))
        answer = self._core.ctc_score(rows, list(hypothesis.tokens))
        if isinstance(answer, tuple):
            raise DecoderError(_bad_frame("emissions", answer))
        return answer

    def best_path(self, emissions: Any, hypothesis: Hypothesis) -> tuple[float, list[int]]:
        """The natural logarithm of the likeliest alignment of a hypothesis' text (Viterbi), in any
        of its labellings, and its label in each frame: T indices, blanks and separators, too.
        emissions: (T, C). Raises as `decode` does."""
        (rows,) = _matrices(emissions, None, len(self.labels))
        score, path = self._core.best_path(rows, list(hypothesis.tokens))
        if isinstance(path, str):
            raise DecoderError(_bad_frame("emissions", (score, path)))
        return score, path

    # -- inside ---------------------------------------------------------------------------------

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
        (rows,) = _matrices(emissions, None, len(self._decoder.labels))
        bad = self._core.accept(rows)
        if bad is not None:
            self._ended = "has failed"
            raise DecoderError(_bad_frame("the stream", bad))

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


# -- arguments ----------------------------------------------------------------------------------


def _read_labels(
    labels: Alphabet | Sequence[str], blank: int | None, separator: str | None
) -> tuple[list[str], int, str | None]:
    if isinstance(labels, Alphabet):
        if blank is not None and blank != labels.blank:
            raise ValueError(f"blank is {blank}, but the alphabet's is {labels.blank}")
        blank = labels.blank
        if separator is None and labels.space is not None:
            separator = labels.labels[labels.space]
        names = list(labels.labels)
    elif isinstance(labels, str):
        raise TypeError("labels must be an Alphabet or a sequence of labels, got a single str")
    else:
        names = [str(label) for label in labels]
    blank = 0 if blank is None else blank
    if not 0 <= blank < len(names):
        raise ValueError(f"blank must be an index into the {len(names)} labels, got {blank}")
    if separator is not None and separator not in names:
        raise ValueError(f"separator must be one of the labels, got {separator!r}")
    return names, blank, separator


def _tokens(
    labels: list[str], blank: int, separator: str | None
) -> list[tuple[bytes, bool, bool, bool]]:
    """What each label adds to the text: (bytes, begins a word, stands between words, is never
    hypothesised)."""
    others = [label for i, label in enumerate(labels) if i != blank]
    if separator is None:
        separator = next((s for s in (" ", "|") if s in others), None)
    word_pieces = any(label.startswith("##") and len(label) > 2 for label in others)
    tokens = []
    for i, label in enumerate(labels):
        byte = _BYTE_LABEL.fullmatch(label)
        if i == blank:
            token = (b"", False, False, True)
        elif label == separator:
            token = (b"", True, True, False)
        elif byte:
            token = (bytes([int(byte[1], 16)]), False, False, False)
        elif not label or _SPECIAL_LABEL.fullmatch(label):
            token = (b"", False, False, True)
        elif label.startswith(WORD_START):
            token = (label[1:].replace(WORD_START, " ").encode(), True, False, False)
        elif word_pieces:
            begins = not label.startswith("##")
            token = ((label if begins else label[2:]).encode(), begins, False, False)
        else:
            token = (label.encode(), False, False, False)
        tokens.append(token)
    return tokens


def _token_words(
    labels: list[str], tokens: list[tuple[bytes, bool, bool, bool]], lm: Any
) -> list[str]:
    """What a model over tokens calls each label."""
    if lm is None:
        return labels
    words = list(labels)
    for i, (text, begins_word, _, _) in enumerate(tokens):
        if begins_word and not text and lm.index(labels[i]) == 0:
            found = next((name for name in _SPACE_NAMES if lm.index(name)), None)
            if found is None:
                raise DecoderError(
                    f"the language model over tokens has no word for the label {labels[i]!r} "
                    f"between words; it may be called {', '.join(_SPACE_NAMES)}"
                )
            words[i] = found
    return words


def _neural_labels(
    labels: list[str], separator: str | None, model: NeuralLanguageModel | None
) -> list[int]:
    """The number that a neural model over labels has for each; the separator is its space."""
    if model is None:
        return []
    if separator is None:
        separator = next((s for s in (" ", "|") if s in labels), None)
    spaced = [" " if label == separator else label for label in labels]
    numbers = [model.index(label) for label in spaced]
    if not any(n > 1 for n in numbers):
        raise DecoderError("the neural language model knows none of the labels")
    return numbers


def _split_lm(lm: Any) -> tuple[Any, Any]:
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


def _hot_phrases(
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


def _options(given: Mapping[str, Any]) -> _core.BeamOptions:
    """The core's options, checked, from the arguments of their names."""
    options = _core.BeamOptions()
    for name in ("lm_weight", "word_score", "unk_score"):
        setattr(options, name, _finite(name, given[name]))
    for name in ("beam_threshold", "unknown_at_once"):
        setattr(options, name, _positive(name, given[name]))
    for name in ("beam_size", "n_best"):
        setattr(options, name, _integer(name, given[name]))
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


def _positive(name: str, value: float) -> float:
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


def _integer(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return min(int(value), 2**31 - 1)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- emissions ----------------------------------------------------------------------------------


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


def _matrices(emissions: Any, lengths: Any, classes: int) -> list[np.ndarray]:
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


def _bad_frame(name: str, bad: tuple[int, str]) -> str:
    frame, what = bad
    return f"{name}: frame {frame} {what}; check the network and its input"


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
