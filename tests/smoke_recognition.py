"""Recognition by hand, for an installation with the base dependencies, and onnx to write a model.

python tests/smoke_recognition.py

The model hears three tones, of 500, 1500 and 2500 Hz, as "a", "b" and the space, and else blank: it
is transcribed, aligned, scored, and decoded with a language model by the verbs of the command line.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import soundfile

from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.exchange.graph import Graph

RATE, FRAME = 16000, 320
LABELS = {"<s>": 0, "▁": 2500, "a": 500, "b": 1500}  # a label and the hertz of its tone
SILENT = 0.1  # seconds before, between and after tones, which last as long


def main() -> None:
    for name in ("torch", "safetensors", "tensorboard", "matplotlib", "transformers"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed: it is an extra's"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model.onnx")
        lines = [f"{label} {number}\n" for number, label in enumerate(LABELS)]
        (folder / "tokens.txt").write_text("".join(lines))
        soundfile.write(folder / "a.wav", tones("ab▁a"), RATE)
        write_manifest(folder / "m.jsonl", [Utterance(folder / "a.wav", 0.9, "ab a")])
        check(folder)
    print("transcribed, aligned and scored without torch: good")


def check(folder: Path) -> None:
    recording = folder / "a.wav"
    assert ctcspeech("transcribe", folder, recording) == "ab a\n"
    words = ctcspeech("align", folder, recording, "--text-string", "ab a", "--format", "tsv")
    rows = [line.split("\t") for line in words.splitlines()]
    assert [word for row in rows for word in row if word in ("ab", "a")] == ["ab", "a"], words
    assert "0 errors in 2" in ctcspeech("evaluate", folder, folder / "m.jsonl").replace("  ", " ")
    (folder / "text.txt").write_text("ab a\n" * 9 + "a ab ab\n" * 5)
    fallback = ("--discount-fallback", "0.5,1,1.5")
    lm = folder / "lm.bin"
    ctcspeech("lm", "build", folder / "text.txt", "--order", 2, *fallback, "-o", lm)
    assert ctcspeech("transcribe", folder, recording, "--lm", lm) == "ab a\n"


def ctcspeech(*arguments: object) -> str:
    """What the command writes to standard output."""
    command = [sys.executable, "-m", "ctcspeech", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def write_model(path: Path) -> None:
    """The power of each tone in each 20 ms against a constant for blank, in omnilingual's contract:
    (N, S) samples of deviation 1 to (N, T, 4) logits."""
    time = np.arange(FRAME) / RATE
    kernel = np.zeros((2 * len(LABELS), 1, FRAME), np.float32)
    for number, hertz in enumerate(LABELS.values()):
        if hertz:
            kernel[2 * number, 0] = np.cos(2 * np.pi * hertz * time) * 2 / FRAME
            kernel[2 * number + 1, 0] = np.sin(2 * np.pi * hertz * time) * 2 / FRAME
    graph = Graph()
    rows = graph.op("Unsqueeze", "x", graph.integers(1))
    waves = graph.op("Conv", rows, graph.constant(kernel), strides=[FRAME])
    waves = graph.op("Transpose", graph.op("Mul", waves, waves), perm=[0, 2, 1])
    together = np.kron(np.eye(len(LABELS)), [[10.0], [10.0]]).astype(np.float32)
    scores = graph.op("MatMul", waves, graph.constant(together))
    blank = np.array([6, 0, 0, 0], np.float32)
    graph.rename(graph.op("Add", scores, graph.constant(blank)), "logits")
    outputs = [("logits", np.float32, ["N", "T", len(LABELS)])]
    onnx.save(graph.model([("x", np.float32, ["N", "S"])], outputs), path)


def tones(labels: str) -> np.ndarray:
    silence = np.zeros(round(SILENT * RATE))
    time = np.arange(len(silence)) / RATE
    parts = [silence]
    for label in labels:
        parts += [0.3 * np.sin(2 * np.pi * LABELS[label] * time), silence]
    return np.concatenate(parts)


if __name__ == "__main__":
    sys.exit(main())
