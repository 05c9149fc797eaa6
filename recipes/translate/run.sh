#!/usr/bin/env bash
# Translation of programs' messages, English to another language: prepare, train, BLEU, a picture.
#
#     bash recipes/translate/run.sh                        German, from the catalogues of this machine
#     bash recipes/translate/run.sh --language fr          another
#     bash recipes/translate/run.sh --data FOLDER          from catalogues (.mo, .po) in a folder
#     bash recipes/translate/run.sh --fast                 less of it: for a quick check
#
# Further arguments go to `ctcspeech train`: train.epochs=20. Results go to ${WORK:-runs/translate}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/translate}

prepare=()
overrides=()
while [ $# -gt 0 ]; do
  case $1 in
    --language | --data | --longest | --limit) prepare+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
    --fast) prepare+=(--longest 20 --limit 400); overrides+=(train.epochs=2); shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "run.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done

[ -f "$work/data/test.jsonl" ] || python "$here/prepare.py" "$work/data" "${prepare[@]}"
ctcspeech train "$here/translate.toml" --run "$work/run" --resume \
  "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" "${overrides[@]}"
for beam in 1 8; do
  ctcspeech evaluate "$work/run" "$work/data/test.jsonl" --decoder attention --beam-size $beam \
    --length-normalization 0.6 --worst 0 -o "$work/beam$beam.jsonl"
done
python "$here/bleu.py" "$work/data/test.jsonl" "$work/beam1.jsonl" "$work/beam8.jsonl"
python "$here/draw.py" "$work/run" "$work/data" -o "$work/attention.png"
