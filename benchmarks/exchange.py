"""python benchmarks/exchange.py RUN MANIFEST [--count 250]

The same exported file in ctcspeech, sherpa-onnx and onnx-asr: on the recordings of a manifest the
greedy texts word by word, the processor time of each on one thread (load of the model left out),
and the sizes of float and int8. RUN must have been trained with features.preset "nemo"
(recipes/grid/portable.toml). Results: benchmarks/results/exchange.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_asr
import onnxruntime
import sherpa_onnx

from ctcspeech import Recognizer, audio, read_manifest
from ctcspeech.exchange.export import export
from ctcspeech.text.error_rates import word_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("run")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--count", type=int, default=250)
    arguments = parser.parse_args()
    utterances = read_manifest(arguments.manifest)[: arguments.count]
    samples = [audio.load(item.audio_filepath, 16000)[0] for item in utterances]
    seconds = sum(map(len, samples)) / 16000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export(arguments.run, folder, layout="nemo", int8=True, samples=samples[:32])
        print(f"{len(samples)} recordings, {seconds:.0f} s")
        for file, difference in exported.difference.items():
            size = (folder / file).stat().st_size
            print(f"\n{file}: {size:,} bytes, differs from torch by {difference:.2g}")
            compare(folder, file, samples, seconds)


def compare(folder: Path, file: str, samples: list[np.ndarray], seconds: float) -> None:
    texts = {}
    for name, read in readers(folder, file).items():
        started = time.process_time()
        texts[name] = [read(item) for item in samples]
        spent = time.process_time() - started
        print(f"  {name}: processor time {spent / seconds:.5f} of the audio's")
    ours = texts.pop("ctcspeech")
    words = sum(len(text.split()) for text in ours)
    for name, theirs in texts.items():
        pairs = zip(ours, theirs, strict=True)
        wrong = sum(word_errors(mine, text.strip()).errors for mine, text in pairs)
        print(f"  {name}: {wrong} of {words} words differ ({100 * wrong / words:.2f}%)")


def readers(folder: Path, file: str) -> dict[str, Callable[[np.ndarray], str]]:
    """From samples to greedy text, each on one thread."""
    recognizer = Recognizer.load(folder / file, threads=1)
    greedy = recognizer.greedy_decoder()
    sherpa = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        str(folder / file), tokens=str(folder / "tokens.txt"), num_threads=1
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    quantization = "int8" if "int8" in file else None
    other = onnx_asr.load_model(
        "nemo-conformer-ctc", folder, quantization=quantization, sess_options=options
    )

    def by_sherpa(item: np.ndarray) -> str:
        stream = sherpa.create_stream()
        stream.accept_waveform(16000, item)
        sherpa.decode_stream(stream)
        return str(stream.result.text)

    def by_us(item: np.ndarray) -> str:
        return greedy.decode(recognizer.emissions([item]))[0][0].text

    return {"ctcspeech": by_us, "sherpa-onnx": by_sherpa, "onnx-asr": other.recognize}


if __name__ == "__main__":
    main()
