"""What `transcribe`, `evaluate` and `tune` have in common: recogniser and decoder from options."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ctcspeech.errors import DecoderError
from ctcspeech.extras import require

if TYPE_CHECKING:
    from ctcspeech.decode.beam import BeamDecoder
    from ctcspeech.decode.fusion import WordFusion
    from ctcspeech.decode.settings import DecoderSettings
    from ctcspeech.recognize.recognizer import Recognizer
    from ctcspeech.recognize.transcript import Decoder

__all__ = [
    "DecoderName",
    "DecodingOptions",
    "LmUnit",
    "load_recognizer",
    "make_decoder",
    "memory_trimmer",
]


class DecoderName(str, Enum):
    auto = "auto"
    greedy = "greedy"
    beam = "beam"
    attention = "attention"
    joint = "joint"
    rescore = "rescore"


class LmUnit(str, Enum):
    word = "word"
    token = "token"


MODEL = typer.Argument(
    ...,
    metavar="MODEL",
    help="A run or checkpoint folder, an ONNX model or its folder, a folder or hf:owner/name of "
    "transformers, torchaudio:NAME.",
)
# The options, as defaults of the verbs' arguments.
DECODER = typer.Option(
    DecoderName.auto,
    "--decoder",
    help="greedy: the likeliest label of each frame; beam: a search, with the language model if "
    "there is one; auto: beam where the model has settings for it (from ctcspeech tune) or an "
    "option of the search is given. Of a model with an attention decoder also attention: by it "
    "alone; joint: by it and CTC in one pass; rescore: the beam's hypotheses ranked by both.",
)
LM = typer.Option(
    None,
    "--lm",
    exists=True,
    dir_okay=False,
    help="The n-gram language model: ARPA or binary. [default: the model's own] With attention and "
    "joint it takes part where this or --lm-weight is given.",
    show_default=False,
)
LM_UNIT = typer.Option(
    None, "--lm-unit", help="Whether it is one over words or over the alphabet's labels."
)
LM_WEIGHT = typer.Option(
    None, "--lm-weight", help="Weight of ln P of the language model (attention and joint: 0.3)."
)
NEURAL_LM = typer.Option(
    None,
    "--neural-lm",
    exists=True,
    dir_okay=False,
    help="A neural language model (ctcspeech lm train), alone or besides --lm. [default: the "
    "model's own]",
    show_default=False,
)
NEURAL_WEIGHT = typer.Option(
    None, "--neural-weight", min=0.0, help="Weight of ln P of the neural language model."
)
WORD_SCORE = typer.Option(None, "--word-score", help="Added to the score for each word.")
UNK_SCORE = typer.Option(
    None,
    "--unk-score",
    help="Allow words outside the language model; this is added for each (natural logarithm, "
    "about -20 to 0).",
)
BEAM_SIZE = typer.Option(None, "--beam-size", min=1, help="Prefixes kept in each frame.")
BEAM_THRESHOLD = typer.Option(
    None, "--beam-threshold", help="Prefixes this much worse than the best are dropped."
)
HOT_WORD = typer.Option(
    None,
    "--hot-word",
    metavar="WORD[:WEIGHT]",
    help="A word or phrase to favour, and by how much (natural logarithm, 5 if not given). May be "
    "repeated.",
)
CTC_WEIGHT = typer.Option(
    None,
    "--ctc-weight",
    min=0.0,
    max=1.0,
    help="With joint and rescore: the weight of CTC's score, that of attention being the rest. "
    "[default: 0.3 and 0.5]",
    show_default=False,
)
LENGTH_NORMALIZATION = typer.Option(
    None,
    "--length-normalization",
    min=0.0,
    max=10.0,
    help="With attention and joint: 0 ranks texts by their probability, 1 nearly by its mean over "
    "the labels. [default: 0]",
    show_default=False,
)
COVERAGE = typer.Option(
    None,
    "--coverage",
    min=0.0,
    max=1000.0,
    help="With attention and joint: added for each frame that is attended to. [default: 0]",
    show_default=False,
)
N_BEST = typer.Option(
    1, "--n-best", min=1, help="With --format jsonl: so many hypotheses of each passage."
)


@dataclass
class DecodingOptions:
    """The options as they were given; None is not given."""

    name: DecoderName = DecoderName.auto
    lm: Path | None = None
    lm_unit: LmUnit | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    unk_score: float | None = None
    beam_size: int | None = None
    beam_threshold: float | None = None
    hot_words: list[str] = field(default_factory=list)
    n_best: int = 1
    neural_lm: Path | None = None
    neural_weight: float | None = None
    ctc_weight: float | None = None
    length_normalization: float | None = None
    coverage: float | None = None

    @property
    def attends(self) -> bool:
        """Whether the attention decoder is asked for."""
        attending = (DecoderName.attention, DecoderName.joint, DecoderName.rescore)
        return self.name in attending

    def given(self) -> list[str]:
        """The options of the search that were given, as the user wrote them."""
        names = [
            "lm", "lm_unit", "lm_weight", "word_score", "unk_score", "beam_size", "beam_threshold",
            "neural_lm", "neural_weight", "ctc_weight", "length_normalization", "coverage",
        ]  # fmt: skip
        found = [name for name in names if getattr(self, name) is not None]
        found += ["hot_word"] if self.hot_words else []
        found += ["n_best"] if self.n_best > 1 else []
        return ["--" + name.replace("_", "-") for name in found]


def memory_trimmer() -> Callable[[], None]:
    """A function that gives freed memory back to the system, where the C library is glibc.

    What glibc keeps between batches of changing size would add up over hours of work.
    """
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            return lambda: library.malloc_trim(0)
    return lambda: None


def load_recognizer(model: str, device: str, threads: int | None) -> "Recognizer":
    """The recogniser; a device that there is not is wrong usage."""
    from ctcspeech.recognize.recognizer import Recognizer

    if device != "cpu":
        torch = require("torch", f"--device {device}")
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
            reason = str(error).strip().split("\n")[0]
            raise typer.BadParameter(f"--device {device}: {reason}") from error
    return Recognizer.load(model, device, threads)


def make_decoder(options: DecodingOptions, recognizer: "Recognizer") -> "Decoder":
    """The decoder of the options. Options that could have no effect are wrong usage."""
    given = options.given()
    if options.attends:
        return _attending(options, recognizer)
    _without_effect(options, {"ctc_weight", "length_normalization", "coverage"})
    if options.name is DecoderName.greedy:
        if given:
            raise typer.BadParameter(f"{', '.join(given)} has no effect with --decoder greedy")
        return recognizer.greedy_decoder()
    if options.name is DecoderName.auto and not given and recognizer.settings is None:
        return recognizer.greedy_decoder()
    return _beam(options, recognizer, options.n_best)


def _beam(options: DecodingOptions, recognizer: "Recognizer", n_best: int) -> "BeamDecoder":
    settings = _settings(options, recognizer)
    hot_words = _hot_words(options.hot_words, recognizer)
    try:
        return settings.decoder(
            recognizer.alphabet,
            recognizer.frame_shift_ms,
            hot_words=hot_words,
            n_best=n_best,
            threads=recognizer.threads,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


_RESCORED = 50  # hypotheses of the beam search that the attention decoder ranks anew
_OF_CTC_SEARCH = {"lm_unit", "beam_threshold", "neural_lm", "neural_weight", "hot_words"}


def _attending(options: DecodingOptions, recognizer: "Recognizer") -> "Decoder":
    """The decoders that ask the model's attention decoder."""
    from ctcspeech.decode.attention import AttentionRescorer, AttentionSearch

    head = recognizer.emitter.attention
    if head is None:
        raise typer.BadParameter(
            f"--decoder {options.name.value}: the model has no attention decoder; only a "
            "checkpoint trained with a section [model.attention] has one"
        )
    if options.name is DecoderName.rescore:
        _without_effect(options, {"length_normalization", "coverage"})
        beam = _beam(options, recognizer, max(_RESCORED, options.n_best))
        weight = 0.5 if options.ctc_weight is None else options.ctc_weight
        return AttentionRescorer(beam, head, ctc_weight=weight, n_best=options.n_best)
    _without_effect(options, _OF_CTC_SEARCH)
    weight = 0.0
    if options.name is DecoderName.joint:
        weight = 0.3 if options.ctc_weight is None else options.ctc_weight
    else:
        _without_effect(options, {"ctc_weight"})
    return AttentionSearch(
        recognizer.alphabet,
        recognizer.frame_shift_ms,
        head,
        ctc_weight=weight,
        beam_size=options.beam_size or 10,
        length_normalization=options.length_normalization or 0.0,
        coverage=options.coverage or 0.0,
        n_best=options.n_best,
        fusion=_fusion(options, recognizer),
    )


def _fusion(options: DecodingOptions, recognizer: "Recognizer") -> "WordFusion | None":
    """The language model beside the attention decoder, where an option asks for it: the weights
    that were tuned for CTC alone are not those for both."""
    if options.lm is None and options.lm_weight is None:
        _without_effect(options, {"word_score", "unk_score"}, " and without --lm or --lm-weight")
        return None
    from ctcspeech.decode.fusion import WordFusion

    settings = _settings(options, recognizer)
    lm = settings.load_lm()
    assert lm is not None  # _settings has seen to it
    if settings.lm_unit != "word":
        raise typer.BadParameter(
            f"--decoder {options.name.value} takes a language model of words; {settings.lm} is one "
            "of labels"
        )
    given = {"weight": options.lm_weight, "word_score": options.word_score}
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return WordFusion(recognizer.alphabet, lm, unk_score=options.unk_score, **values)
    except (ValueError, DecoderError) as error:
        raise typer.BadParameter(str(error)) from error


def _without_effect(options: DecodingOptions, names: set[str], also: str = "") -> None:
    """Options that would be given for nothing are wrong usage."""
    for name in sorted(names):
        if getattr(options, name) not in (None, []):
            option = "--" + name.replace("hot_words", "hot_word").replace("_", "-")
            raise typer.BadParameter(
                f"{option} has no effect with --decoder {options.name.value}{also}"
            )


def _settings(options: DecodingOptions, recognizer: "Recognizer") -> "DecoderSettings":
    """The model's own settings, with the options in their places."""
    from ctcspeech.decode.settings import DecoderSettings

    settings = recognizer.settings or DecoderSettings()
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            "lm",
            "lm_weight",
            "word_score",
            "unk_score",
            "beam_size",
            "beam_threshold",
            "neural_lm",
            "neural_weight",
        )
        if getattr(options, name) is not None
    }
    if options.lm_unit is not None:
        changes["lm_unit"] = options.lm_unit.value
    if options.unk_score is not None:
        changes["open_vocabulary"] = True
    settings = replace(settings, **changes)
    if settings.neural_lm is None and options.neural_weight is not None:
        raise typer.BadParameter("--neural-weight has no effect without --neural-lm")
    if settings.lm is None:
        for name in ("lm_unit", "lm_weight", "unk_score"):
            if name in changes:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(
                    f"{option} has no effect without a language model; give one with --lm"
                )
    return settings


def _hot_words(texts: list[str], recognizer: "Recognizer") -> dict[str, float]:
    """Words or phrases and their weights. One that the alphabet cannot write is wrong usage."""
    from ctcspeech.decode.beam_arguments import HOT_WORD_WEIGHT
    from ctcspeech.errors import AlphabetError

    weights: dict[str, float] = {}
    for text in texts:
        phrase, colon, number = text.rpartition(":")
        if not colon:
            phrase, number = text, str(HOT_WORD_WEIGHT)
        try:
            weight = float(number)
        except ValueError:
            raise typer.BadParameter(
                f"--hot-word {text}: after the colon there must be a number, got {number!r}"
            ) from None
        if not phrase.split():
            raise typer.BadParameter(f"--hot-word {text}: there is no word")
        if weight == 0:
            raise typer.BadParameter(f"--hot-word {text}: a weight of 0 has no effect")
        try:
            if recognizer.normalizer is not None:
                phrase = recognizer.normalizer(phrase)
            recognizer.alphabet.encode(phrase)
        except AlphabetError as error:
            raise typer.BadParameter(
                f"--hot-word {text} would have no effect, the model cannot write it: {error}"
            ) from error
        weights[" ".join(phrase.split())] = weight
    return weights
