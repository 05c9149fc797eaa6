"""python benchmarks/live.py MANIFEST --streaming MODEL --offline MODEL [--count 25] [--lm lm.bin]

Accuracy and delay of live recognition, without a clock: recordings go in by 20 ms, and a time is
the second of audio that had come. The streaming model goes by its state, the offline one by windows
of several sizes; both on whole recordings, too. Each live recording is followed by 1.5 s of faint
noise, so that a model that waits for the end of its input is seen to wait. Delay of a word: from
its end, which `align_text` tells by the offline model, and of the last word the last 10 ms within
30 dB of the loudest, until the result that has it and all words before it as in the end, for
recordings without an error. Results go to benchmarks/results/live.md (--write).

With --joined MINUTES: so much of the manifest's recordings in one stream, pauses of 0.1 to 3 s
between them, in random chunks. Its finals, joined, beside the text of the whole decoded at once,
which has seen no endpoint: no word may be lost or doubled.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from ctcspeech import align_text
from ctcspeech.audio.read import load
from ctcspeech.data.manifest import read_manifest
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.live.windows import Windows
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.text.error_rates import word_errors

RESULTS = Path(__file__).parent / "results" / "live.md"
CHUNK, PAUSE = 0.02, 1.5
WINDOWS = [Windows(), Windows(2.0, 0.3, 0.4), Windows(1.0, 0.2, 0.2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--streaming", required=True)
    parser.add_argument("--offline", help="the bidirectional model beside it")
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--silence", type=float, default=2.0, help="that ends an utterance")
    parser.add_argument("--only-streaming", action="store_true", help="without the windows")
    parser.add_argument("--joined", type=float, metavar="MINUTES")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.joined:
        print(joined(arguments))
        return
    utterances = read_manifest(arguments.manifest)[: arguments.count]
    offline = Recognizer.load(arguments.offline, threads=1)
    ends = [word_ends(offline, utterance) for utterance in utterances]
    streaming = Recognizer.load(arguments.streaming, threads=1)
    rows = [whole(offline, utterances, arguments.lm, "bidirectional, whole recordings")]
    rows.append(whole(streaming, utterances, arguments.lm, "forward only, whole recordings"))
    rows.append(
        live(
            streaming,
            None,
            utterances,
            ends,
            arguments.lm,
            arguments.silence,
            "forward only, by its state",
        )
    )
    for windows in () if arguments.only_streaming else WINDOWS:
        name = (
            f"bidirectional, windows {windows.before:g} + {windows.chunk:g} + {windows.after:g} s"
        )
        rows.append(live(offline, windows, utterances, ends, arguments.lm, arguments.silence, name))
    lines = [
        f"    {' '.join(['python benchmarks/live.py', *sys.argv[1:]]).replace(' --write', '')}",
        "",
        f"{len(utterances)} recordings; beam search"
        + (" with the language model" if arguments.lm else " without a language model")
        + ".",
        "",
        "| | WER | delay of a word, ms: median, 95 % | processor time a second of audio |",
        "|---|---|---|---|",
        *rows,
    ]
    print("\n".join(lines))
    if arguments.write:
        RESULTS.write_text("# Live recognition: accuracy and delay\n\n" + "\n".join(lines) + "\n")


def joined(arguments) -> str:
    """A long stream beside the same samples decoded whole."""
    recognizer, random = Recognizer.load(arguments.streaming, threads=1), np.random.default_rng(0)
    rate, utterances = recognizer.sample_rate, read_manifest(arguments.manifest)
    parts, said, length = [], [], 0
    while length < 60 * arguments.joined * rate:
        utterance = utterances[int(random.integers(len(utterances)))]
        pause = int(random.choice([0.1, 0.3, 0.6, 1.0, 3.0]) * rate)
        parts += [load(utterance.path, rate)[0], 1e-4 * random.standard_normal(pause)]
        said.append(utterance.text)
        length += len(parts[-2]) + pause
    samples = np.concatenate(parts).astype(np.float32)
    decoder = decoder_of(recognizer, arguments.lm)
    whole = decoder.decode(recognizer.emitter.compute([samples]))[0][0].text
    rules = Endpointing(2.4, arguments.silence)
    stream = StreamingRecognizer.of(recognizer, decoder=decoder, endpointing=rules).stream()
    finals, used = [], time.process_time()
    while len(samples):
        size = int(random.integers(1, rate))
        finals += [result for result in stream.accept(samples[:size]) if result.final]
        samples = samples[size:]
    finals += [result for result in stream.finish() if result.final]
    used = time.process_time() - used
    text = " ".join(result.text for result in finals)
    differing = word_errors(whole, text)
    wer = [word_errors(" ".join(said), item) for item in (whole, text)]
    return (
        f"{length / rate / 60:.1f} minutes, {len(utterances)} recordings, {len(finals)} finals, "
        f"{differing.reference_length} words. Words that differ from the whole: "
        f"{differing.substitutions} substituted, {differing.deletions} lost, "
        f"{differing.insertions} added. WER whole {100 * wer[0].rate:.2f} %, finals "
        f"{100 * wer[1].rate:.2f} %. Processor time a second of audio {used / length * rate:.4f}."
    )


def decoder_of(recognizer, lm):
    settings = DecoderSettings(lm=lm)
    return settings.decoder(recognizer.alphabet, recognizer.frame_shift_ms, threads=1)


def word_ends(recognizer, utterance) -> list[float]:
    """Seconds at which the words of the reference end."""
    samples = load(utterance.path, recognizer.sample_rate)[0]
    aligned = align_text(recognizer.emitter.emissions(samples), utterance.text, recognizer.alphabet)
    return [*(word.end for word in aligned.words[:-1]), speech_end(samples, recognizer.sample_rate)]


def speech_end(samples: np.ndarray, rate: int) -> float:
    """Seconds to the end of the last 10 ms that are within 30 dB of the loudest."""
    size = rate // 100
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(1)
    return float(np.flatnonzero(power > power.max() / 1000)[-1] + 1) / 100


def whole(recognizer, utterances, lm, name) -> str:
    decoder, texts = decoder_of(recognizer, lm), []
    used, seconds = time.process_time(), 0.0
    for utterance in utterances:
        samples = load(utterance.path, recognizer.sample_rate)[0]
        seconds += len(samples) / recognizer.sample_rate
        emissions = recognizer.emitter.compute([samples])
        texts.append(decoder.decode(emissions)[0][0].text)
    used = time.process_time() - used
    return f"| {name} | {100 * rate(utterances, texts):.2f} % | | {used / seconds:.3f} |"


def live(recognizer, windows, utterances, ends, lm, silence, name) -> str:
    made = StreamingRecognizer.of(
        recognizer,
        decoder=decoder_of(recognizer, lm),
        windows=windows,
        endpointing=Endpointing(2.4, silence),
    )
    texts, delays, seconds, used = [], [], 0.0, time.process_time()
    for utterance, known in zip(utterances, ends, strict=True):
        samples = load(utterance.path, made.sample_rate)[0]
        pause = 1e-4 * np.random.default_rng(0).standard_normal(int(PAUSE * made.sample_rate))
        samples = np.concatenate([samples, pause]).astype(np.float32)
        seconds += len(samples) / made.sample_rate
        shown = follow(made.stream(), samples, made.sample_rate)
        final = shown[-1][1] if shown else []
        texts.append(" ".join(final))
        if final == utterance.text.split() and len(known) == len(final):
            delays += [appearance(shown, final, i) - end for i, end in enumerate(known)]
    used = time.process_time() - used
    late = ", ".join(f"{1000 * np.percentile(delays, q):.0f}" for q in (50, 95)) if delays else "-"
    wer = 100 * rate(utterances, texts)
    return f"| {name} | {wer:.2f} % | {late} | {used / seconds:.3f} |"


def follow(stream, samples, sample_rate) -> list[tuple[float, list[str]]]:
    """All words of the recording as they were known, and the second of audio at which."""
    size, done, shown = int(CHUNK * sample_rate), [], []
    for i in range(0, len(samples) + size, size):
        part = samples[i : i + size]
        results = stream.accept(part) if len(part) else stream.finish()
        for result in results:
            words = done + result.text.split()
            if result.final:
                done = words
            shown.append(((i + len(part)) / sample_rate, words))
    return shown


def appearance(shown, final, index) -> float:
    """When the first index + 1 words were as in the end, for good."""
    wanted, since = final[: index + 1], None
    for when, words in shown:
        if words[: index + 1] != wanted:
            since = None
        elif since is None:
            since = when
    return since


def rate(utterances, texts) -> float:
    counts = [word_errors(u.text, text) for u, text in zip(utterances, texts, strict=True)]
    return sum(c.errors for c in counts) / sum(c.reference_length for c in counts)


if __name__ == "__main__":
    main()
