"""CTC speech recognition: the loss, the beam decoder, the aligner, and the toolkit around them.

The public names are imported from their modules when they are first used, so that
`import ctcspeech` is quick and needs neither torch nor an audio library.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

if find_spec(f"{__name__}._core") is None:  # the source folder, which Python looks into first
    raise ImportError(
        f"ctcspeech's native core is not built in {__path__[0]}: run from another folder if the "
        "package is installed, or build the core here with pip install -e ."
    )

# The public name, and the module it stands in.
_PUBLIC = {
    "AlignedText": "align.known_text",
    "Alignment": "align.forced",
    "Alphabet": "text.alphabet",
    "BeamDecoder": "decode.beam",
    "CTCLoss": "ctc.loss",
    "Checkpoint": "model.checkpoint",
    "CtcSpeechError": "errors",
    "Emissions": "emissions",
    "Emitter": "emissions",
    "DecoderSettings": "decode.settings",
    "ErrorCounts": "text.error_rates",
    "FeatureConfig": "audio.feature_config",
    "FeatureExtractor": "audio.features",
    "FeatureStatistics": "audio.features",
    "GreedyDecoder": "decode.greedy",
    "Hypothesis": "decode.hypothesis",
    "LanguageModel": "lm.model",
    "Recognizer": "recognize.recognizer",
    "RunConfig": "train.config",
    "SpeechDataset": "data.dataset",
    "StreamingFeatures": "audio.features",
    "StreamingRecognizer": "live.recognizer",
    "Transcript": "recognize.transcript",
    "Utterance": "data.manifest",
    "Word": "decode.hypothesis",
    "align_text": "align.known_text",
    "build_model": "model.deepspeech",
    "character_error_rate": "text.error_rates",
    "character_errors": "text.error_rates",
    "ctc_loss": "ctc.loss",
    "forced_align": "align.forced",
    "load_checkpoint": "model.checkpoint",
    "load_config": "train.config",
    "read_manifest": "data.manifest",
    "save_checkpoint": "model.checkpoint",
    "split_text": "align.split",
    "word_error_rate": "text.error_rates",
    "word_errors": "text.error_rates",
    "write_manifest": "data.manifest",
}

__all__ = ["__version__", "cuda_built", *sorted(_PUBLIC)]


def cuda_built() -> bool:
    """Whether this build of the native core holds CUDA kernels (not whether a GPU is present)."""
    from ctcspeech._core import cuda_built as built

    return built()


def _import(module: str, name: str) -> Any:
    """The module of a public name. Raises MissingPackageError for a package that is an extra."""
    try:
        return import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        from ctcspeech.extras import missing

        raise missing(error, f"{__name__}.{name}") or error from error


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(_import(_PUBLIC[name], name), name)
    try:
        return import_module(f"{__name__}.{name}")  # a submodule: ctcspeech.ctc
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
