#!/usr/bin/env python3
"""How good the planner's choice is: its policy against a measured sweep, for some settings of shape, budget and types.

    bench/plan_choice.py --flexgen build/release/flexgen --disk-dir DIR --policies 30 --json OUT.json [--settings 0,3]

A sweep takes policies that fit: a grid of blocks, micro-batches, rows and buffers, with RAM filled by the first rule's and by the planner's shares. Predicted times
order nothing here: every policy is run. A policy that takes four times as long as the planned one (and 20 s) is stopped and counts with that time."""
import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile

# (shape, budget, weight type, cache type, prompts, prompt lengths, generated): jobs of some ten seconds on two cores.
SETTINGS = [
    ("opt-1.3b", "1.2GiB", "auto", "bf16", 16, "8:32", "2:4"),
    ("opt-1.3b", "3GiB", "auto", "bf16", 16, "8:32", "4:8"),
    ("opt-2.7b", "1.5GiB", "auto", "bf16", 8, "8:32", "2:3"),
    ("opt-2.7b", "2GiB", "int4", "int4", 8, "8:32", "3:6"),
    ("qwen3-1.7b", "1.5GiB", "auto", "bf16", 16, "8:24", "2:4"),
    ("qwen3-4b", "2GiB", "int4", "bf16", 6, "8:24", "2:4"),
]


def bench(args, setting, flags, timeout_s=None):
    shape, budget, weights, cache, prompts, prompt_len, gen_len = setting
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [args.flexgen, "bench", "--model", shape, "--load-format", "dummy", "--no-efficiency", "--cpu-memory", budget, "--disk-dir", args.disk_dir, "--weight-dtype", weights,
                   "--kv-cache-dtype", cache, "--num-prompts", str(prompts), "--prompt-len", prompt_len, "--gen-len", gen_len, "--json", out.name] + flags + (["--disk-bandwidth", args.disk_bandwidth] if args.disk_bandwidth else [])
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        if run.returncode == 0:
            return json.load(open(out.name))
        if "cannot run within" not in run.stderr and "needs" not in run.stderr:
            sys.exit(f"{' '.join(command)}\n{run.stderr}")
        return None


def flags_of(policy, **changes):
    policy = {**policy, **changes}
    flags = []
    for name, flag in (("micro_batch_size", "--micro-batch-size"), ("num_micro_batches", "--num-micro-batches"), ("max_rows", "--max-rows"), ("buffers", "--buffers"),
                       ("weights", "--weights"), ("kv_cache", "--kv-cache"), ("activations", "--activations")):
        if policy.get(name) is not None:
            flags += [flag, str(policy[name])]
    if policy.get("weight_buffers", 0) > policy.get("buffers", 0) > 1:
        flags += ["--weight-buffers", str(policy["weight_buffers"])]
    return flags


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--disk-dir", required=True)
    parser.add_argument("--policies", type=int, default=30)
    parser.add_argument("--settings", default="", help="numbers from 0, comma-separated; all if left out")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the planned policy and of the sweep's best, in turns; the median of each counts")
    parser.add_argument("--disk-bandwidth", default="", help="of every job: a speed that a shared disk has in any weather")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    results = []
    wanted = [int(number) for number in args.settings.split(",") if number] or range(len(SETTINGS))
    for number in wanted:
        setting = SETTINGS[number]
        prompts = setting[4]
        planned = bench(args, setting, [])
        if planned is None:
            sys.exit(f"setting {number} {setting}: the planner found nothing that fits")
        rng = random.Random(args.seed + number)
        blocks = sorted({max(1, prompts // part) for part in (1, 2, 3, 4, 8)})
        grid = [(block, batches, rows, buffers, spill) for block, batches, rows, buffers, spill in
                itertools.product(blocks, (1, 2, 3), (0.5, 1, 2, 4), (2, 3), (True, False)) if block >= batches]
        rng.shuffle(grid)
        runs = []
        for block, batches, rows, buffers, spill in grid:
            if len(runs) >= args.policies:
                break
            size = -(-block // batches)
            policy = {"micro_batch_size": size, "num_micro_batches": batches, "max_rows": max(size, int(rows * 32)), "buffers": buffers,
                      "kv_cache": "0:0:100" if spill else "0:100:0"}
            # The weights take the RAM that is left: filled by the planner around what is fixed.
            limit_s = max(20, 4 * planned["elapsed_s"])
            try:
                result = bench(args, setting, flags_of(policy), timeout_s=limit_s)
            except subprocess.TimeoutExpired:
                runs.append({"policy": policy, "time_s": limit_s, "stopped": True})
                print(f"setting {number}: over {limit_s:.1f} s {policy}", flush=True)
                continue
            if result is None:
                continue
            runs.append({"policy": result["policy"], "time_s": result["elapsed_s"], "predicted_s": result["predicted"]["time_s"]})
            print(f"setting {number}: {result['elapsed_s']:7.1f} s (predicted {result['predicted']['time_s']:7.1f}) {result['policy']}", flush=True)
        best = min(runs, key=lambda run: run["time_s"])

        # In turns, so that a disk that changes its speed meanwhile favours neither; the best of a sweep was lucky once, so its first time does not count.
        times = {"planned": [], "best": []}
        for _ in range(args.repeat):
            for name, policy in (("planned", planned["policy"]), ("best", best["policy"])):
                times[name].append(bench(args, setting, flags_of(policy))["elapsed_s"])
        planned_s, best_s = (statistics.median(times[name]) for name in ("planned", "best"))
        results.append({"setting": setting, "planned_policy": planned["policy"], "planned_s": planned_s, "best_policy": best["policy"], "best_s": best_s, "times_s": times, "sweep": runs})
        print(f"setting {number} {' '.join(map(str, setting))}: planned {planned_s:.1f} s, best of {len(runs)} {best_s:.1f} s: {planned_s / best_s - 1:+.1%}", flush=True)
        if args.json:
            json.dump(results, open(args.json, "w"), indent=1)


main()
