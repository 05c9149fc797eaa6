#!/usr/bin/env bash
# Handwriting from pen strokes: prepare, train, evaluate greedily and with a language model, transcribe.
#
#     bash recipes/pen/run.sh                          synthesised words: nothing is fetched
#     bash recipes/pen/run.sh --uji ujipenchars2.txt   UJI Pen Characters 2
#     bash recipes/pen/run.sh --unipen FOLDER          UNIPEN files (words; --level CHARACTER)
#     bash recipes/pen/run.sh --fast                   less of it: for a quick check
#
# Further arguments go to `ctcspeech train`: model.hidden=128. Results go to ${WORK:-runs/pen}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/pen}

prepare=()
overrides=()
while [ $# -gt 0 ]; do
  case $1 in
    --uji | --unipen | --level) prepare+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
    --fast) prepare+=(--pieces 300 --hands 10); overrides+=(train.epochs=2); shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "run.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done

[ -f "$work/data/test.jsonl" ] || python "$here/prepare.py" "$work/data" "${prepare[@]}"
ctcspeech train "$here/pen.toml" --run "$work/run" --resume \
  "data.train=$work/data/train.jsonl" "data.validation=$work/data/dev.jsonl" "${overrides[@]}"
echo "== writers of the test, greedy"
ctcspeech evaluate "$work/run" "$work/data/test.jsonl" --decoder greedy --worst 3 \
  --summary "$work/greedy.json"
# The language model is one of the texts of training, as it would be of any texts of the same kind.
python -c 'import json, sys; [print(json.loads(line)["text"]) for line in open(sys.argv[1])]' \
  "$work/data/train.jsonl" >"$work/texts.txt"
ctcspeech lm build --order 2 --discount-fallback 0.5,1,1.5 "$work/texts.txt" -o "$work/lm.bin"
echo "== writers of the test, with the language model"
ctcspeech evaluate "$work/run" "$work/data/test.jsonl" --lm "$work/lm.bin" --lm-weight 0.5 \
  --word-score 1 --worst 3 --summary "$work/lm.json"
example=$(ls "$work"/data/test/*.inkml | head -1)
echo "== ctcspeech transcribe $work/run $example"
ctcspeech transcribe "$work/run" "$example"
