#!/usr/bin/env bash
# A recogniser of one reader from that reader's own recordings and texts.
#
#     bash recipes/reader/run.sh --recordings DIR   DIR holds a.wav and a.txt, b.wav and b.txt, ...
#     bash recipes/reader/run.sh --ljspeech DIR     DIR holds metadata.csv and wavs/
#     bash recipes/reader/run.sh --data DIR         DIR/kathleen holds train, dev and test.jsonl
#     bash recipes/reader/run.sh                    the same, DIR from $CTCSPEECH_DATA
#
# With `--base FOLDER` after these, the model starts from that of recipes/synthetic (its WORK), first
# with synthetic speech mixed into the real one, then with the real one alone. With `--text FILE` (a sentence a line) a language model
# is made of FILE and the training texts, and tuned on dev.
#
# Further arguments go to `ctcspeech train`: train.epochs=100
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-runs/reader}

case "${1:-}" in
  --recordings | --ljspeech | --data)
    kind=$1
    folder=${2:?$1 needs a folder}
    shift 2
    ;;
  *)
    kind=--data
    folder=${CTCSPEECH_DATA:-}
    [ -n "$folder" ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    ;;
esac

if [ "$kind" = --data ]; then
  data=$folder/kathleen
  [ -d "$data" ] || { echo "$data does not exist" >&2; exit 1; }
else
  data=$work/data
  importer=folder
  [ "$kind" = --recordings ] || importer=ljspeech
  # Recordings that cannot be read are named and left out; the rest is trained on.
  ctcspeech data import "$importer" "$folder" "$data/all.jsonl" || [ -s "$data/all.jsonl" ]
  ctcspeech data split "$data/all.jsonl" "$data" --by text
fi
base=
text=
while [ $# -gt 0 ]; do
  case $1 in
    --base) base=${2:?--base needs a folder}; shift 2 ;;
    --text) text=${2:?--text needs a file}; shift 2 ;;
    *) break ;;
  esac
done

ctcspeech data stats "$data/train.jsonl"
config=$here/reader.toml
if [ -n "$base" ]; then
  config=$here/reader_from_base.toml
  mkdir -p "$work"
  python "$here/mix.py" "$data/train.jsonl" "$base/data/train.jsonl" "$work/mixed.jsonl"
  ctcspeech train "$config" --run "$work/mixed" --resume \
    "data.train=$work/mixed.jsonl" "data.validation=$data/dev.jsonl" "train.init_from=$base/run" \
    train.epochs=5 train.learning_rate=1.5e-3 augment.spec_probability=0.6 model.dropout=0.2 "$@"
  set -- "train.init_from=$work/mixed" "$@"
fi
ctcspeech train "$config" --run "$work/run" --resume \
  "data.train=$data/train.jsonl" "data.validation=$data/dev.jsonl" "$@"
ctcspeech evaluate "$work/run" "$data/test.jsonl" --decoder greedy --summary "$work/test.json"
if [ -n "$text" ]; then
  python -c 'import json, sys; print(*(json.loads(s)["text"] for s in sys.stdin), sep="\n")' \
    < "$data/train.jsonl" > "$work/train.txt"
  python -c 'import json, sys; print(*(json.loads(s)["text"] for s in sys.stdin), sep="\n")' \
    < "$data/dev.jsonl" > "$work/dev.txt"
  ctcspeech lm build "$text" --order 3 --prune "0 0 1" -o "$work/text.arpa"
  ctcspeech lm build "$work/train.txt" --order 3 --discount-fallback 0.5,1,1.5 -o "$work/train.arpa"
  ctcspeech lm mix "$work/text.arpa" "$work/train.arpa" "$work/lm.bin" --text "$work/dev.txt"
  ctcspeech tune "$work/run" "$data/dev.jsonl" --lm "$work/lm.bin" --trials 50
  ctcspeech evaluate "$work/run" "$data/test.jsonl" --summary "$work/test_lm.json"
fi
