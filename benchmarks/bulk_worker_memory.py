"""python benchmarks/bulk_worker_memory.py --model runs/digits/run --data DIR/fsdd

What one worker of `ctcspeech bulk` holds after so many recordings, in groups of changing sizes:
what glibc says is in use, and resident memory, MiB. torch's oneDNN keeps operations by their sizes;
compare ONEDNN_PRIMITIVE_CACHE_CAPACITY=1024, its default, with 64, which a worker takes where the
variable is not set.
"""

import argparse
import ctypes
import gc
import random
import time
from pathlib import Path

from ctcspeech.cli.bulk import _load
from ctcspeech.cli.decoder_options import DecodingOptions
from ctcspeech.data.manifest import read_manifest
from ctcspeech.recognize.recordings import Recording

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--recordings", type=int, default=24_000)
    arguments = parser.parse_args()
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Mallinfo
    transcriber = _load(arguments.model, "cpu", DecodingOptions(), 30.0)
    utterances = read_manifest(arguments.data / "train.jsonl")[:300]
    chance, done, shown = random.Random(0), 0, 0
    while done < arguments.recordings:
        group = [chance.choice(utterances) for _ in range(chance.randrange(60, 160))]
        for _ in transcriber(Recording.of(utterance) for utterance in group):
            done += 1
        if done >= shown:
            shown += arguments.recordings // 8
            info = library.mallinfo2()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(
                f"{done:6} recordings: {(info.uordblks + info.hblkhd) / 2**20:.1f} in use, "
                f"{pages / 256:.0f} resident, {len(gc.get_objects())} objects of Python, "
                f"{time.process_time():.0f} s of the processor",
                flush=True,
            )


if __name__ == "__main__":
    main()
