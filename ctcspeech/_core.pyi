"""The native core of ctcspeech, for mypy. Written by tests/core_stub.py."""

import enum
from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy
from numpy.typing import NDArray

class Array(Protocol):
    """An array of NumPy, torch or whatever else speaks DLPack, in host memory."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

class AlignStatus(enum.IntEnum):
    """Of align/align.h."""

    OK = 0

    INFEASIBLE = 1

    NOT_FINITE = 2

    NO_MEMORY = 3

def align_batch(
    emissions: Array,
    labels: Array,
    offsets: Array,
    lengths: Array,
    blank: int,
    band: int,
    wildcard_score: float,
    threads: int,
    isa: int,
    states: Array,
    log_probs: Array,
    scores: Array,
    status: Array,
) -> None: ...

class BeamOptions:
    beam_size: int
    beam_threshold: float
    token_min_logp: float
    strict_minimum: bool
    open_vocabulary: bool
    unknown_at_once: float
    recombine: bool
    end_of_sentence: bool
    n_best: int
    word_times: bool
    lm_weight: float
    word_score: float
    unk_score: float
    neural_weight: float
    def __init__(self) -> None: ...

class BeamConfig:
    tokens: Sequence[tuple[bytes, bool, bool, bool]]
    blank: int
    options: BeamOptions
    custom_lm: object
    lm_over_tokens: bool
    token_words: Sequence[str]
    lexicon_from_lm: bool
    lexicon: Sequence[str]
    hot_words: Sequence[tuple[Sequence[str], float]]
    neural_labels: Sequence[int]
    def __init__(self) -> None: ...

class BeamDecoder:
    def __init__(self, config: BeamConfig, ngram: NgramModel | None, neural: Any) -> None: ...
    @property
    def lexicon_size(self) -> int: ...
    @property
    def words_skipped(self) -> int: ...
    def ctc_score(self, emissions: Array, tokens: Sequence[int]) -> Any: ...
    def best_path(self, emissions: Array, tokens: Sequence[int]) -> tuple[Any, ...]: ...
    def decode(
        self, emissions: Sequence[Array], contexts: Sequence[Sequence[str]], threads: int
    ) -> list[Any]: ...

class BeamStream:
    def __init__(self, decoder: BeamDecoder, context: Sequence[str]) -> None: ...
    def accept(self, emissions: Array) -> Any: ...
    def partial(self) -> tuple[Any, ...]: ...
    def finish(self) -> list[Any]: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def bytes(self) -> int: ...

def available_isas() -> list[str]:
    """Instruction sets that this build holds and this machine can run."""

def cuda_built() -> bool: ...
def gru_forward(
    gates: Array,
    weight: Array,
    bias: Array,
    sizes: Array,
    hidden: Array,
    candidate: Array | None,
    threads: int,
    isa: int = -1,
) -> None: ...
def gru_backward(
    gates: Array,
    weight: Array,
    sizes: Array,
    hidden: Array,
    candidate: Array,
    gradient: Array,
    grad_gates: Array,
    grad_candidate: Array,
    before: Array,
    threads: int,
    isa: int = -1,
) -> None: ...

class EstimateError(Exception):
    pass

class OrderStatistics:
    @property
    def types(self) -> int: ...
    @property
    def kept(self) -> int: ...
    @property
    def with_count(self) -> list[int]: ...
    @property
    def discounts(self) -> list[float]: ...

class EstimateOptions:
    def __init__(self) -> None: ...
    @property
    def order(self) -> int: ...
    @order.setter
    def order(self, arg: int, /) -> None: ...
    @property
    def prune(self) -> list[int]: ...
    @prune.setter
    def prune(self, arg: Sequence[int], /) -> None: ...
    @property
    def has_fallback(self) -> bool: ...
    @has_fallback.setter
    def has_fallback(self, arg: bool, /) -> None: ...
    @property
    def fallback(self) -> list[float]: ...
    @fallback.setter
    def fallback(self, arg: Sequence[float], /) -> None: ...
    @property
    def skip_symbols(self) -> bool: ...
    @skip_symbols.setter
    def skip_symbols(self, arg: bool, /) -> None: ...
    @property
    def vocabulary_size(self) -> int: ...
    @vocabulary_size.setter
    def vocabulary_size(self, arg: int, /) -> None: ...
    @property
    def vocabulary(self) -> list[str]: ...
    @vocabulary.setter
    def vocabulary(self, arg: Sequence[str], /) -> None: ...
    @property
    def has_vocabulary(self) -> bool: ...
    @has_vocabulary.setter
    def has_vocabulary(self, arg: bool, /) -> None: ...
    @property
    def memory(self) -> int: ...
    @memory.setter
    def memory(self, arg: int, /) -> None: ...
    @property
    def temp_folder(self) -> str: ...
    @temp_folder.setter
    def temp_folder(self, arg: str, /) -> None: ...

class Estimator:
    def __init__(self, arg: EstimateOptions, /) -> None: ...
    def add_text(self, arg: bytes, /) -> None: ...
    def finish_text(self) -> None: ...
    def adjust(self) -> None: ...
    def normalize(self) -> None: ...
    def write_arpa(self, arg: str, /) -> None: ...
    def cancel(self) -> None: ...
    @property
    def statistics(self) -> list[OrderStatistics]: ...
    @property
    def sentences(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def bytes_on_disk(self) -> int: ...
    @property
    def records_done(self) -> int: ...
    @property
    def records_total(self) -> int: ...

class NgramTable:
    @staticmethod
    def read_arpa(file: object, name: str, unknown: float) -> NgramTable: ...
    @staticmethod
    def from_model(model: NgramModel) -> NgramTable: ...
    @staticmethod
    def mix(first: NgramTable, second: NgramTable, first_weight: float) -> NgramTable: ...
    def build(self, kind: str, probability_bits: int, backoff_bits: int) -> NgramModel: ...
    def write_arpa(self, arg: object, /) -> None: ...

class NgramState:
    def __eq__(self, arg: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getstate__(self) -> tuple[list[int], list[float]]: ...
    def __setstate__(self, arg: tuple[Sequence[int], Sequence[float]], /) -> None: ...
    @property
    def words(self) -> list[int]: ...
    @property
    def backoff(self) -> list[float]: ...

class NgramModel:
    @staticmethod
    def load(path: str, unknown: float) -> NgramModel: ...
    @staticmethod
    def from_bytes(bytes: bytes, name: str) -> NgramModel: ...
    @property
    def fingerprint(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def counts(self) -> list[int]: ...
    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @overload
    def index(self, word: str) -> int: ...
    @overload
    def index(self, arg: bytes, /) -> int: ...
    def word(self, arg: int, /) -> bytes: ...
    def begin_state(self) -> NgramState: ...
    def null_state(self) -> NgramState: ...
    def score_word(self, arg0: NgramState, arg1: int, /) -> tuple[float, NgramState]: ...
    def full_score_word(self, arg0: NgramState, arg1: int, /) -> tuple[float, int, NgramState]: ...
    @overload
    def full_scores(
        self, arg0: bytes, arg1: bool, arg2: bool, /
    ) -> list[tuple[float, int, bool]]: ...
    @overload
    def full_scores(
        self, arg0: list, arg1: bool, arg2: bool, /
    ) -> list[tuple[float, int, bool]]: ...
    @overload
    def score(self, arg0: bytes, arg1: bool, arg2: bool, /) -> float: ...
    @overload
    def score(self, arg0: list, arg1: bool, arg2: bool, /) -> float: ...
    def summarize(
        self, lines: Sequence[bytes], bos: bool, eos: bool
    ) -> tuple[int, int, float, float, list[int]]: ...
    def info(self) -> dict[str, Any]: ...
    def verify(self) -> None: ...
    def write(self, write: object) -> None: ...

class NeuralModel:
    def __init__(
        self, embedding: Array, layers: Sequence[Array], output: Array, output_bias: Array
    ) -> None: ...
    @property
    def num_labels(self) -> int: ...
    def score(self, labels: Array) -> Any: ...
    def step(self, state: object | None, label: int) -> tuple[Any, ...]: ...
    def step_many(self, states: Array, labels: Array) -> tuple[Any, ...]: ...

class CtcStatus(enum.IntEnum):
    """ctcspeech_status of ctc/ctc.h."""

    OK = 0

    BAD_ARGUMENT = 1

    BAD_BLANK = 2

    BAD_INPUT_LENGTH = 3

    BAD_TARGET_LENGTH = 4

    BAD_TARGET_SUM = 5

    BAD_LABEL = 6

    LABEL_IS_BLANK = 7

    SMALL_WORKSPACE = 8

    NO_ISA = 9

    NO_DEVICE = 10

    DEVICE_ERROR = 11

class CtcInput:
    """What to compute from: addresses and sizes."""

    def __init__(
        self,
        logits: int,
        type: int,
        frames: int,
        batch: int,
        classes: int,
        frame_stride: int,
        batch_stride: int,
        targets: int,
        input_lengths: int,
        target_lengths: int,
        index_type: int,
        target_stride: int,
        max_target_length: int,
        blank: int,
        allow_wildcard: bool,
        wildcard_penalty: float,
        delay_penalty: float,
    ) -> None: ...

class CtcOutput:
    """Where to write: addresses, 0 for none."""

    def __init__(
        self,
        losses: int,
        reduced: int,
        gradient: int,
        gradient_frame_stride: int,
        gradient_batch_stride: int,
        reduction: int,
        zero_infinity: bool,
        arithmetic: int = 0,
    ) -> None: ...

def large_block(size: int) -> NDArray[numpy.uint8]: ...
def ctc_loss(
    input: CtcInput, output: CtcOutput, threads: int, isa: int, arithmetic: int, keep_labels: bool
) -> bytes | tuple[CtcStatus, int, int] | None:
    """
    With keep_labels a copy of labels and lengths; on an error the status, item, position.
    """

def ctc_posteriors(
    input: CtcInput, gamma: int, stride_n: int, stride_t: int, threads: int
) -> tuple[CtcStatus, int, int] | None: ...
def ctc_check(input: CtcInput) -> tuple[CtcStatus, int, int] | None:
    """The first wrong length or label, all of them on the host."""

def cuda_architectures() -> str: ...
def ctc_on_host_loss(
    input: CtcInput, output: CtcOutput, longest: int, order: int, shared_limit: int
) -> int: ...
def ctc_on_host_scale(
    input: CtcInput, output: CtcOutput, factors: int, single: bool, order: int
) -> None: ...

# Only where the build holds CUDA kernels (cuda_built):

def ctc_cuda_workspace(input: CtcInput, output: CtcOutput, device: int, longest: int) -> int: ...
def ctc_cuda_loss(
    input: CtcInput,
    output: CtcOutput,
    device: int,
    longest: int,
    stream: int,
    workspace: int,
    size: int,
) -> None: ...
def ctc_cuda_scale(
    input: CtcInput, output: CtcOutput, factors: int, single: bool, device: int, stream: int
) -> None: ...
