#!/usr/bin/env python3
"""What each part is worth, as in FlexGen's ablation table: one job with everything, and with one thing taken away at a time.

    bench/ablation.py --flexgen build/release/flexgen --disk-dir DIR --model opt-6.7b --cpu-memory 6GiB --num-prompts 64 --prompt-len 64:192 --gen-len 32 --json OUT.json

Row by row is one micro-batch at a time through all layers: a block of a single micro-batch no larger than memory allows without the zig-zag order."""
import argparse
import json
import subprocess
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--disk-dir", required=True)
    parser.add_argument("--model", default="opt-6.7b")
    parser.add_argument("--cpu-memory", default="6GiB")
    parser.add_argument("--num-prompts", default="64")
    parser.add_argument("--prompt-len", default="64:192")
    parser.add_argument("--gen-len", default="32")
    parser.add_argument("--types", default="int4", help="weights and cache of 'all'")
    parser.add_argument("--disk-bandwidth", default="", help="of every job: a speed that a shared disk has in any weather")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    rows = {}

    def bench(name, flags, disk=True, types=args.types):
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [args.flexgen, "bench", "--model", args.model, "--load-format", "dummy", "--no-efficiency", "--cpu-memory", args.cpu_memory, "--num-prompts", args.num_prompts,
                       "--prompt-len", args.prompt_len, "--gen-len", args.gen_len, "--json", out.name] + flags + (["--disk-bandwidth", args.disk_bandwidth] if args.disk_bandwidth else [])
            command += ["--weight-dtype", types if types in ("int4", "int8") else "auto", "--kv-cache-dtype", types]
            if disk:
                command += ["--disk-dir", args.disk_dir]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode != 0:
                rows[name] = {"error": run.stderr.strip().splitlines()[-1]}
                print(f"{name:28} {rows[name]['error']}", flush=True)
                return None
            result = json.load(open(out.name))
        rows[name] = result
        full = rows["all"].get("elapsed_s", 0)
        print(f"{name:28}{result['elapsed_s']:9.1f} s {result['generated_tokens_per_s']:9.2f} generated tokens/s  {full / result['elapsed_s']:.2f} of all  {result['policy']}", flush=True)
        return result

    everything = bench("all", [])
    bench("no planner (first rule)", ["--planner", "first-rule"])
    bench("no overlap (one buffer)", ["--buffers", "1"])
    bench("16 bits", [], types="bf16")
    if everything:
        policy = everything["policy"]
        # FlexGen's row-by-row baseline finishes one batch before the next begins: the block is a single micro-batch of the plan's size.
        size = max(1, policy["micro_batch_size"] if policy["num_micro_batches"] > 1 else policy["micro_batch_size"] // 4)
        bench("row by row", ["--num-micro-batches", "1", "--micro-batch-size", str(size)])
    bench("no disk: cache, activations", ["--kv-cache", "0:100:0", "--activations", "0:100:0"])
    bench("no disk at all", ["--weights", "0:100:0", "--kv-cache", "0:100:0", "--activations", "0:100:0"])
    if args.json:
        json.dump(rows, open(args.json, "w"), indent=1)


main()
