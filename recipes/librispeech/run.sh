#!/usr/bin/env bash
# LibriSpeech, 100 or 960 hours of read English: fetch, train, evaluate.
#
#     bash recipes/librispeech/run.sh CORPUS          100 hours; CORPUS gets 30 GB
#     bash recipes/librispeech/run.sh CORPUS 960      960 hours; CORPUS gets 130 GB
#     GPUS=8 bash recipes/librispeech/run.sh CORPUS 960
#
# Further arguments go to `ctcspeech train`: data.batch_seconds=600
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
corpus=$1
hours=${2:-100}
shift $(($# < 2 ? $# : 2))
work=${WORK:-runs/librispeech$hours}
data=$work/data

python "$here/prepare.py" "$corpus" "$data" --hours "$hours"
if [ "$hours" = 960 ]; then
  train="[\"$data/train-clean-100.jsonl\", \"$data/train-clean-360.jsonl\", \"$data/train-other-500.jsonl\"]"
else
  train="[\"$data/train-clean-100.jsonl\"]"
fi
launch=(ctcspeech)
[ "${GPUS:-1}" = 1 ] || launch=(torchrun --nproc-per-node "$GPUS" -m ctcspeech --)
"${launch[@]}" train "$here/librispeech$hours.toml" --run "$work/run" --resume \
  "data.train=$train" "data.validation=$data/dev-clean.jsonl" "$@"
for part in dev-clean dev-other test-clean test-other; do
  ctcspeech evaluate "$work/run" "$data/$part.jsonl" --summary "$work/$part.json"
done
