#!/usr/bin/env bash
# Do two records name the same thing? Ten examples before each pair, Yes or No by log-probability. Expected with SmolLM2-135M-Instruct: docs/figures.md.
# Usage: entity_matching.sh FLEXGEN MODEL DATA   (DATA: a folder with train.txt and test.txt, lines of LEFT TAB RIGHT TAB 0|1, as the ER-Magellan sets are given out)
set -euo pipefail
flexgen=$1 model=$2 data=$3 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for part in train test; do
  awk -F'\t' -v OFS='\t' 'BEGIN { print "a", "b", "same" } { for (i = 1; i < 3; ++i) { gsub(/COL /, "; ", $i); gsub(/ VAL /, ": ", $i); sub(/^; /, "", $i) } print $1, $2, $3 ? "Yes" : "No" }' \
    "$data/$part.txt" >"$work/$part.tsv"
done
"$flexgen" map --model "$model" -i "$work/test.tsv" -o "$work/matched.tsv" --cpu-memory 2GiB \
  --prompt-template $'Product A is {{ a }}. Product B is {{ b }}. Are A and B the same?' \
  --examples "$work/train.tsv" --shots 10 --balanced --choices Yes,No --answer-column same --positive-label Yes
