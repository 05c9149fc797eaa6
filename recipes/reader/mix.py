"""A manifest of real recordings, several times each, and as much synthetic speech.

    python recipes/reader/mix.py REAL.jsonl SYNTHETIC.jsonl MIXED.jsonl

In an epoch each real recording comes three times, augmented otherwise each time, beside three
sentences that the reader has not read: a network that hears the reader's alone for long forgets the
words that it learnt from the others.
"""

import sys
from dataclasses import replace

from ctcspeech.data.manifest import read_manifest, write_manifest

TIMES = 3

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    real, synthetic = (read_manifest(path) for path in sys.argv[1:3])
    again = [replace(u, id=f"{u.id} {time}") for time in range(TIMES) for u in real]
    write_manifest(sys.argv[3], again + synthetic[: len(again)])
