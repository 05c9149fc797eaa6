#!/usr/bin/env bash
# A digit recogniser that has never heard the speaker: leaves each of the speakers out in turn.
#
#     bash recipes/digits/leave_one_out.sh --data DIR [run.sh's other options]
#
# SPEAKERS="george lucas" chooses some. Results go to ${WORK:-runs/digits_leave_one_out}/SPEAKER.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=${WORK:-runs/digits_leave_one_out}
read -ra speakers <<< "${SPEAKERS:-george jackson lucas nicolas yweweler}"

for speaker in "${speakers[@]}"; do
  WORK="$base/$speaker" bash "$here/run.sh" "$@" "--leave-out=$speaker"
done
python - "$base" "${speakers[@]}" << 'PYTHON'
import json
import sys
from pathlib import Path

base, *speakers = sys.argv[1:]
for test in ("test", "test_strings"):
    rates = [json.loads((Path(base) / s / f"{test}.json").read_text())["wer"]["rate"] for s in speakers]
    each = ", ".join(f"{s} {100 * r:.2f}%" for s, r in zip(speakers, rates, strict=True))
    print(f"{test}: mean WER {100 * sum(rates) / len(rates):.2f}% ({each})")
PYTHON
