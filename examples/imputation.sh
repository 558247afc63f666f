#!/usr/bin/env bash
# In which city is a restaurant? Ten examples before each. Expected with SmolLM2-135M-Instruct: docs/figures.md.
# Usage: imputation.sh FLEXGEN MODEL DATA   (DATA: a folder with the train.txt and test.txt of Fodors-Zagats, as for entity_matching.sh)
set -euo pipefail
flexgen=$1 model=$2 data=$3 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for part in train test; do
  # Left records alone, each once.
  awk -F'\t' 'BEGIN { print "name\taddress\tphone\ttype\tcity" } !seen[$1]++ { gsub(/[`\x27\\]/, "", $1); gsub(/  +/, " ", $1); if (split($1, f, / ?COL [a-z]+ VAL ?/) >= 6) print f[2] "\t" f[3] "\t" f[5] "\t" f[6] "\t" f[4] }' "$data/$part.txt" >"$work/$part.tsv"
done
"$flexgen" map --model "$model" -i "$work/test.tsv" -o "$work/filled.tsv" --cpu-memory 2GiB \
  --prompt-template $'name: {{ name }}, address: {{ address }}, phone: {{ phone }}, type: {{ type }}. In which city is it?' \
  --examples "$work/train.tsv" --shots 10 --answer-column city --max-tokens 8
