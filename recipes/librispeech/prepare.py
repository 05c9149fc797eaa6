"""Manifests of LibriSpeech (Panayotov et al. 2015), fetched from OpenSLR if need be.

    python prepare.py CORPUS OUT --hours 100
    python prepare.py CORPUS OUT --hours 960

CORPUS holds, or gets, LibriSpeech/train-clean-100, .../dev-clean and so on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch import fetch, unpack  # noqa: E402

SOURCE = "https://www.openslr.org/resources/12"
TRAIN = {
    100: ["train-clean-100"],
    960: ["train-clean-100", "train-clean-360", "train-other-500"],
}
TEST = ["dev-clean", "dev-other", "test-clean", "test-other"]


def prepare(part: str, corpus: Path, out: Path) -> None:
    manifest = out / f"{part}.jsonl"
    if manifest.exists():
        return
    folder = corpus / "LibriSpeech" / part
    if not folder.is_dir():
        unpack(fetch(f"{SOURCE}/{part}.tar.gz", corpus), corpus)
    command = [sys.executable, "-m", "ctcspeech", "data", "import", "librispeech"]
    # The archives are checked when they are unpacked, so the headers are enough.
    subprocess.run([*command, str(folder), str(manifest), "--quick"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path, help="where LibriSpeech/ is or shall be")
    parser.add_argument("out", type=Path, help="folder for the manifests")
    parser.add_argument("--hours", type=int, choices=sorted(TRAIN), default=100)
    arguments = parser.parse_args()
    for part in [*TRAIN[arguments.hours], *TEST]:
        prepare(part, arguments.corpus, arguments.out)


if __name__ == "__main__":
    main()
