"""Speed of the features against torchaudio's Spectrogram and filter bank, on the CPU.

    python benchmarks/features.py --output benchmarks/results/features.md

torchaudio computes `log(Spectrogram(x) @ filters + floor)`; ctcspeech the same with the energy
besides. Results are compared before anything is timed. Both work in one process, in turns, so that
what else the machine does meets both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
import torchaudio

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor

# name, utterances, shortest and longest in seconds
BATCHES = [("1 x 10 s", 1, 10, 10), ("16 x 15 s", 16, 15, 15), ("16 x 3 to 15 s", 16, 3, 15)]
KINDS = ["filterbank", "mel", "spectrogram"]


def peer(config: FeatureConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    points = config.fft_points
    window = torch.zeros(points)
    window[: config.window] = torch.hann_window(config.window)
    spectrogram = torchaudio.transforms.Spectrogram(
        n_fft=points, hop_length=config.shift, window_fn=lambda _: window, center=False
    )
    if config.kind == "spectrogram":
        return lambda samples: torch.log(spectrogram(samples) + config.floor)
    make = {
        "filterbank": torchaudio.functional.linear_fbanks,
        "mel": torchaudio.functional.melscale_fbanks,
    }[config.kind]
    filters = make(points // 2 + 1, 0.0, config.sample_rate / 2, 80, config.sample_rate)

    def compute(samples: torch.Tensor) -> torch.Tensor:
        return torch.log(spectrogram(samples).transpose(1, 2) @ filters + config.floor)

    return compute


def compare(
    config: FeatureConfig, batch: tuple[str, int, int, int], rounds: int
) -> tuple[list[float], list[float], float]:
    """Seconds of each round of torchaudio and of ctcspeech, and the hours of audio in a batch."""
    _, count, shortest, longest = batch
    seconds = torch.linspace(longest, shortest, count)
    lengths = (seconds * config.sample_rate).long()
    samples = 0.1 * torch.randn(count, int(lengths.max()))
    extractor, theirs = FeatureExtractor(config), peer(config)
    features, frames = extractor(samples, lengths)
    expected = theirs(samples)
    if config.kind == "spectrogram":
        expected = expected.transpose(1, 2)
    frames.clamp_(max=expected.shape[1])  # without padding a larger transform loses the last
    for i, length in enumerate(frames.tolist()):
        difference = (features[i, :length, :-1] - expected[i, :length]).abs()
        assert difference.median() < 1e-5 and difference.max() < 1e-2, difference.max()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for record, compute in (
            (times[0], lambda: theirs(samples)),
            (times[1], lambda: extractor(samples, lengths)),
        ):
            start = time.perf_counter()
            compute()
            record.append(time.perf_counter() - start)
    return times[0], times[1], float(lengths.sum()) / config.sample_rate / 3600


def rate(hours: float, times: list[float]) -> str:
    """Audio hours per second: median, and the quartiles."""
    quartiles = statistics.quantiles(times, n=4)
    slow, middle, fast = (hours / quartiles[i] for i in (2, 1, 0))
    return f"{middle:.2f} ({slow:.2f} to {fast:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    lines = [
        "# Features against torchaudio",
        "",
        f"{machine.describe()}; torch {torch.__version__}, torchaudio {torchaudio.__version__}; "
        f"{arguments.threads} thread(s); {arguments.rounds} rounds in turns.",
        "Audio hours per second: median (quartiles). ctcspeech computes the energy besides.",
        "",
        f"    python benchmarks/features.py --rounds {arguments.rounds} "
        f"--threads {arguments.threads}",
        "",
        "| kind | rate | batch | torchaudio | ctcspeech | ratio of medians |",
        "|---|---|---|---|---|---|",
    ]
    with torch.inference_mode():
        for kind in KINDS:
            for sample_rate in (8000, 16000):
                config = FeatureConfig(kind=kind, sample_rate=sample_rate, normalization="none")
                for batch in BATCHES:
                    theirs, ours, hours = compare(config, batch, arguments.rounds)
                    ratio = statistics.median(theirs) / statistics.median(ours)
                    lines.append(
                        f"| {kind} | {sample_rate // 1000} kHz | {batch[0]} | "
                        f"{rate(hours, theirs)} | {rate(hours, ours)} | {ratio:.2f} |"
                    )
                    print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
