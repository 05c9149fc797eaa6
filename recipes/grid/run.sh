#!/usr/bin/env bash
# A recogniser of one GRID talker's commands: prepare, train, evaluate.
#
#     bash recipes/grid/run.sh --data DIR          DIR/grid_s1 holds the recordings and manifests
#     bash recipes/grid/run.sh                     the same, DIR from $CTCSPEECH_DATA
#     bash recipes/grid/run.sh --download CORPUS   fetches the corpus from its public archive
#
# --streaming as the first argument trains the forward-only model, --attention one with an attention
# decoder, by which it is then evaluated. Further arguments go to `ctcspeech train`: train.epochs=5
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/grid}
config=grid run=run summary=test decoder=auto
case ${1:-} in
  --streaming) config=streaming run=streaming summary=streaming-test; shift ;;
  --attention) config=attention run=attention summary=attention-test decoder=attention; shift ;;
esac

if [ "${1:-}" = --data ] || [ "${1:-}" = --download ]; then
  source=("$1" "${2:?$1 needs a folder}")
  shift 2
elif [ -n "${CTCSPEECH_DATA:-}" ]; then
  source=(--data "$CTCSPEECH_DATA")
else
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

python "$here/prepare.py" "$work/data" "${source[@]}"
train() {
  ctcspeech train "$here/$config.toml" --run "$1" --resume \
    "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" "${@:2}"
}
if [ "$config" = streaming ]; then  # the words first, then when to write them
  train "$work/$run-words" model.hide_end=false features.tail_ms=0 augment.silence_probability=0 \
    train.carry_state=0 train.epochs=35 train.learning_rate=2e-3 train.warmup=0.1 "$@"
  train "$work/$run" "train.init_from=$work/$run-words" "$@"
else
  train "$work/$run" "$@"
fi
ctcspeech evaluate "$work/$run" "$work/data/test.jsonl" --decoder "$decoder" \
  --summary "$work/$summary.json"
