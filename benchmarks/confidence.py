"""Expected calibration error of words' confidences, before and after the fit on a development set.

    python benchmarks/confidence.py grid=RUN:dev.jsonl:test.jsonl:lm.bin ...

Each argument is a name, a model, two manifests and, for the beam decoder, an n-gram model of words
(or nothing). What is reported is measured on the second manifest, of which the fit knows nothing.
"""

import argparse
from pathlib import Path

import machine

from ctcspeech.data.manifest import read_manifest
from ctcspeech.decode.beam import BeamDecoder
from ctcspeech.decode.confidence import calibration_error, fit
from ctcspeech.evaluate.evaluate import evaluate
from ctcspeech.recognize.recognizer import Recognizer


def row(name: str, recognizer: Recognizer, decoder_name: str, decoder, dev, test) -> str:
    developed = evaluate(recognizer, dev, decoder)
    tested = evaluate(recognizer, test, decoder)
    calibration = fit(*developed.confidences)
    raw, correct = tested.confidences
    calibrated = [calibration(value) for value in raw]
    return (
        f"| {name} | {decoder_name} | {100 * tested.words.rate:.2f} | {calibration.words} | "
        f"{len(raw)} | {100 * sum(correct) / len(correct):.1f} | "
        f"{100 * sum(raw) / len(raw):.1f} | {100 * calibration_error(raw, correct):.2f} | "
        f"{100 * sum(calibrated) / len(raw):.1f} | "
        f"{100 * calibration_error(calibrated, correct):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=MODEL:DEV:TEST[:LM]")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Calibration of words' confidences",
        "",
        "`python benchmarks/confidence.py NAME=MODEL:DEV:TEST[:LM] ...`. All in percent, on the "
        "test set; ECE: expected calibration error over 15 bins; calibrated: by the fit on the "
        f"development set. {machine.describe()}.",
        "",
        "| set | decoder | WER | words of the fit | words tested | right | mean confidence | ECE | "
        "calibrated mean | calibrated ECE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in arguments.sets:
        name, _, rest = item.partition("=")
        model, dev, test, *lm = rest.split(":")
        recognizer = Recognizer.from_checkpoint(model)
        recognizer.calibrations.clear()
        sets = read_manifest(dev), read_manifest(test)
        lines.append(row(name, recognizer, "greedy", recognizer.greedy_decoder(), *sets))
        print(lines[-1], flush=True)
        if lm:
            decoder = BeamDecoder(
                recognizer.alphabet,
                lm[0],
                open_vocabulary=True,
                frame_shift_ms=recognizer.frame_shift_ms,
            )
            lines.append(row(name, recognizer, "beam with n-grams", decoder, *sets))
            print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
