"""Error rates with words outside the vocabulary, by how much of their cost pruning sees at once.

    python benchmarks/decoder_unknown.py sentences.txt lm.bin

Emissions of a text's sentences are made as by decoder_emissions.py, with a share of words that the
model does not know. Half of the utterances serve to find lm_weight, word_score and unk_score, as
`ctcspeech tune --open-vocabulary` does, anew for each value of `unknown_at_once`; on the other half
the errors are counted. Q is the mean score at the weights that were tuned with all of the cost at
once, so that it compares searches. Processor time is that of the other half, word times off.
"""

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from decoder_emissions import LABELS, simulate

from ctcspeech import BeamDecoder, LanguageModel
from ctcspeech.decode.greedy import GreedyDecoder
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.evaluate.tune import DevSet, tune
from ctcspeech.text.alphabet import Alphabet

KINDS = {  # of emissions
    "clear": {"clarity": 12.0, "confused": 0.1, "separator_clarity": 1.0},
    "noisy separators": {"clarity": 13.0, "confused": 0.1},
    "noisy": {"clarity": 8.0, "confused": 0.15},
}
DEFAULTS = {"lm_weight": 0.5, "word_score": 1.5, "unk_score": -10.0}


@dataclass
class Settings(DecoderSettings):
    """With the argument that the settings of a model do not have."""

    at_once: float = math.inf

    def decoder(self, *arguments, **options) -> BeamDecoder:
        return super().decoder(*arguments, **options).replace(unknown_at_once=self.at_once)


def data_of(references, emissions):
    data = DevSet()
    data.references, data.emissions = references, emissions
    data.utterances = [[i] for i in range(len(references))]
    return data


def measure(dev, test, recognizer, lm, lm_file, values, trials):
    """For each value: (weights, error rates tuned, at the defaults, Q, seconds, seconds)."""
    common = {"word_times": False, "threads": 1, "lm": lm}

    def decoder(settings, value):
        found = settings.decoder(recognizer.alphabet, 20.0, **common)
        return found.replace(unknown_at_once=value)

    def run(made):
        made.decode(dev.emissions)  # what it remembers of the model is of other utterances
        start = time.process_time()
        found = made.decode(test.emissions)
        seconds = time.process_time() - start
        return statistics.fmean(hypotheses[0].score for hypotheses in found), seconds

    tuned = {}
    for value in values:
        start = Settings(lm=lm_file, at_once=value)
        tuning = tune(dev, recognizer, start, trials=trials, vocabulary="open")
        tuned[value] = tuning.best
    same = tuned[max(values)]
    default = Settings(lm=lm_file, open_vocabulary=True, **DEFAULTS)
    rows = []
    for value in values:
        q, _ = run(decoder(same, value))
        own = decoder(tuned[value], value)
        rows.append({
            "value": value,
            "tuned": 100 * test.rates(own).words.rate,
            "same": 100 * test.rates(decoder(same, value)).words.rate,
            "default": 100 * test.rates(decoder(default, value)).words.rate,
            "q": q,
            "seconds": run(own)[1],
            "default_seconds": run(decoder(default, value))[1],
            "weights": tuned[value],
        })  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sentences", type=Path, help="a text, one sentence a line, lower case")
    parser.add_argument("lm", type=Path)
    parser.add_argument("--utterances", type=int, default=120, help="half of them to tune on")
    parser.add_argument("--unknown", type=float, nargs="+", default=[0.15, 0.05, 0.0])
    parser.add_argument("--values", type=float, nargs="+", default=[8, 12, 16, math.inf])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    text = arguments.sentences.read_text(encoding="utf-8")
    lm = LanguageModel.load(arguments.lm)
    alphabet = Alphabet(LABELS)
    recognizer = SimpleNamespace(
        alphabet=alphabet, frame_shift_ms=20.0, threads=1,
        greedy_decoder=lambda: GreedyDecoder(alphabet, 20.0),
    )  # fmt: skip
    print("| emissions | unknown | at once | tuned WER % | same weights | defaults | Q | seconds |"
          " defaults' |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, options in KINDS.items():
        for unknown in arguments.unknown:
            found = {value: [] for value in arguments.values}
            for seed in range(arguments.seeds):
                references, emissions = simulate(
                    text, arguments.utterances, seed, unknown=unknown, **options
                )
                dev = data_of(references[::2], emissions[::2])
                test = data_of(references[1::2], emissions[1::2])
                for row in measure(
                    dev, test, recognizer, lm, arguments.lm, arguments.values, arguments.trials
                ):
                    found[row["value"]].append(row)
            for value, rows in found.items():
                mean = {
                    key: statistics.fmean(row[key] for row in rows)
                    for key in ("tuned", "same", "default", "q", "seconds", "default_seconds")
                }
                print(
                    f"| {kind} | {100 * unknown:g} % | {value:g} | {mean['tuned']:.2f} | "
                    f"{mean['same']:.2f} | {mean['default']:.2f} | {mean['q']:.2f} | "
                    f"{mean['seconds']:.3f} | {mean['default_seconds']:.3f} |",
                    flush=True,
                )
                for row in rows:
                    s = row["weights"]
                    print(f"<!-- {row['tuned']:.2f} {row['same']:.2f} {s.lm_weight} {s.word_score}"
                          f" {s.unk_score} -->", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
