"""torchaudio's CTC decoder interface: the same calls, arguments and result types, by this package's
search.

    from ctcspeech.compat.torchaudio import ctc_decoder    # was: from torchaudio.models.decoder ...

    decoder = ctc_decoder(lexicon="lexicon.txt", tokens="tokens.txt", lm="lm.arpa")
    best = decoder(emissions)[0][0]                        # emissions: (B, T, N) float32
    print(" ".join(best.words), best.timesteps)

How its parameters map. flashlight's scores of the language model are log10, so with LN10 = ln 10

    lm_weight           lm_weight / LN10 of `BeamDecoder`, which weighs natural logarithms
    word_score          word_score
    unk_score           unk_score; above -inf the vocabulary is open, and such words read `unk_word`
    sil_score           added to each frame of the silence token, as flashlight does
    log_add             whether `score` sums over all alignments or is that of the best one. The
                        search sums in either case, which finds better hypotheses
    beam_threshold      beam_threshold
    beam_size_token     accepted, and has no effect: tokens are left out by their probability

Emissions are taken as they are, as torchaudio does: scores are log-probabilities if they are. A
last word needs no silence after it. The search is another one, and the hypotheses of a list have
different texts.

Language models are ARPA files and binaries of `ctcspeech lm` and of KenLM, models of one's own
derived from `CTCDecoderLM` (here or torchaudio's), whose scores lm_weight multiplies as they are,
or objects with the methods of `ctcspeech.decode.beam.WordScorer`. With a lexicon they are over
words, else over tokens. The spelling of a word must be its characters, or its pieces, in one way,
with or without the silence token at the end.
"""

import abc
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctcspeech.decode.beam import BeamDecoder, BeamStream
from ctcspeech.decode.hypothesis import Hypothesis
from ctcspeech.lm.model import LanguageModel
from ctcspeech.text.alphabet import WORD_START

__all__ = ["CTCDecoder", "CTCDecoderLM", "CTCDecoderLMState", "CTCHypothesis", "ctc_decoder"]

LN10 = math.log(10)


class CTCDecoderLMState:
    """A state of a language model of one's own: a node in a tree of what was read."""

    def __init__(self) -> None:
        self._children: dict[int, CTCDecoderLMState] = {}

    @property
    def children(self) -> dict[int, "CTCDecoderLMState"]:
        """The states after this one, by index."""
        return self._children

    def child(self, usr_index: int) -> "CTCDecoderLMState":
        """The state after an index, the same object at every call."""
        if usr_index not in self._children:
            self._children[usr_index] = CTCDecoderLMState()
        return self._children[usr_index]

    def compare(self, state: "CTCDecoderLMState") -> int:
        """0 if both are the same state, else -1 or 1, in some order."""
        return 0 if self is state else -1 if id(self) < id(state) else 1


class CTCDecoderLM(abc.ABC):
    """The base class of language models of one's own. With a lexicon they are asked for words, by
    their place in `lm_dict`, or without it in the lexicon; else for tokens. Scores may have any
    scale: `lm_weight` multiplies them. Equal states (==, hash) must score alike from then on."""

    @abc.abstractmethod
    def start(self, start_with_nothing: bool) -> CTCDecoderLMState:
        """The state at the start of an utterance; the decoder asks with False."""

    @abc.abstractmethod
    def score(
        self, state: CTCDecoderLMState, usr_token_idx: int
    ) -> tuple[CTCDecoderLMState, float]:
        """The state after an index, and the score of the index at `state`."""

    @abc.abstractmethod
    def finish(self, state: CTCDecoderLMState) -> tuple[CTCDecoderLMState, float]:
        """The state after the end of the utterance, and the score of the end."""


class _OwnModel:
    """A CTCDecoderLM as a `WordScorer`."""

    def __init__(self, model: Any, indices: Mapping[str, int], unknown: int | None) -> None:
        self.model, self.indices, self.unknown = model, indices, unknown

    def begin_state(self) -> Any:
        return self.model.start(False)

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        index = self.indices.get(word, self.unknown)
        assert index is not None  # without an unknown word there are no words but those known
        after, value = self.model.score(state, index)
        return float(value), after

    def finish(self, state: Any) -> float:
        return float(self.model.finish(state)[1])


class CTCHypothesis(NamedTuple):
    """One reading of an utterance."""

    tokens: torch.LongTensor  # (L,), silence added before and after, as flashlight does
    words: list[str]  # empty without a lexicon
    score: float
    timesteps: torch.IntTensor  # (L,) frame of each token, counted from 1; 0 is the silence before


class CTCDecoder:
    """The decoder. Made by `ctc_decoder`."""

    def __init__(
        self,
        decoder: BeamDecoder,
        tokens: list[str],
        words: set[str] | None,
        *,
        nbest: int,
        blank: int,
        silence: int,
        sil_score: float,
        log_add: bool,
        unk_word: str,
    ) -> None:
        self.nbest, self.blank, self.silence = nbest, blank, silence
        self._decoder, self._tokens, self._words = decoder, tokens, words
        self._sil_score, self._log_add, self._unk_word = sil_score, log_add, unk_word
        self._stream: BeamStream | None = None
        self._frames: list[torch.Tensor] = []
        self._found: list[Hypothesis] = []

    def __call__(
        self, emissions: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> list[list[CTCHypothesis]]:
        """The best hypotheses of each utterance, best first.

        emissions: (B, T, N) float32 on the CPU; lengths: (B,) frames. Raises ValueError or
        RuntimeError, as torchaudio does, for others.
        """
        _check(emissions, 3)
        if lengths is not None and not lengths.is_cpu:
            raise RuntimeError("lengths must be a CPU tensor.")
        counts = [emissions.shape[1]] * len(emissions) if lengths is None else lengths.tolist()
        items = [self._weighted(item[:n]) for item, n in zip(emissions, counts, strict=True)]
        decoded = self._decoder.decode(items) if items else []
        return [self._results(*pair) for pair in zip(items, decoded, strict=True)]

    def decode_begin(self) -> None:
        """Starts an utterance whose frames come in pieces."""
        self._stream, self._frames, self._found = self._decoder.stream(), [], []

    def decode_step(self, emissions: torch.Tensor) -> None:
        """Takes its next frames, (t, N) float32 on the CPU."""
        _check(emissions, 2)
        if self._stream is None:
            raise RuntimeError("call decode_begin() before decode_step()")
        self._frames.append(self._weighted(emissions))
        self._stream.accept(self._frames[-1])

    def decode_end(self) -> None:
        """Ends the utterance."""
        if self._stream is None:
            raise RuntimeError("call decode_begin() before decode_end()")
        self._found, self._stream = self._stream.finish(), None

    def get_final_hypothesis(self) -> list[CTCHypothesis]:
        """The best hypotheses of the utterance that was ended."""
        if not self._frames:
            return []
        return self._results(torch.cat(self._frames), self._found)

    def idxs_to_tokens(self, idxs: torch.Tensor) -> list[str]:
        """The tokens of indices."""
        return [self._tokens[int(index)] for index in idxs]

    def _weighted(self, emissions: torch.Tensor) -> torch.Tensor:
        if self._sil_score:
            emissions = emissions.clone()
            emissions[:, self.silence] += self._sil_score
        return emissions

    def _results(self, emissions: torch.Tensor, found: list[Hypothesis]) -> list[CTCHypothesis]:
        """emissions: (T, N), silence weighted."""
        scale = float(emissions.double().logsumexp(dim=1).sum())  # what normalising takes away
        results = []
        for item in found:
            if not len(emissions) or not math.isfinite(item.score):
                continue
            ctc_score, best = self._decoder.best_path(emissions, item)
            if self._log_add:
                ctc_score = self._decoder.exact_ctc_score(emissions, item)
            path = [self.silence, *best, self.silence]
            firsts = [i for i, k in enumerate(path) if i == 0 or k != path[i - 1]]
            steps = [i for i in firsts if path[i] != self.blank]
            results.append(
                CTCHypothesis(
                    torch.tensor([path[i] for i in steps], dtype=torch.int64),  # type: ignore[arg-type]
                    self._named(item.text),
                    scale + ctc_score + item.score - item.ctc_score,
                    torch.tensor(steps, dtype=torch.int32),  # type: ignore[arg-type]
                )
            )
        return sorted(results, key=lambda result: -result.score)

    def _named(self, text: str) -> list[str]:
        words = self._words
        if words is None:
            return []
        return [word if word in words else self._unk_word for word in text.split()]


def ctc_decoder(
    lexicon: str | os.PathLike[str] | None,
    tokens: str | os.PathLike[str] | Sequence[str],
    lm: Any = None,
    lm_dict: str | None = None,
    nbest: int = 1,
    beam_size: int = 50,
    beam_size_token: int | None = None,
    beam_threshold: float = 50,
    lm_weight: float = 2,
    word_score: float = 0,
    unk_score: float = float("-inf"),
    sil_score: float = 0,
    log_add: bool = False,
    blank_token: str = "-",
    sil_token: str = "|",
    unk_word: str = "<unk>",
) -> CTCDecoder:
    """A decoder.

    lexicon: a file with a word and its spelling in tokens a line, or None: any words.
    tokens: the label of each class, or a file with one a line.
    lm: a file or a model, see the head of this module.
    lm_dict: a file with a word a line, whose place is its index for a CTCDecoderLM; without it
        words have their place in the lexicon, and `unk_word` comes after them. No effect on other
        models, which are asked for words by name.
    For the others see the head, too.

    Raises ValueError for a spelling that is not the word's own, tokens without blank or silence, or
    an `lm_dict` without a word of the lexicon; LanguageModelError for a file that is no model.
    """
    if lm_dict is not None and not isinstance(lm_dict, str):
        raise ValueError("lm_dict must be None or str type.")
    names = _read_tokens(tokens)
    for role, token in (("blank_token", blank_token), ("sil_token", sil_token)):
        if token not in names:
            raise ValueError(f"{role} {token!r} is none of the tokens")
    blank, silence = names.index(blank_token), names.index(sil_token)
    words = None if lexicon is None else _read_lexicon(Path(lexicon), names, sil_token)
    if isinstance(lm, (str, os.PathLike)):
        lm = LanguageModel.load(lm)
    own = _is_own(lm)
    if own:
        lm = _OwnModel(lm, *_indices(names, words, lm_dict, unk_word, unk_score > -math.inf))
    if any(name.startswith(WORD_START) for i, name in enumerate(names) if i != silence):
        separator = None  # pieces begin words
    else:
        separator = sil_token
    decoder = BeamDecoder(
        names,
        lm,
        blank=blank,
        separator=separator,
        lexicon=words,
        open_vocabulary=words is not None and unk_score > -math.inf,
        lm_unit="word" if words is not None else "token",
        lm_weight=lm_weight if own else lm_weight / LN10,
        word_score=word_score if words is not None else 0.0,
        unk_score=unk_score if unk_score > -math.inf else 0.0,
        beam_size=beam_size,
        beam_threshold=max(beam_threshold, 1e-9),
        token_min_logp=-min(max(beam_threshold, 0.0), 20.0),
        n_best=nbest,
        recombine=nbest == 1,
        word_times=False,
        threads=1 if own else None,  # a model of one's own may not be made for several
    )
    return CTCDecoder(
        decoder, names, None if words is None else set(words), nbest=nbest, blank=blank,
        silence=silence, sil_score=sil_score, log_add=log_add, unk_word=unk_word,
    )  # fmt: skip


def _is_own(lm: Any) -> bool:
    """Whether it is a CTCDecoderLM: ours, torchaudio's, or alike."""
    if isinstance(lm, CTCDecoderLM):
        return True
    names = ("start", "score", "finish")
    return not hasattr(lm, "begin_state") and all(
        callable(getattr(lm, name, None)) for name in names
    )


def _indices(
    tokens: list[str], words: list[str] | None, lm_dict: str | None, unk_word: str, open_words: bool
) -> tuple[dict[str, int], int | None]:
    """What a model of one's own calls each token or word, and the unknown word."""
    if words is None:
        return {token: index for index, token in enumerate(tokens)}, None
    if lm_dict is None:
        known = [*(word for word in words if word != unk_word), unk_word]
    else:
        known = _read_tokens(lm_dict)
        there = set(known)
        missing = [word for word in words if word not in there]
        if open_words and unk_word not in known:
            missing.append(unk_word)
        if missing:
            raise ValueError(f"{lm_dict}: has no {missing[0]!r}, which the lexicon has or needs")
    indices = {word: index for index, word in enumerate(known)}
    return indices, indices.get(unk_word)


def _check(emissions: torch.Tensor, dimensions: int) -> None:
    if emissions.dtype != torch.float32:
        raise ValueError("emissions must be float32.")
    if not emissions.is_cpu:
        raise RuntimeError("emissions must be a CPU tensor.")
    if not emissions.is_contiguous():
        raise RuntimeError("emissions must be contiguous.")
    if emissions.ndim != dimensions:
        raise RuntimeError(f"emissions must be {dimensions}D. Found {emissions.shape}")


def _read_tokens(tokens: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    if not isinstance(tokens, (str, os.PathLike)):
        return [str(token) for token in tokens]
    lines = Path(tokens).read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip()]  # others are other names of it


def _read_lexicon(path: Path, tokens: list[str], sil_token: str) -> list[str]:
    """The words. Raises ValueError for a spelling that the decoder would not write so."""
    known = set(tokens)
    words = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        word, *spelling = line.split()
        missing = [token for token in spelling if token not in known]
        if missing:
            raise ValueError(f"{path}:{number}: {missing[0]!r} is none of the tokens")
        if spelling and spelling[-1] == sil_token:
            spelling = spelling[:-1]
        if "".join(spelling).removeprefix(WORD_START) != word:
            raise ValueError(
                f"{path}:{number}: the spelling of {word!r} must be its own characters or pieces, "
                f"got {' '.join(spelling)}; other spellings (phonemes, another case) need "
                "torchaudio's decoder"
            )
        words.append(word)
    return list(dict.fromkeys(words))
