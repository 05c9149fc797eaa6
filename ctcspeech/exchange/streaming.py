"""Forward-only models as ONNX files for streams: state in, state out.

    emitter = StreamingOnnx("digits/streaming.onnx")

Format, version 1. Inputs: `samples` float32 (N, S), the next samples of N streams; `place` int64
(N), frames of features that each has taken; `length` int64 (N), its frames in all, 2^40 until it
has ended; `state_0` and on, float32 (N, ...), zeros at the beginning. Outputs: `log_probs`
float32 (N, steps, C), `delay` frames late, and `next_place`, `next_state_0`, ... for the next
step. S is (steps * subsampling - 1) * shift + window samples; from a step to the next the samples
move on by steps * subsampling * shift. After a stream's end zeros take the place of samples. The
metadata `ctcspeech_streaming` is JSON with version, alphabet, features, steps, subsampling,
delay, lookahead, hidden_end and the rules by which the texts were written. A stream's samples are
followed by `features.tail_ms` of zeros; T frames of features have ceil((T - hidden_end) /
subsampling) frames of emissions. Written by `exchange.streaming_export`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ctcspeech.audio.feature_config import FeatureConfig, num_frames
from ctcspeech.emissions import Emitter
from ctcspeech.errors import CheckpointError
from ctcspeech.text.alphabet import Alphabet

__all__ = [
    "FILE",
    "KEY",
    "UNKNOWN_LENGTH",
    "VERSION",
    "StreamingOnnx",
    "emission_frames",
    "streaming_file",
]

FILE = "streaming.onnx"
KEY, VERSION = "ctcspeech_streaming", 1
UNKNOWN_LENGTH = 1 << 40  # frames; of a stream that has not ended


def streaming_file(path: str | os.PathLike[str]) -> Path | None:
    """The file that `StreamingOnnx` takes, told by its metadata: the path itself, or the
    `streaming.onnx` of a folder that has no `model.onnx`; else None."""
    path = Path(path)
    if path.is_dir() and not (path / "model.onnx").exists():
        path = path / FILE
    if path.suffix != ".onnx" or not path.is_file():
        return None
    with open(path, "rb") as file:  # the metadata come last
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return path if KEY.encode() in file.read() else None


def _read_alphabet(values: Any) -> Alphabet:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "alphabet.json"
        file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return Alphabet.load(file)


def emission_frames(frames: int, subsampling: int, hidden_end: int) -> int:
    """Of emissions, for a stream of so many frames of features: `AcousticModel.output_lengths`."""
    return max(0, -(-(frames - hidden_end) // subsampling))


class StreamingOnnx(Emitter):
    """A file of `export_streaming`, run by onnxruntime.

    steps, subsampling, delay, config, normalizer: as in the file. state_shapes: of one stream's
    state.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        """Raises CheckpointError for a file that is none of these, or of another version."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
            if about["version"] != VERSION:
                raise CheckpointError(
                    f"{path} has format version {about['version']!r}, this release reads version "
                    f"{VERSION}: export it anew"
                )
            self.alphabet = _read_alphabet(about["alphabet"])
            self.config = FeatureConfig.model_validate(about["features"])
            self.steps, self.delay = int(about["steps"]), int(about["delay"])
            self.subsampling, self.lookahead = int(about["subsampling"]), int(about["lookahead"])
            self.hidden_end = int(about.get("hidden_end", 0))
            self.normalizer: dict[str, Any] | None = about.get("normalizer")
        except CheckpointError:
            raise
        except Exception as error:  # onnxruntime has an exception for each kind of damage
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{path} is no model for streams, or damaged: {reason}"
            ) from error
        self.sample_rate = self.config.sample_rate
        self.frame_inputs = self.subsampling * self.config.shift
        self.lookahead_ms = self.lookahead * self.config.shift_ms
        self.state_shapes = [tuple(item.shape[1:]) for item in self.session.get_inputs()[3:]]
        self._outputs = [item.name for item in self.session.get_outputs()]

    def states(self, count: int) -> list[np.ndarray]:
        """Of `count` streams at their beginnings: place, length, and the model's."""
        return [
            np.zeros(count, np.int64),
            np.full(count, UNKNOWN_LENGTH, np.int64),
            *(np.zeros((count, *shape), np.float32) for shape in self.state_shapes),
        ]

    def step(
        self, samples: np.ndarray, states: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """samples (N, S) and states: log-probabilities (N, steps, C) and the new states."""
        names = ["samples", "place", "length", *(f"state_{i}" for i in range(len(states) - 2))]
        feed = dict(zip(names, [samples, *states], strict=True))
        log_probs, place, *new = self.session.run(self._outputs, feed)
        return log_probs, [place, states[1], *new]

    def compute(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [self._whole(np.asarray(item, np.float32)) for item in inputs]

    def _whole(self, samples: np.ndarray) -> np.ndarray:
        config = self.config
        frames = num_frames(config.with_tail(len(samples)), config)
        wanted = emission_frames(frames, self.subsampling, self.hidden_end)
        if not wanted:
            return np.zeros((0, len(self.alphabet)), np.float32)
        stride = self.steps * self.frame_inputs
        size = (self.steps * self.subsampling - 1) * config.shift + config.window
        runs = -(-(wanted + self.delay) // self.steps)
        padded = np.zeros((runs - 1) * stride + size, np.float32)
        padded[: min(len(samples), len(padded))] = samples[: len(padded)]
        states = self.states(1)
        states[1][0] = frames
        parts = []
        for i in range(runs):
            log_probs, states = self.step(padded[None, i * stride : i * stride + size], states)
            parts.append(log_probs[0])
        return np.concatenate(parts)[self.delay : self.delay + wanted]
