#!/usr/bin/env python3
"""How near predictions come: for random policies on dummy shapes the linear program, the cost model, the simulated executor and the measured run.

    bench/plan_accuracy.py --flexgen build/release/flexgen --disk-dir DIR --count 24 --json OUT.json --figure OUT.svg

Measure the machine first (flexgen doctor --measure --disk-dir DIR), and let nothing else run. Shared disks change their speed within minutes: --refresh-disk
measures the disk anew before and after each policy (doctor --measure --disk-only), so that what is judged is the model and not the weather: a run between whose two
measurements the disk's reading changed by more than a tenth is run again, three times at most. Steadier still is --disk-bandwidth, which holds every job to a speed that
the disk has in any weather. --refresh does as much for cores and memory that are shared with other guests: what is judged is then the quick measurement that a first run makes.
Policies are drawn at random
from a seed; those that do not fit, or are predicted to take more than --limit-s, are drawn anew. Errors are measured time over predicted time, less one."""
import argparse
import glob
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile

# (shape, budgets in GiB, prompts, tokens of a prompt, generated): jobs that take some ten seconds each on two cores.
JOBS = [
    ("opt-1.3b", [1.2, 1.8, 4], [8, 16, 24, 32], (16, 64), (2, 6)),
    ("opt-6.7b", [2, 4, 8], [4, 8, 12], (8, 32), (1, 3)),
    ("llama-3.1-8b", [3, 5, 9], [4, 8, 12], (8, 24), (1, 3)),
    ("gemma-3-4b", [3, 4, 6], [4, 8, 12, 16], (8, 48), (1, 4)),
    ("phi-4", [5, 8, 12], [4, 8], (8, 24), (1, 2)),
]


def draw(rng, shapes):
    shape, budgets, counts, prompt, gen = rng.choice([job for job in JOBS if not shapes or job[0] in shapes])
    prompts = rng.choice(counts)
    batches = rng.randint(1, 3)
    size = max(1, -(-prompts * rng.choice([1, 2, 3]) // (3 * batches)))
    weights = rng.choice([0, 10, 25, 50, 75])
    flags = ["--num-prompts", prompts, "--prompt-len", f"{prompt[0]}:{prompt[1]}", "--gen-len", f"{gen[0]}:{gen[1]}", "--seed", rng.randint(1, 1000),
             "--cpu-memory", f"{rng.choice(budgets)}GiB", "--micro-batch-size", size, "--num-micro-batches", batches, "--buffers", rng.choice([1, 2, 2, 3, 3]),
             "--max-rows", max(size, rng.choice([16, 32, 64, 128, 256])), "--weights", f"0:{weights}:{100 - weights}"]
    cache = rng.choice([0, 50, 100, 100])
    flags += ["--kv-cache", f"0:{cache}:{100 - cache}", "--activations", rng.choice(["0:100:0", "0:100:0", "0:100:0", "0:0:100"])]
    if rng.random() < 0.35:
        flags += ["--weight-dtype", "int4"]
    flags += ["--kv-cache-dtype", rng.choice(["bf16", "bf16", "int4"])]
    return shape, [str(flag) for flag in flags]


def run(command):
    """What the command prints; None where the policy does not fit."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    if "smallest budget" not in done.stderr and "cannot run within" not in done.stderr:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return None


def cache_directory():
    """Where flexgen keeps profiles and dummy weights, as src/measure/cache_directory.cc has it."""
    if own := os.environ.get("FLEXGEN_CACHE_DIR"):
        return own
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache"), "flexgen")


def read_speed(args, shape):
    """Bytes a second that the disk reads now; the profile that flexgen keeps gets it."""
    dummy = os.path.join(cache_directory(), f"dummy-{shape}-bf16")
    done = subprocess.run([args.flexgen, "doctor", "--measure", "--disk-only", "--json", "--disk-dir", args.disk_dir] + (["--model", dummy] if os.path.exists(dummy) else []),
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["disk"]["read_bytes_per_s"]


def run_steadily(args, shape, bench):
    """Runs it, with --refresh-disk again while the disk changes meanwhile; whether it fits, the number of runs, and by how much the disk changed during the last."""
    if not args.refresh_disk:
        return run(bench) is not None, 1, 0
    before = read_speed(args, shape)
    for runs in range(1, 4):
        if run(bench) is None:
            return False, runs, 0
        after = read_speed(args, shape)
        changed, before = after / before - 1, after
        if abs(changed) <= 0.1:
            break
    return True, runs, changed


def figure(rows):
    """Measured over predicted seconds as SVG, both axes logarithmic; within the band is within 15%."""
    size, margin = 420, 60
    times = [row[name] for row in rows for name in ("program_s", "measured_s") if row[name] > 0]
    low, high = math.log(min(times) / 1.3), math.log(max(times) * 1.3)

    def at(seconds):
        return (math.log(seconds) - low) / (high - low) * size

    def x(seconds):
        return margin + at(seconds)

    def y(seconds):
        return margin / 2 + size - at(seconds)

    first, last = math.exp(low), math.exp(high)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{size + 2 * margin}" height="{size + 2 * margin}" font-family="sans-serif" font-size="11">',
           f'<clipPath id="plot"><rect x="{margin}" y="{margin / 2}" width="{size}" height="{size}"/></clipPath>',
           f'<rect x="{margin}" y="{margin / 2}" width="{size}" height="{size}" fill="white" stroke="gray"/>',
           f'<g clip-path="url(#plot)"><polygon points="{x(first)},{y(1.15 * first)} {x(last)},{y(1.15 * last)} {x(last)},{y(0.85 * last)} {x(first)},{y(0.85 * first)}" fill="#e8eef8"/>',
           f'<line x1="{x(first)}" y1="{y(first)}" x2="{x(last)}" y2="{y(last)}" stroke="gray"/></g>']
    for seconds in (s * 10**power for power in range(-1, 4) for s in (1, 2, 5)):
        if first < seconds < last:
            out += [f'<text x="{x(seconds):.1f}" y="{margin / 2 + size + 15}" text-anchor="middle">{seconds:g}</text>',
                    f'<text x="{margin - 6}" y="{y(seconds) + 4:.1f}" text-anchor="end">{seconds:g}</text>']
    colors = {job[0]: color for job, color in zip(JOBS, ("#1b6ca8", "#c05020", "#2d8a4e", "#7a3e9d", "#8a6d1b"))}
    for row in rows:
        if row["program_s"] > 0:
            policy = " ".join(row["flags"]).replace("&", "&amp;")
            out.append(f'<circle cx="{x(row["program_s"]):.1f}" cy="{y(row["measured_s"]):.1f}" r="4" fill="{colors[row["shape"]]}" fill-opacity="0.7"><title>{policy}</title></circle>')
    for number, (name, color) in enumerate(colors.items()):
        out.append(f'<circle cx="{margin + 15}" cy="{margin / 2 + 15 + 16 * number}" r="4" fill="{color}"/><text x="{margin + 25}" y="{margin / 2 + 19 + 16 * number}">{name}</text>')
    out += [f'<text x="{margin + size / 2}" y="{margin / 2 + size + 35}" text-anchor="middle">seconds, as the linear program predicted</text>',
            f'<text transform="translate(15 {margin / 2 + size / 2}) rotate(-90)" text-anchor="middle">seconds, as measured (band: 15%)</text>', "</svg>"]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--disk-dir", required=True, help="for spilled data and prepared weights")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shapes", default="", help="comma-separated; all if left out")
    parser.add_argument("--limit-s", type=float, default=60, help="leave out policies that are predicted to take longer")
    parser.add_argument("--refresh-disk", action="store_true", help="measure the disk before each policy")
    parser.add_argument("--refresh", action="store_true", help="forget this machine's profile before each policy, so that its plan measures anew, quickly, as a first run does")
    parser.add_argument("--disk-bandwidth", default="", help="of every job")
    parser.add_argument("--extra", default="", help="more flags for bench, in one text")
    parser.add_argument("--json", default="")
    parser.add_argument("--figure", default="", help="measured over predicted times, as SVG")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    shapes = [name for name in args.shapes.split(",") if name]
    rows, attempts = [], 0
    print(f"{'shape':13}{'program':>9}{'model':>9}{'simulated':>11}{'measured':>10}{'to program':>12}{'to model':>10}{'sim/meas':>10}  policy", flush=True)
    while len(rows) < args.count and attempts < 20 * args.count:
        attempts += 1
        shape, flags = draw(rng, shapes)
        if args.refresh:
            for profile in glob.glob(os.path.join(glob.escape(cache_directory()), "hardware-*.json")):
                os.remove(profile)
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            job = ["--model", shape, "--disk-dir", args.disk_dir] + flags + (["--disk-bandwidth", args.disk_bandwidth] if args.disk_bandwidth else [])
            plan = run([args.flexgen, "plan", "--json"] + job)
            if plan is None or json.loads(plan)["predicted"]["time_s"] > args.limit_s:
                continue
            bench = [args.flexgen, "bench", "--load-format", "dummy", "--no-efficiency", "--simulate", "--json", out.name] + job + args.extra.split()
            fits, runs, changed = run_steadily(args, shape, bench)
            if not fits:
                continue
            result = json.load(open(out.name))
        measured, model = result["elapsed_s"], result["predicted"]["time_s"]
        program, simulated = result["predicted"]["program_time_s"], result["simulated"]["time_s"]
        row = {"shape": shape, "flags": flags, "program_s": program, "model_s": model, "simulated_s": simulated, "measured_s": measured, "runs": runs, "disk_changed": changed,
               "lanes": {name: lane["busy_s"] for name, lane in result["lanes"].items()}, "predicted_lanes": result["predicted"]["lanes"]}
        rows.append(row)
        if args.json:
            json.dump({"policies": rows}, open(args.json, "w"), indent=1)
        policy = result["policy"]
        kinds = " int4 weights" if "--weight-dtype" in flags else ""
        print(f"{shape:13}{program:8.1f}s{model:8.1f}s{simulated:10.1f}s{measured:9.1f}s{measured / program - 1 if program else 0:+11.0%} {measured / model - 1:+9.0%} {simulated / measured:10.2f}"
              f"  {policy['micro_batch_size']}x{policy['num_micro_batches']} rows {policy['max_rows']} buffers {policy['buffers']} {policy['weights']} {policy['kv_cache']} {policy['activations']}{kinds}"
              f"{f'; run {runs}, disk {changed:+.0%} meanwhile' if runs > 1 or abs(changed) > 0.1 else ''}",
              flush=True)
    errors = {name: [abs(row["measured_s"] / row[name] - 1) for row in rows if row[name] > 0] for name in ("program_s", "model_s", "simulated_s")}
    errors["simulated_over_model"] = [abs(row["simulated_s"] / row["model_s"] - 1) for row in rows]
    summary = {name: {"median": statistics.median(values), "worst": max(values)} for name, values in errors.items() if values}
    for name, value in summary.items():
        print(f"{name:22} median error {value['median']:.1%}, worst {value['worst']:.1%} over {len(errors[name])} policies")
    if args.json:
        json.dump({"policies": rows, "summary": summary}, open(args.json, "w"), indent=1)
    if args.figure:
        with open(args.figure, "w") as file:
            file.write(figure(rows))


main()
