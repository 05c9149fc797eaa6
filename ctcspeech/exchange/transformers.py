"""Hugging Face models with a CTC head: wav2vec2, HuBERT, WavLM, MMS, SEW, Data2Vec, ...

emitter = TransformersEmitter.load("my-model/")         # as save_pretrained writes it

Weights are read from safetensors only, and no code that comes with a model is run.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import Emitter, from_transformers
from ctcspeech.errors import ModelError
from ctcspeech.exchange.labels import alphabet_of
from ctcspeech.exchange.onnx_model import log_softmax
from ctcspeech.extras import require

__all__ = ["TransformersEmitter"]

_LONGEST = 30.0  # seconds at once; attention over more takes memory with their square


class TransformersEmitter(Emitter):
    """A model and its processor. Each recording is computed alone, on one thread."""

    padding_changes_output = True
    longest_input = _LONGEST

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self.model, self.processor = model.eval().to(device), processor
        self.device = device
        tokenizer = processor.tokenizer
        size = model.config.vocab_size
        if len(tokenizer) > size:
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} labels, but the model writes {size}"
            )
        labels = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
        separator = getattr(tokenizer, "word_delimiter_token", None)
        labels = [" " if label == separator else label for label in labels]
        self.alphabet = alphabet_of(labels, int(tokenizer.pad_token_id))
        self.sample_rate = int(processor.feature_extractor.sampling_rate)
        ratio = getattr(model.config, "inputs_to_logits_ratio", None)
        if ratio is None:
            raise ModelError(
                f"a model of type {model.config.model_type} does not tell the length of its frames "
                "(inputs_to_logits_ratio): export it to ONNX and describe it in ctcspeech.json"
            )
        self.frame_inputs = int(ratio)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "cpu") -> "TransformersEmitter":
        """Of a folder as `save_pretrained` writes it. Raises ModelError."""
        folder = Path(folder)
        transformers = require("transformers", "a Hugging Face model")
        require("torch", "a Hugging Face model")
        if not list(folder.glob("*.safetensors")):
            raise ModelError(
                f"{folder} has no .safetensors file: weights are not read from pickles "
                "(pytorch_model.bin), which can run any code; convert them with save_pretrained"
            )
        quiet = transformers.utils.logging
        verbosity = quiet.get_verbosity()
        quiet.set_verbosity_error()
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            model = transformers.AutoModelForCTC.from_pretrained(
                folder, use_safetensors=True, **options
            )
            processor = transformers.AutoProcessor.from_pretrained(folder, **options)
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

    @property
    def default_threads(self) -> int:
        return super().default_threads if self.device == "cpu" else 1

    def compute(self, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = []
        for item in inputs:
            if len(item) < 2 * self.frame_inputs:
                results.append(np.zeros((0, len(self.alphabet)), np.float32))
                continue
            (emissions,) = from_transformers(self.model, self.processor, [item])
            results.append(log_softmax(emissions.scores.astype(np.float32)))
        return results
