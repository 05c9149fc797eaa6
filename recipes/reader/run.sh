#!/usr/bin/env bash
# A recogniser of one reader from that reader's own recordings and texts.
#
#     bash recipes/reader/run.sh --recordings DIR   DIR holds a.wav and a.txt, b.wav and b.txt, ...
#     bash recipes/reader/run.sh --ljspeech DIR     DIR holds metadata.csv and wavs/
#     bash recipes/reader/run.sh --data DIR         DIR/kathleen holds train, dev and test.jsonl
#     bash recipes/reader/run.sh                    the same, DIR from $CTCSPEECH_DATA
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
    [ -n "$folder" ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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
ctcspeech data stats "$data/train.jsonl"
ctcspeech train "$here/reader.toml" --run "$work/run" --resume \
  "data.train=$data/train.jsonl" "data.validation=$data/dev.jsonl" "$@"
ctcspeech evaluate "$work/run" "$data/test.jsonl" --summary "$work/test.json"
