#!/usr/bin/env bash
# Benchmarks by lm-evaluation-harness, 64 requests at a time, on tasks that need no network. Expected with SmolLM2-135M-Instruct: docs/benchmarks.md.
# Usage: benchmark.sh FLEXGEN MODEL [LM_EVAL_FLAG ...]   (MODEL: a folder; needs: pip install 'lm_eval[api]' transformers)
set -euo pipefail
flexgen=$(realpath "$1") model=$(realpath "$2") work=$(mktemp -d) server=
trap 'kill $server 2>/dev/null || true; wait; rm -rf "$work"' EXIT
cd "$(dirname "$0")/.."
length=$(python3 -c 'import json, sys; print(min(2048, json.load(open(sys.argv[1] + "/config.json"))["max_position_embeddings"]))' "$model")
"$flexgen" serve --model "$model" --port 0 --cpu-memory 4GiB --compute-dtype f32 --max-model-len "$length" --max-num-seqs 64 --served-model-name model 2>"$work/log" &
server=$!
until url=$(grep -o 'http://[^ ]*' "$work/log"); do
  kill -0 $server || { cat "$work/log" >&2; exit 1; }
  sleep 0.2
done
python3 -m lm_eval --model local-completions --include_path examples/lm_eval --tasks flexgen_facts,flexgen_last_word,flexgen_whole_text,flexgen_answers --model_args \
  "model=model,base_url=$url/v1/completions,tokenizer_backend=huggingface,tokenizer=$model,add_bos_token=True,num_concurrent=64,max_length=$length,timeout=86400" "${@:3}"
