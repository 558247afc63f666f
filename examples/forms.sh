#!/usr/bin/env bash
# Messy invoice lines to JSON, by the demo's model in 3 MiB of RAM: the demo as a table. Expected: 1498 of 1500 fields right (with AVX512-BF16).
# Usage: forms.sh FLEXGEN [LINES]
set -euo pipefail
flexgen=$(realpath "$1") lines=${2:-300} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$(dirname "$0")/../demo"
python3 - "$work" "$lines" <<'PYTHON'
import json, sys
with open("requests.jsonl") as requests, open(f"{sys.argv[1]}/forms.jsonl", "w") as out:
    for line in list(requests)[:int(sys.argv[2])]:
        one = json.loads(line)
        out.write(json.dumps({"id": one["custom_id"], "text": one["body"]["prompt"].removesuffix("\n=>")}) + "\n")
PYTHON
"$flexgen" map --model model -i "$work/forms.jsonl" -o "$work/read.jsonl" --prompt-template $'{{ text }}\n=>' --output-column record --max-tokens 96 \
  --cpu-memory 3MiB --disk-dir "$work" --disk-space 256MiB --expected-tokens 36
python3 - "$work" <<'PYTHON'
import json, sys
read = [json.loads(json.loads(line)["record"]) for line in open(f"{sys.argv[1]}/read.jsonl")]
expected = [json.loads(line)["fields"] for line in open("expected.jsonl")][:len(read)]
print(f"fields right: {sum(fields[key] == given.get(key) for fields, given in zip(expected, read) for key in fields)} of {sum(map(len, expected))}")
PYTHON
