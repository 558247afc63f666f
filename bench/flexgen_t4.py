#!/usr/bin/env python3
"""FlexGen's published runs on a T4 (16 GB, 208 GB of RAM, an SSD), predicted: its own policies under our cost model, and the policy that our planner takes
on the same machine. 512 prompt tokens, 32 generated.

    bench/flexgen_t4.py --flexgen build/release/flexgen --json OUT.json

The profile, bench/t4.json, is made of the paper's constants: 12.89 GB/s from RAM to the GPU, disk 2 GB/s read and 1 GB/s write, 21.2 TFLOP/s in prefill, 4.3 TFLOP/s in decode (few rows),
GPU attention at 250 GB/s of the T4's 320 GB/s, attention on the CPU at 12 GB/s of cache. Each gap is explained in docs/flexgen_t4.md."""
import argparse
import json
import os
import subprocess
import tempfile

PROFILE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "t4.json")

# (model, published generated tokens/s, (weights, cache), FlexGen's policy: size, number of batches, weights, cache, activations, where its attention ran)
RUNS = [
    ("opt-6.7b", 25.26, ("auto", "bf16"), "2x1, all on GPU", 2, 1, "100:0:0", "100:0:0", "100:0:0", "gpu"),
    ("opt-30b", 7.32, ("auto", "bf16"), "48x3", 48, 3, "20:80:0", "0:100:0", "0:100:0", "cpu"),
    ("opt-175b", 0.69, ("auto", "bf16"), "32x8", 32, 8, "0:50:50", "0:0:100", "0:100:0", "cpu"),
    ("opt-6.7b", 29.12, ("int4", "int4"), "72x1, weights and cache compressed", 72, 1, "100:0:0", "100:0:0", "100:0:0", "gpu"),
    ("opt-30b", 8.38, ("auto", "int4"), "64x8, cache compressed", 64, 8, "0:100:0", "0:100:0", "100:0:0", "gpu"),
    ("opt-175b", 1.12, ("int4", "int4"), "48x3, weights and cache compressed", 48, 3, "0:100:0", "0:100:0", "100:0:0", "gpu"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as spill:
        print(f"{'model':10}{'types':12}{'published':>10}{'their policy, our cost':>24}{'our plan':>10}  bottleneck; our policy")
        for model, published, types, name, size, batches, weights, cache, activations, attention in RUNS:
            prompts = size * batches
            base = [args.flexgen, "plan", "--json", "--model", model, "--hardware", PROFILE, "--gpu-memory", "16GB", "--cpu-memory", "208GB", "--disk-dir", spill,
                    "--disk-space", "1500GB", "--prompt-len", "512", "--gen-len", "32", "--compute-dtype", "bf16", "--kv-cache-dtype", types[1], "--weight-dtype", types[0]]
            theirs = subprocess.run(base + ["--num-prompts", str(prompts), "--micro-batch-size", str(size), "--num-micro-batches", str(batches), "--buffers", "2",
                                            "--weights", weights, "--kv-cache", cache, "--activations", activations, "--attention-on", attention], capture_output=True, text=True)
            # Enough sequences that a large block pays.
            ours = subprocess.run(base + ["--num-prompts", str(max(1024, prompts))], capture_output=True, text=True)
            row = {"model": model, "types": types, "published_tokens_per_s": published, "flexgen_policy": name}
            for key, run in (("their_policy", theirs), ("our_plan", ours)):
                row[key] = json.loads(run.stdout) if run.returncode == 0 else {"error": run.stderr.strip()}
            results.append(row)

            def speed(key):
                if "predicted" not in row[key]:
                    return "does not fit"
                # The paper's clock starts with the weights in place.
                predicted = row[key]["predicted"]
                row[key]["tokens_per_s_after_loading"] = row[key]["job"]["generated_tokens"] / (predicted["time_s"] - predicted["load_time_s"])
                return f"{row[key]['tokens_per_s_after_loading']:.2f}"

            print(f"{model:10}{'/'.join(types):12}{published:10.2f}{speed('their_policy'):>24}{speed('our_plan'):>10}  {row['our_plan'].get('binding', row['our_plan'].get('error', ''))}; "
                  f"{row['our_plan'].get('policy', '')}{' | theirs: ' + row['their_policy']['error'] if 'error' in row['their_policy'] else ''}", flush=True)
    if args.json:
        json.dump(results, open(args.json, "w"), indent=1)


main()
