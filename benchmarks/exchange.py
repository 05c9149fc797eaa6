"""python benchmarks/exchange.py RUN MANIFEST [--count 250] [--lm-text TEXT]

The same exported file in ctcspeech, sherpa-onnx and onnx-asr: on the recordings of a manifest the
greedy texts word by word, the processor time of each on one thread (load of the model left out),
and the sizes of float and int8; word error rates against the manifest's texts, with --lm-text also
of our beam decoder with a trigram of that text (its other settings the defaults) on the emissions
that greedy decoding has. "onnx-asr's features" is our reading of what onnx-asr's own front end
computes: the same model and greedy decoder of ours, so that what then differs is not the front end.
RUN must have been trained with features.preset "nemo"
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
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.exchange.export import export
from ctcspeech.exchange.onnx_model import open_session
from ctcspeech.lm.build import build_language_model
from ctcspeech.text.error_rates import word_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("run")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--lm-text", type=Path)
    arguments = parser.parse_args()
    utterances = read_manifest(arguments.manifest)[: arguments.count]
    samples = [audio.load(item.audio_filepath, 16000)[0] for item in utterances]
    seconds = sum(map(len, samples)) / 16000
    references = [str(item.text) for item in utterances]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lm = None
        if arguments.lm_text is not None:
            lm = folder / "lm.arpa"
            build_language_model(
                [arguments.lm_text], lm, order=3, discount_fallback=[0.5, 1.0, 1.5]
            )
        exported = export(arguments.run, folder, layout="nemo", int8=True, samples=samples[:32])
        print(f"{len(samples)} recordings, {seconds:.0f} s")
        for file, difference in exported.difference.items():
            size = (folder / file).stat().st_size
            print(f"\n{file}: {size:,} bytes, differs from torch by {difference:.2g}")
            compare(folder, file, samples, references)
            if lm is not None:
                gain(folder / file, samples, references, lm)


def compare(folder: Path, file: str, samples: list[np.ndarray], references: list[str]) -> None:
    texts: dict[str, list[str]] = {}
    seconds = sum(map(len, samples)) / 16000
    for name, read in readers(folder, file).items():
        started = time.process_time()
        texts[name] = [read(item) for item in samples]
        spent = time.process_time() - started
        print(f"  {name}: processor time {spent / seconds:.5f} of the audio's")
    for name, found in texts.items():
        print(f"  {name}: {told(references, found)} against the manifest")
    differs("sherpa-onnx", "ctcspeech", texts)
    differs("onnx-asr", "ctcspeech", texts)
    differs("onnx-asr", "onnx-asr's features", texts)


def differs(one: str, other: str, texts: dict[str, list[str]]) -> None:
    print(f"  {one} against {other}: {told(texts[other], texts[one])} differ")


def told(references: list[str], texts: list[str]) -> str:
    pairs = zip(references, texts, strict=True)
    wrong = sum(word_errors(reference, text.strip()).errors for reference, text in pairs)
    words = sum(len(text.split()) for text in references)
    return f"{wrong} of {words} words ({100 * wrong / words:.2f}%)"


def gain(file: Path, samples: list[np.ndarray], references: list[str], lm: Path) -> None:
    """Greedy decoding and ours with a language model, of the same emissions."""
    recognizer = Recognizer.load(file, threads=1)
    emissions = recognizer.emissions(samples)
    settings = DecoderSettings(lm=lm)
    decoders = {
        "greedy": recognizer.greedy_decoder(),
        "beam, no language model": DecoderSettings().decoder(
            recognizer.alphabet, recognizer.frame_shift_ms, threads=1
        ),
        "beam, trigram": settings.decoder(
            recognizer.alphabet, recognizer.frame_shift_ms, threads=1
        ),
    }
    for name, decoder in decoders.items():
        started = time.process_time()
        texts = [hypotheses[0].text for hypotheses in decoder.decode(emissions)]
        spent = (time.process_time() - started) / (sum(map(len, samples)) / 16000)
        print(f"  {name}: {told(references, texts)}, processor time {spent:.5f} of the audio's")


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

    front_end = other.asr._preprocessor  # onnx-asr's own, in ONNX
    contract = recognizer.emitter.contract
    session = open_session(folder / file)

    def by_their_features(item: np.ndarray) -> str:
        features, lengths = front_end(item[None], np.array([len(item)], np.int64))
        feed = dict(zip(contract.inputs, (features, lengths), strict=True))
        (scores,) = session.run(["log_probs"], feed)
        frames = (int(lengths[0]) - 1) // contract.subsampling + 1
        return greedy.decode([scores[0][:frames]])[0][0].text

    return {
        "ctcspeech": by_us,
        "sherpa-onnx": by_sherpa,
        "onnx-asr": other.recognize,
        "onnx-asr's features": by_their_features,
    }


if __name__ == "__main__":
    main()
