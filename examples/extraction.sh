#!/usr/bin/env bash
# Facts out of sentences, as JSON that a schema allows, and how many fields are right. Expected with SmolLM2-135M-Instruct: docs/figures.md.
# Usage: extraction.sh FLEXGEN MODEL
set -euo pipefail
flexgen=$1 model=$2 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/train.tsv" <<'TABLE'
sentence	facts
Anna Berg was born in Oslo in 1962.	{"name": "Anna Berg", "city": "Oslo", "year": 1962}
In 1887 Marek Nowak was born in Krakow, the third of five children.	{"name": "Marek Nowak", "city": "Krakow", "year": 1887}
Lisbon, 1930: Rita Alves is born.	{"name": "Rita Alves", "city": "Lisbon", "year": 1930}
TABLE
cat >"$work/test.tsv" <<'TABLE'
sentence	facts
Peter Stone was born in Dublin in 1951.	{"name": "Peter Stone", "city": "Dublin", "year": 1951}
In 1911 Elena Rossi was born in Turin, above her father's bakery.	{"name": "Elena Rossi", "city": "Turin", "year": 1911}
Kyoto, 1978: Kenji Mori is born.	{"name": "Kenji Mori", "city": "Kyoto", "year": 1978}
The painter Olga Petrova, born 1899 in Kiev, never left the city.	{"name": "Olga Petrova", "city": "Kiev", "year": 1899}
TABLE
cat >"$work/schema.json" <<'SCHEMA'
{"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}, "city": {"type": "string", "maxLength": 30}, "year": {"type": "integer", "minimum": 1000, "maximum": 2100}},
 "required": ["name", "city", "year"]}
SCHEMA
"$flexgen" map --model "$model" -i "$work/test.tsv" -o "$work/facts.tsv" --cpu-memory 2GiB --prompt-template 'Sentence: {{ sentence }} Facts:' --examples "$work/train.tsv" --shots 3 \
  --answer-column facts --json-schema "$work/schema.json" --max-tokens 80
