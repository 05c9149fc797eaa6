#!/usr/bin/env bash
# The recipes' tables of results: each recipe trained with several seeds, mean (least, most).
#
#     bash recipes/report.sh --data DIR                    all recipes that DIR has data for
#     bash recipes/report.sh --data DIR grid an4           some
#     SEEDS="0 1 2 3 4" bash recipes/report.sh --data DIR digits
#
# Runs go to ${WORK:-runs/report}/RECIPE/seed-N, and what is finished there is not trained again; the
# table goes to standard output. Each training uses one thread: THREADS=2 changes that.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/report}
read -ra seeds <<< "${SEEDS:-0 1 2}"

[ "${1:-}" = --data ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$(cd "${2:?--data needs a folder}" && pwd)
shift 2
recipes=("$@")
if [ ${#recipes[@]} -eq 0 ]; then
  for pair in digits:fsdd grid:grid_s1 an4:an4_mfcc reader:kathleen; do
    if [ -d "$data/${pair#*:}" ]; then recipes+=("${pair%:*}"); fi
  done
fi
for recipe in "${recipes[@]}"; do
  [ -f "$here/$recipe/run.sh" ] || { echo "report.sh: there is no recipe $recipe" >&2; exit 2; }
done

for recipe in "${recipes[@]}"; do
  from=(--data "$data")
  [ "$recipe" = an4 ] && from=(--mfcc "$data/an4_mfcc")
  for seed in "${seeds[@]}"; do
    folder=$work/$recipe/seed-$seed
    [ -f "$folder/test.json" ] && continue
    WORK=$folder bash "$here/$recipe/run.sh" "${from[@]}" \
      "train.seed=$seed" "train.threads=${THREADS:-1}" >&2
  done
done
python "$here/report.py" "$work"
