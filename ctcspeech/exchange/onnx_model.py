"""CTC models in ONNX files, computed by onnxruntime.

    emitter = OnnxEmitter.load("exported/")              # a folder, or the model.onnx in it
    (log_probs,) = emitter.compute([samples])

What a file is, is told by its metadata, the names and shapes of its inputs and outputs, and what
lies beside it; see `onnx_family`. What cannot be told stands in `ctcspeech.json` beside it:

    {"family": "nemo", "sample_rate": 16000, "frame_inputs": 640, "blank": 0, "tokens": "my.txt"}
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.emissions import Emitter
from ctcspeech.errors import ModelError
from ctcspeech.exchange.onnx_family import Contract, read_contract

__all__ = ["OnnxEmitter", "find_onnx", "open_session"]

_PROBE_SECONDS = 2.0
_BATCH_SECONDS = 60.0  # of audio, padding included: what is computed at once then fits a cache


class OnnxEmitter(Emitter):
    """A model of any of the families of `onnx_family`. Each call uses one thread."""

    def __init__(self, session: Any, contract: Contract) -> None:
        self._session = session
        self.contract = contract
        self.alphabet = contract.alphabet
        self.sample_rate = contract.sample_rate
        self.frame_inputs = contract.frame_inputs
        self.num_features = contract.num_features
        self._input_rate = contract.input_rate
        self.padding_changes_output = not contract.batches
        self.longest_input = contract.longest_input

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OnnxEmitter":
        """Of a file or its folder. Raises ModelError saying what is wrong or missing."""
        file = find_onnx(Path(path))
        session = open_session(file)
        emitter = cls(session, read_contract(session, file))
        if not emitter.contract.own:
            emitter._probe()
        return emitter

    @property
    def input_rate(self) -> float:
        return self._input_rate

    def compute(self, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        contract = self.contract
        empty: npt.NDArray[np.float32] = np.zeros((0, len(self.alphabet)), np.float32)
        results = [empty] * len(inputs)
        prepared = [contract.prepare(item) for item in inputs]
        chosen = [i for i, item in enumerate(prepared) if len(item) >= contract.shortest]
        if not chosen:
            return results
        for group in self._groups(chosen, [len(item) for item in prepared]):
            found = self._run([prepared[i] for i in group])
            for i, item in zip(group, found, strict=True):
                results[i] = item
        return results

    def _groups(self, chosen: list[int], lengths: list[int]) -> list[list[int]]:
        """What goes through the graph together: neighbours, no more than _BATCH_SECONDS of them."""
        if not self.contract.batches:
            return [[i] for i in chosen]
        rows_a_second = self.sample_rate * self.contract.subsampling / self.frame_inputs
        if self.contract.layout == "NS":
            rows_a_second = self.sample_rate
        groups: list[list[int]] = []
        longest = 0
        for i in chosen:
            longest = max(longest, lengths[i])
            if not groups or (len(groups[-1]) + 1) * longest > _BATCH_SECONDS * rows_a_second:
                groups.append([])
                longest = lengths[i]
            groups[-1].append(i)
        return groups

    def _run(self, items: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """One batch through the graph."""
        contract = self.contract
        lengths = np.array([len(item) for item in items], np.int64)
        padded = np.zeros((len(items), int(lengths.max()), *items[0].shape[1:]), np.float32)
        for row, item in zip(padded, items, strict=True):
            row[: len(item)] = item
        try:
            outputs = self._session.run(contract.outputs, contract.feed(padded, lengths))
        except Exception as error:  # onnxruntime's exceptions have no base but this
            raise ModelError(f"{contract.name}: the model failed: {_first_line(error)}") from error
        scores = np.asarray(outputs[0], np.float32)
        if scores.ndim != 3 or scores.shape[0] != len(items):
            raise ModelError(
                f"{contract.name}: emissions must be ({len(items)}, frames, labels), got "
                f"{scores.shape}"
            )
        if scores.shape[2] != len(self.alphabet):
            raise ModelError(
                f"{contract.name}: the model writes {scores.shape[2]} labels, its list of labels "
                f"has {len(self.alphabet)}"
            )
        counts = np.full(len(items), scores.shape[1])
        if len(outputs) > 1:
            counts = np.minimum(np.asarray(outputs[1]).reshape(-1), counts)
        elif len(items) > 1:
            counts = np.minimum(-(-lengths // contract.subsampling), counts)
        rows = [item[:count] for item, count in zip(scores, counts.tolist(), strict=True)]
        return [row.copy() if contract.own else log_softmax(row) for row in rows]

    def _probe(self) -> None:
        """Checks frame shift and labels against what comes out for two seconds of noise."""
        generator = np.random.default_rng(0)
        count = int(_PROBE_SECONDS * self.input_rate)
        shape = (count,) if self.num_features is None else (count, self.num_features)
        (scores,) = self.compute([generator.normal(0, 0.05, shape).astype(np.float32)])
        if not np.isfinite(scores).all():
            raise ModelError(f"{self.contract.name}: the model's emissions are NaN or infinite")
        wanted = count / self.frame_inputs
        # Convolutions without padding lose frames at the ends, never a tenth of them.
        if abs(len(scores) - wanted) > max(8, 0.1 * wanted):
            found = 1000 * _PROBE_SECONDS / max(len(scores), 1)
            raise ModelError(
                f"{self.contract.name}: a frame is said to be {self.frame_shift_ms:g} ms long, but "
                f"the model gives {len(scores)} frames for {_PROBE_SECONDS:g} s (about {found:.1f} "
                "ms); set frame_inputs in ctcspeech.json"
            )


def log_softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of logits or of log-probabilities, which it leaves as they are."""
    scores = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def find_onnx(path: Path) -> Path:
    """The model's file: itself, or in its folder model.onnx or the only one."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"there is no model {path}: no such file or folder")
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    found = sorted(path.glob("*.onnx"))
    whole = [file for file in found if ".int8" not in file.name and ".fp16" not in file.name]
    chosen = whole or found
    if len(chosen) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ModelError(f"{path} must hold model.onnx or one .onnx file, found {names}")
    return chosen[0]


def open_session(file: Path) -> Any:
    """An onnxruntime session on one thread. Raises ModelError for what is no model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # it would keep the largest batch's memory
    # 8-bit weights become float32 once, not each time they are used.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = _first_line(error)
        if "opset" in text.lower() or "ir version" in text.lower() or "IR_VERSION" in text:
            text += f"; onnxruntime {onnxruntime.__version__} is too old for it: update onnxruntime"
        raise ModelError(f"{file} cannot be used as an ONNX model: {text}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:500]
