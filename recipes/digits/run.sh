#!/usr/bin/env bash
# Spoken digits, from nothing to a transcript: prepare, train, evaluate, transcribe.
#
#     bash recipes/digits/run.sh               synthetic speech alone: no network, no data needed
#     bash recipes/digits/run.sh --data DIR    DIR/fsdd as well (default: $CTCSPEECH_DATA, if set)
#     bash recipes/digits/run.sh --download    fetches the Free Spoken Digit Dataset
#     bash recipes/digits/run.sh --fast        less speech, fewer epochs: for a quick check
#     bash recipes/digits/run.sh --streaming   a forward-only model, for live speech
#
# Further arguments go to `ctcspeech train`: model.hidden=192. Results go to ${WORK:-runs/digits}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/digits}

prepare=()
overrides=()
data=${CTCSPEECH_DATA:-}
fast=${CTCSPEECH_FAST:-}
config=digits run=run
while [ $# -gt 0 ]; do
  case $1 in
    --data) data=${2:?--data needs a folder}; shift 2 ;;
    --download) prepare+=(--download); data=; shift ;;
    --synthetic-only | --leave-out=*) prepare+=("$1"); shift ;;
    --fast) fast=1; shift ;;
    --streaming) config=streaming run=streaming; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "run.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done
[ -n "$data" ] && [ -d "$data/fsdd" ] && prepare+=(--data "$data")
if [ -n "$data" ] && [ ! -d "$data/fsdd" ]; then
  echo "run.sh: $data has no folder fsdd; going on with synthetic speech alone" >&2
fi
if [ -n "$fast" ]; then
  prepare+=(--synthetic 1500 --strings 900)
  overrides=("train.epochs=7" "train.max_minutes=2" "${overrides[@]}")
fi

python "$here/prepare.py" "$work/data" "${prepare[@]}"
# A run on other data (without the real speech, say) is put aside, and training starts anew.
sum=$(cat "$work/data/train.jsonl" "$work/data/dev.jsonl" | cksum)
for folder in "$work/$run" "$work/$run-words"; do
  if [ -d "$folder" ] && [ "$(cat "$work/$run.cksum" 2>/dev/null)" != "$sum" ]; then
    echo "run.sh: the data have changed; the run on the former is now $folder.old" >&2
    rm -rf "$folder.old"
    mv "$folder" "$folder.old"
  fi
done
echo "$sum" > "$work/$run.cksum"
train() {
  ctcspeech train "$here/$config.toml" --run "$1" --resume \
    "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" \
    "augment.noise_folder=$work/data/noise" "augment.rir_folder=$work/data/rir" \
    "${@:2}" "${overrides[@]}"
}
if [ "$config" = streaming ]; then  # the words first, then when to write them
  train "$work/$run-words" model.hide_end=false features.tail_ms=0 augment.silence_probability=0 \
    train.carry_state=0 train.epochs=10 train.learning_rate=3e-3 train.warmup=0.15
  train "$work/$run" "train.init_from=$work/$run-words"
else
  train "$work/$run"
fi
for test in synthetic_test test test_strings; do
  if [ -f "$work/data/$test.jsonl" ]; then
    echo "== $test"
    ctcspeech evaluate "$work/$run" "$work/data/$test.jsonl" --worst 3 --summary "$work/$test.json"
  fi
done
example=$work/data/test_strings/00000.wav
[ -f "$example" ] || example=$work/data/synthetic_test/00001.wav
echo "== ctcspeech transcribe $work/$run $example"
ctcspeech transcribe "$work/$run" "$example"
