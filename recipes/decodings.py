"""Error rates of one model with an attention decoder by all its decodings, as a Markdown table.

    python recipes/decodings.py RUN MANIFEST [DECODING ...] [--lm FILE --lm-weight W --word-score S]

A DECODING is greedy, beam, attention, joint or rescore, with its settings after colons:

    attention:length_normalization=0.6   joint:ctc_weight=0.3:beam_size=5   rescore:ctc_weight=0.7

attention: beam_size, length_normalization, coverage, and lm_weight, word_score and unk_score, by
which the language model takes part; joint: those and ctc_weight; rescore: ctc_weight. Without any,
the list below. --lm is the language model (default: the model's own), --lm-weight and --word-score
are those of beam and rescore. Seconds are those of processor time, encoder included; one thread.
"""

import argparse
import sys
import time
from pathlib import Path

from ctcspeech import CtcSpeechError, Recognizer, read_manifest
from ctcspeech.decode.attention import AttentionRescorer, AttentionSearch
from ctcspeech.decode.fusion import WordFusion
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.evaluate.evaluate import Evaluation, evaluate
from ctcspeech.recognize.transcript import Decoder

DECODINGS = [
    "greedy", "beam", "attention", "attention:length_normalization=1", "attention:coverage=0.05",
    "joint:ctc_weight=0.3", "joint:ctc_weight=0.5", "rescore:ctc_weight=0.5",
]  # fmt: skip
FUSION = {"lm_weight": float, "word_score": float, "unk_score": float}
SEARCH = {"beam_size": int, "length_normalization": float, "coverage": float, **FUSION}
SETTINGS = {
    "greedy": {},
    "beam": {},
    "attention": SEARCH,
    "joint": {**SEARCH, "ctc_weight": float},
    "rescore": {"ctc_weight": float},
}
HYPOTHESES = 50  # of the beam search that are ranked anew


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("decodings", nargs="*", metavar="DECODING", default=DECODINGS)
    parser.add_argument("--lm", type=Path, help="an n-gram language model of words")
    parser.add_argument("--lm-weight", type=float, default=0.5)
    parser.add_argument("--word-score", type=float)
    arguments = parser.parse_intermixed_args()
    try:
        parsed = [parse(name) for name in arguments.decodings]
        recognizer = Recognizer.load(arguments.run, threads=1)
        utterances = read_manifest(arguments.manifest)
        search = recognizer.settings or DecoderSettings()
        if arguments.lm is not None:
            search = DecoderSettings(
                lm=arguments.lm, lm_weight=arguments.lm_weight, word_score=arguments.word_score
            )
        print("| decoding | WER | words S, D, I | CER | characters S, D, I | seconds |")
        print("|---|---|---|---|---|---|", flush=True)
        for name, (kind, values) in zip(arguments.decodings, parsed, strict=True):
            decoder = made(kind, values, recognizer, search)
            begin = time.process_time()
            evaluation = evaluate(recognizer, utterances, decoder)
            seconds = time.process_time() - begin
            print(row(name, evaluation, seconds), flush=True)
    except CtcSpeechError as error:
        sys.exit(f"decodings.py: {error}")
    except ValueError as error:
        parser.error(str(error))


def parse(name: str) -> tuple[str, dict[str, float]]:
    """A decoding and its settings. Raises ValueError naming what is unknown."""
    kind, *settings = name.split(":")
    if kind not in SETTINGS:
        raise ValueError(f"{name}: the decodings are {', '.join(SETTINGS)}")
    values = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in SETTINGS[kind]:
            known = ", ".join(SETTINGS[kind]) or "none"
            raise ValueError(f"{name}: {kind} has no setting {key}; it has: {known}")
        values[key] = SETTINGS[kind][key](value)
    return kind, values


def made(
    kind: str, values: dict[str, float], recognizer: Recognizer, search: DecoderSettings
) -> Decoder:
    alphabet, shift = recognizer.alphabet, recognizer.frame_shift_ms
    if kind == "greedy":
        return recognizer.greedy_decoder()
    if kind == "beam":
        return search.decoder(alphabet, shift, threads=1)
    recognizer.emitter.with_states()  # says what is missing where there is no attention decoder
    head = recognizer.emitter.attention
    if kind == "rescore":
        beam = search.decoder(alphabet, shift, n_best=HYPOTHESES, threads=1)
        return AttentionRescorer(beam, head, **values)
    values = {"ctc_weight": 0.3 if kind == "joint" else 0.0, **values}
    fused = {name: values.pop(name) for name in FUSION if name in values}
    fusion = fused_model(recognizer, search, **fused) if fused else None
    return AttentionSearch(alphabet, shift, head, fusion=fusion, **values)


def fused_model(
    recognizer: Recognizer, search: DecoderSettings, lm_weight: float = 0.3, **values: float
) -> WordFusion:
    lm = search.load_lm()
    if lm is None:
        raise ValueError("lm_weight, word_score and unk_score need --lm FILE")
    return WordFusion(recognizer.alphabet, lm, weight=lm_weight, **values)


def row(name: str, evaluation: Evaluation, seconds: float) -> str:
    if evaluation.failures:
        raise evaluation.failures[0].error or CtcSpeechError("an utterance could not be read")
    cells = [name]
    for counts in (evaluation.words, evaluation.characters):
        kinds = counts.substitutions, counts.deletions, counts.insertions
        cells += [f"{100 * counts.rate:.2f}%", ", ".join(map(str, kinds))]
    return "| " + " | ".join([*cells, f"{seconds:.1f}"]) + " |"


if __name__ == "__main__":
    main()
