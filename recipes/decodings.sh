#!/usr/bin/env bash
# Error rates of one model with an attention decoder by all four decodings: CTC alone, attention alone,
# jointly in one pass, and CTC's n-best list ranked anew.
#
#     bash recipes/decodings.sh RUN MANIFEST [WEIGHT]     WEIGHT: of CTC in the joint ones, 0.5
set -euo pipefail
model=${1:?usage: decodings.sh RUN MANIFEST [WEIGHT]}
manifest=${2:?usage: decodings.sh RUN MANIFEST [WEIGHT]}
weight=${3:-0.5}
for name in greedy beam attention joint rescore; do
  options=(--decoder "$name")
  case $name in
    attention) options+=(--length-normalization 0.6) ;;
    joint | rescore) options+=(--ctc-weight "$weight") ;;
  esac
  echo "== ${options[*]}"
  ctcspeech evaluate "$model" "$manifest" "${options[@]}" --worst 0
done
