#!/usr/bin/env bash
# The demo: a few hundred messy invoice lines to JSON, in a RAM budget far below model + cache, so that weights and KV cache come from disk.
# Usage: demo/run.sh FLEXGEN_BINARY
set -euo pipefail
flexgen=$(realpath "$1")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "The model:"
"$flexgen" inspect model
echo
echo "300 invoice lines it has never seen, for example:"
head -n 3 requests.jsonl | sed -E 's/.*"prompt": "(.*)\\n=>".*/  \1/'
echo
echo "run-batch with 3 MiB of RAM for weights, KV cache and activations:"
# Records like these, also of other lines than the demo's, are 36 tokens on average; their max_tokens of 96 leaves room. Untold, it would plan for 96.
"$flexgen" run-batch --model model -i requests.jsonl -o "$work/answers.jsonl" \
  --cpu-memory 3MiB --disk-dir "$work" --disk-space 256MiB --expected-tokens 36 --efficiency
echo
echo "First answers:"
head -n 3 "$work/answers.jsonl" | sed -E 's/.*"text":"(.*)","logprobs".*/  \1/; s/\\"/"/g'
echo
python3 score.py "$work/answers.jsonl" expected.jsonl
