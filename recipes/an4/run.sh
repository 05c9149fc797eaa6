#!/usr/bin/env bash
# CMU AN4, spelled and dictated census data: prepare, train, evaluate.
#
#     bash recipes/an4/run.sh --download CORPUS   from the recordings, fetched into CORPUS
#     bash recipes/an4/run.sh --mfcc DIR          from Sphinx MFCC features in DIR/feat
#     bash recipes/an4/run.sh                     the same, DIR being $CTCSPEECH_DATA/an4_mfcc
#
# --attention as the first argument trains, from MFCC, an attention decoder beside CTC, and evaluates by
# both. Further arguments go to `ctcspeech train`: train.epochs=5. Results go to ${WORK:-runs/an4}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/an4}

config=an4_mfcc.toml run=run summary=test decoder=auto
if [ "${1:-}" = --attention ]; then
  config=attention_mfcc.toml run=attention summary=attention-test decoder=joint
  shift
fi
if [ "${1:-}" = --mfcc ] || [ "${1:-}" = --download ]; then
  if [ "$1" = --download ]; then
    [ "$decoder" = auto ] || { echo "run.sh: --attention is for --mfcc alone" >&2; exit 2; }
    config=an4.toml
  fi
  source=("$1" "${2:?$1 needs a folder}")
  shift 2
elif [ -n "${CTCSPEECH_DATA:-}" ] && [[ "${1:-}" != --* ]]; then
  source=(--mfcc "$CTCSPEECH_DATA/an4_mfcc")
else
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

python "$here/prepare.py" "$work/data" "${source[@]}"
ctcspeech train "$here/$config" --run "$work/$run" --resume \
  "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" "$@"
ctcspeech evaluate "$work/$run" "$work/data/test.jsonl" --decoder "$decoder" \
  --summary "$work/$summary.json"
