#!/usr/bin/env bash
# The 8B-shaped job of the README: dummy weights larger than the memory it may use, inside a memory cgroup of the budget + 512 MiB, and fio's direct
# reads of the same disk just before and after.
# Usage: bench/job_under_cap.sh FLEXGEN OUT.json [SHAPE [NUM_PROMPTS [EXTRA FLAGS...]]]      (needs root for the cgroup, and fio)
set -euo pipefail
here=$(dirname "$(realpath "$0")")
flexgen=$1 out=$2 shape=${3:-llama-3.1-8b} prompts=${4:-256}
shift $(($# < 4 ? $# : 4))
weights=${DUMMY_DIR:-$HOME/.cache/flexgen}
budget=$((6 * 1024 * 1024 * 1024))

# Written outside the cap if it is not there yet.
"$flexgen" bench --model "$shape" --dummy-dir "$weights" --num-prompts 1 --prompt-len 1 --gen-len 1 --cpu-memory 6GiB >/dev/null
file=$weights/dummy-$shape-bf16/model.safetensors

fio_read() {
  fio --name=read --filename="$file" --readonly --rw=read --bs=1M --direct=1 --ioengine=io_uring --iodepth=32 --runtime=6 --time_based --size=8G \
    --output-format=json | python3 -c 'import json,sys; print(json.load(sys.stdin)["jobs"][0]["read"]["bw_bytes"])'
}
before=$(fio_read)
"$here/memory_cap.sh" $((budget + 512 * 1024 * 1024)) "$flexgen" bench --model "$shape" --dummy-dir "$weights" --cpu-memory 6GiB \
  --num-prompts "$prompts" --prompt-len 64:192 --gen-len 32 --json "$out" "$@"
after=$(fio_read)
python3 - "$out" "$before" "$after" <<'PY'
import json, sys
path, before, after = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
figures = json.load(open(path))
lane = figures["lanes"]["disk read"]
speed = lane["bytes"] / max(lane["busy_s"], 1e-9)
figures["fio_read_bytes_per_s"] = [before, after]
figures["disk_lane_bytes_per_s"] = speed
json.dump(figures, open(path, "w"), indent=1)
print(f"fio direct read {before / 1e9:.2f} GB/s before, {after / 1e9:.2f} GB/s after; disk lane while busy {speed / 1e9:.2f} GB/s")
PY
