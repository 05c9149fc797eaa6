"""What a neural language model adds to an n-gram model, in errors and in time.

    ctcspeech lm build train.txt --order 3 --discount-fallback 0.5,1,1.5 -o lm.bin
    ctcspeech lm train train.txt -o lm.safetensors
    python benchmarks/neural_lm.py RUN dev.jsonl test.jsonl lm.bin lm.safetensors

The weights of each decoder (n-gram, neural, both) are tuned on the dev manifest, once a seed, and
the test manifest is decoded with what was found. Times are processor time of decoding the test's
emissions, one thread, by a decoder that has decoded nothing before (its memory of scores is empty).
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

from ctcspeech.data.manifest import read_manifest
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.evaluate.tune import DevSet, Tuning, tune
from ctcspeech.recognize.recognizer import Recognizer

KINDS = ["n-gram", "neural", "both"]


def decoded(recognizer: Recognizer, data: DevSet, settings: DecoderSettings) -> tuple[str, float]:
    decoder = settings.decoder(
        recognizer.alphabet, recognizer.frame_shift_ms, word_times=False, threads=1
    )
    begin = time.process_time()
    rates = data.rates(decoder)
    return str(rates), time.process_time() - begin


def timed(
    recognizer: Recognizer, test: DevSet, kinds: dict[str, DecoderSettings], beam: int, rounds: int
) -> None:
    for name, settings in kinds.items():
        found = [
            decoded(recognizer, test, replace(settings, beam_size=beam)) for _ in range(rounds)
        ]
        times = sorted(seconds for _, seconds in found)
        print(
            f"beam {beam}, {name}, untuned: {found[0][0]}, {statistics.median(times):.3f} s "
            f"({times[0]:.3f} to {times[-1]:.3f})",
            flush=True,
        )


def tuned(
    recognizer: Recognizer,
    dev: DevSet,
    test: DevSet,
    name: str,
    settings: DecoderSettings,
    trials: int,
    seeds: list[int],
) -> None:
    rates = []
    for seed in seeds:
        found: Tuning = tune(dev, recognizer, settings, trials=trials, seed=seed)
        text, seconds = decoded(recognizer, test, found.best)
        best = found.best
        print(
            f"{name}, seed {seed}: dev {found.best_trial.rates}; test {text} in {seconds:.2f} s; "
            f"lm_weight {best.lm_weight}, word_score {best.word_score}, neural_weight "
            f"{best.neural_weight}, open {best.open_vocabulary}",
            flush=True,
        )
        rates.append(float(text.split()[1].rstrip("%,")))
    print(
        f"{name}: WER {statistics.mean(rates):.2f}% ({min(rates):.2f} to {max(rates):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("run", "dev", "test", "ngram", "neural"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the tuning")
    parser.add_argument("--beam", type=int, default=50, help="of the tuning")
    parser.add_argument("--beams", type=int, nargs="*", default=[10, 25, 50, 100], help="timed")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    arguments = parser.parse_args()
    recognizer = Recognizer.load(arguments.run, "cpu", 1)
    dev, test = (
        DevSet.collect(recognizer, read_manifest(m)) for m in (arguments.dev, arguments.test)
    )
    seconds = sum(map(len, test.emissions)) * recognizer.frame_shift_ms / 1000
    greedy = test.rates(recognizer.greedy_decoder())
    print(f"{len(test)} utterances, {seconds:.0f} s; greedy {greedy}", flush=True)
    ngram = DecoderSettings(arguments.ngram)
    neural = DecoderSettings(neural_lm=arguments.neural)
    all_kinds = zip(KINDS, (ngram, neural, replace(ngram, neural_lm=arguments.neural)), strict=True)
    kinds = {name: settings for name, settings in all_kinds if name in arguments.kinds}
    for beam in arguments.beams:
        timed(recognizer, test, kinds, beam, arguments.rounds)
    if arguments.seeds:
        for name, settings in kinds.items():
            chosen = replace(settings, beam_size=arguments.beam)
            tuned(recognizer, dev, test, name, chosen, arguments.trials, arguments.seeds)


if __name__ == "__main__":
    main()
