"""python benchmarks/exchange_runtimes.py RUN MANIFEST [--minutes 10] [--repeats 5] [--batch 16]

The same exported file, float and int8, in ctcspeech, sherpa-onnx and onnx-asr, and its checkpoint
by torch: processor and elapsed time by the audio's length, on one and two threads, of ten minutes
of recordings in batches; greedy decoding, features and all, loading left out. The texts are
compared first; the runtimes take turns. RUN must have been trained with features.preset "nemo"
(recipes/grid/portable.toml). Results: benchmarks/results/exchange.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_asr
import onnxruntime
import sherpa_onnx
from machine import describe

from ctcspeech import Recognizer, audio, read_manifest
from ctcspeech.exchange.export import export
from ctcspeech.text.error_rates import word_errors

Batch = list[np.ndarray]
Reader = Callable[[Batch], list[str]]
RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("run")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    print(describe())
    samples = recordings(arguments.manifest, 60 * arguments.minutes)
    batches = [samples[i : i + arguments.batch] for i in range(0, len(samples), arguments.batch)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(arguments.run, folder, layout="nemo", int8=True, samples=samples[:8])
        for threads in (1, 2):
            compare(arguments.run, folder, batches, threads, arguments.repeats)


def recordings(manifest: Path, seconds: float) -> Batch:
    found: Batch = []
    for item in read_manifest(manifest):
        if sum(map(len, found)) >= seconds * RATE:
            break
        found.append(audio.load(item.audio_filepath, RATE)[0])
    return found


def compare(run: str, folder: Path, batches: list[Batch], threads: int, repeats: int) -> None:
    readers = {"torch, checkpoint": by_us(run, threads)}
    for file in ("model.onnx", "model.int8.onnx"):
        readers[f"ctcspeech, {file}"] = by_us(folder / file, threads)
        readers[f"sherpa-onnx, {file}"] = by_sherpa(folder / file, threads)
        readers[f"onnx-asr, {file}"] = by_onnx_asr(folder / file, threads)
    texts = {name: read_all(reader, batches) for name, reader in readers.items()}
    seconds = sum(len(item) for batch in batches for item in batch) / RATE
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, reader in readers.items():
            processor, elapsed = time.process_time(), time.monotonic()
            read_all(reader, batches)
            times = time.process_time() - processor, time.monotonic() - elapsed
            spent[name].append((times[0] / seconds, times[1] / seconds))
    print(f"\n{seconds:.0f} s, {threads} threads, {repeats} runs in turn")
    for name, values in spent.items():
        processor_times, elapsed_times = zip(*values, strict=True)
        file = name.split(", ")[1]
        ours = texts[f"ctcspeech, {'model.onnx' if file == 'checkpoint' else file}"]
        wrong = sum(
            word_errors(one, other).errors for one, other in zip(ours, texts[name], strict=True)
        )
        print(
            f"  {name}: processor time / audio {statistics.median(processor_times):.5f} "
            f"({min(processor_times):.5f} to {max(processor_times):.5f}), elapsed "
            f"{statistics.median(elapsed_times):.5f}; {wrong} words unlike ours"
        )


def read_all(reader: Reader, batches: list[Batch]) -> list[str]:
    return [text.strip() for batch in batches for text in reader(batch)]


def by_us(model: str | Path, threads: int) -> Reader:
    recognizer = Recognizer.load(model, threads=threads)
    greedy = recognizer.greedy_decoder()
    return lambda batch: [found[0].text for found in greedy.decode(recognizer.emissions(batch))]


def by_sherpa(file: Path, threads: int) -> Reader:
    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        str(file), tokens=str(file.parent / "tokens.txt"), num_threads=threads
    )

    def read(batch: Batch) -> list[str]:
        streams = [recognizer.create_stream() for _ in batch]
        for stream, item in zip(streams, batch, strict=True):
            stream.accept_waveform(RATE, item)
        recognizer.decode_streams(streams)
        return [str(stream.result.text) for stream in streams]

    return read


def by_onnx_asr(file: Path, threads: int) -> Reader:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = onnx_asr.load_model(
        "nemo-conformer-ctc", file.parent,
        quantization="int8" if "int8" in file.name else None, sess_options=options,
    )  # fmt: skip
    return lambda batch: [str(text) for text in model.recognize(list(batch))]


if __name__ == "__main__":
    main()
