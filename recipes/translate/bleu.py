"""BLEU and chrF of translations, by sacrebleu, and of the English texts as they are.

    python recipes/translate/bleu.py runs/translate/data/test.jsonl runs/translate/beam8.jsonl ...

The first file is the manifest, the others what `ctcspeech evaluate -o` writes. Copying the source
is the baseline: names, numbers and words that both languages have are right without any knowledge.
"""

import argparse
import json
import sys
from pathlib import Path

import sacrebleu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("hypotheses", type=Path, nargs="*")
    arguments = parser.parse_args()
    lines = read(arguments.manifest)
    references = [line["text"] for line in lines]
    systems = {"copy of the source": [line["source"] for line in lines]}
    for path in arguments.hypotheses:
        found = read(path)
        if [line["reference"] for line in found] != references:
            sys.exit(f"bleu.py: {path} is not of the utterances of {arguments.manifest}")
        systems[str(path)] = [line["hypothesis"] for line in found]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    for name, texts in systems.items():
        exact = sum(text == want for text, want in zip(texts, references, strict=True))
        print(
            f"{name}: BLEU {bleu.corpus_score(texts, [references]).score:.1f}, "
            f"chrF {chrf.corpus_score(texts, [references]).score:.1f}, "
            f"{exact} of {len(texts)} exactly as the reference"
        )
    print(bleu.get_signature())


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
