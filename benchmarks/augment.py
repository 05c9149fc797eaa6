"""What each augmentation of samples costs in a training loop, on one core.

    python benchmarks/augment.py --noise FOLDER --rir FOLDER --output benchmarks/results/augment.md

Ten seconds of noise-like samples; noises and impulse responses come from the folders, and are read
before the clock starts, as they are from the second epoch on.
"""

import argparse
import statistics
import time
from pathlib import Path

import machine
import numpy as np

from ctcspeech.data.augment import AugmentConfig, Augmenter

KINDS = ["pitch", "tempo", "speed", "jitter", "rir", "noise", "gain", "telephone"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--rir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Cost of augmentation",
        "",
        f"{machine.describe()}; one thread. Median milliseconds for 10 s of audio, of "
        f"{arguments.rounds} draws.",
        "",
        "    python benchmarks/augment.py --noise FOLDER --rir FOLDER",
        "",
        "| augmentation | 8 kHz | 16 kHz |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        cells = []
        for sample_rate in (8000, 16000):
            random = np.random.default_rng(0)
            samples = (0.1 * random.standard_normal(10 * sample_rate)).astype(np.float32)
            config = AugmentConfig(
                **{f"{kind}_probability": 1.0},
                noise_folder=arguments.noise,
                rir_folder=arguments.rir,
            )
            augmenter = Augmenter(config, sample_rate)
            times = []
            for warm in (True, False):
                for i in range(arguments.rounds):
                    start = time.perf_counter()
                    augmenter(samples, seed=0, epoch=0, utterance=str(i))
                    if not warm:
                        times.append(time.perf_counter() - start)
            cells.append(f"{1000 * statistics.median(times):.2f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
