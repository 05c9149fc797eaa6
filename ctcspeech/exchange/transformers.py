"""Hugging Face models with a CTC head: wav2vec2, HuBERT, WavLM, MMS, SEW, Data2Vec, ...

emitter = TransformersEmitter.load("my-model/")         # as save_pretrained writes it
emitter = TransformersEmitter.load("mms/", language="fra")   # with this language's adapter

Weights are read from safetensors only, and no code that comes with a model is run.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import from_transformers, transformers_labels
from ctcspeech.errors import ModelError
from ctcspeech.exchange.labels import alphabet_of
from ctcspeech.exchange.torch_emitter import TorchEmitter
from ctcspeech.extras import require

__all__ = ["TransformersEmitter"]

_LOCAL = {"local_files_only": True}


class TransformersEmitter(TorchEmitter):
    """A model and its processor."""

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self.model, self.processor = model.eval().to(device), processor
        self.device = device
        tokenizer = processor.tokenizer
        size = model.config.vocab_size
        if len(tokenizer) > size:
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} labels, but the model writes {size}"
            )
        self.alphabet = alphabet_of(*transformers_labels(model, processor))
        self.sample_rate = int(processor.feature_extractor.sampling_rate)
        ratio = getattr(model.config, "inputs_to_logits_ratio", None)
        if ratio is None:
            raise ModelError(
                f"a model of type {model.config.model_type} does not tell the length of its frames "
                "(inputs_to_logits_ratio): export it to ONNX and describe it in ctcspeech.json"
            )
        self.frame_inputs = int(ratio)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], device: str = "cpu", language: str | None = None
    ) -> "TransformersEmitter":
        """Of a folder as `save_pretrained` writes it. Raises ModelError.

        language: of MMS's, each of which has an adapter and labels; by default the model's own.
        """
        folder = Path(folder)
        transformers = require("transformers", "a Hugging Face model")
        require("torch", "a Hugging Face model")
        if not list(folder.glob("*.safetensors")):
            raise ModelError(
                f"{folder} has no .safetensors file: weights are not read from pickles "
                "(pytorch_model.bin), which can run any code; convert them with save_pretrained"
            )
        if language is not None:
            _check_adapter(folder, language)
        quiet = transformers.utils.logging
        verbosity = quiet.get_verbosity()
        quiet.set_verbosity_error()
        options = {**_LOCAL, "trust_remote_code": False}
        try:
            model = transformers.AutoModelForCTC.from_pretrained(
                folder, use_safetensors=True, **options
            )
            processor = transformers.AutoProcessor.from_pretrained(folder, **options)
            if language is not None:
                processor.tokenizer.set_target_lang(language)
                model.load_adapter(language, use_safetensors=True, **_LOCAL)
        except Exception as error:  # whatever a foreign configuration provokes
            raise ModelError(
                f"{folder} cannot be used as a CTC model of transformers: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
            ) from error
        finally:
            quiet.set_verbosity(verbosity)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "feature_extractor"):
            raise ModelError(
                f"{folder} lacks its tokenizer or feature extractor (vocab.json, "
                "tokenizer_config.json, preprocessor_config.json)"
            )
        return cls(model, processor, device)

    def scores(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        return from_transformers(self.model, self.processor, [samples])[0].scores


def _check_adapter(folder: Path, language: str) -> None:
    """transformers would look for a pickle of that name next."""
    if not (folder / f"adapter.{language}.safetensors").is_file():
        names = (file.name.split(".")[1] for file in folder.glob("adapter.*.safetensors"))
        there = ", ".join(sorted(names)) or "none"
        raise ModelError(f"{folder} has no adapter for the language {language!r}; it has {there}")
