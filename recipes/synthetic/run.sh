#!/usr/bin/env bash
# A base model from synthetic speech, for any language: prepare, train, evaluate.
#
#     bash recipes/synthetic/run.sh --text my.txt                  English, 10 hours of speech
#     bash recipes/synthetic/run.sh --text my.txt --language ru    another language of espeak-ng's
#     bash recipes/synthetic/run.sh --text my.txt --hours 30 --real-share 0.6
#
# Options go to prepare.py (see its --help), arguments like train.epochs=3 to `ctcspeech train`.
# Results go to ${WORK:-runs/synthetic}; other recipes start from them:
#
#     bash recipes/reader/run.sh --data DIR --base runs/synthetic
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/synthetic}

prepare=()
overrides=()
for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit ;;
    data.*=* | features.*=* | augment.*=* | model.*=* | train.*=*) overrides+=("$argument") ;;
    *) prepare+=("$argument") ;;
  esac
done
[ ${#prepare[@]} -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }

python "$here/prepare.py" "$work/data" "${prepare[@]}"
ctcspeech train "$here/synthetic.toml" --run "$work/run" --resume \
  "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" \
  "data.alphabet=$work/data/alphabet.json" "${overrides[@]}"
ctcspeech evaluate "$work/run" "$work/data/test.jsonl" --summary "$work/test.json"
