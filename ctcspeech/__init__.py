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
    "AlignedText": "align_text",
    "Alignment": "align",
    "Alphabet": "alphabet",
    "BeamDecoder": "decoder",
    "CTCLoss": "ctc",
    "Checkpoint": "checkpoint",
    "CtcSpeechError": "errors",
    "Emissions": "emissions",
    "DecoderSettings": "decoder_settings",
    "ErrorCounts": "metrics",
    "FeatureConfig": "features",
    "FeatureExtractor": "features",
    "FeatureStatistics": "features",
    "GreedyDecoder": "greedy",
    "Hypothesis": "hypothesis",
    "LanguageModel": "language_model",
    "Recognizer": "transcribe",
    "RunConfig": "config",
    "SpeechDataset": "dataset",
    "StreamingFeatures": "features",
    "Transcript": "transcribe",
    "Utterance": "manifest",
    "Word": "hypothesis",
    "align_text": "align_text",
    "build_model": "model",
    "character_error_rate": "metrics",
    "character_errors": "metrics",
    "ctc_loss": "ctc",
    "forced_align": "align",
    "load_checkpoint": "checkpoint",
    "load_config": "config",
    "read_manifest": "manifest",
    "save_checkpoint": "checkpoint",
    "split_text": "align_split",
    "word_error_rate": "metrics",
    "word_errors": "metrics",
    "write_manifest": "manifest",
}

__all__ = ["__version__", "cuda_built", *sorted(_PUBLIC)]


def cuda_built() -> bool:
    """Whether this build of the native core holds CUDA kernels (not whether a GPU is present)."""
    from ctcspeech._core import cuda_built as built

    return built()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    try:
        return import_module(f"{__name__}.{name}")  # a submodule: ctcspeech.ctc
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
