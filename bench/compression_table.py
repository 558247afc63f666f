#!/usr/bin/env python3
"""What 4 bits of weights and of KV cache are worth for one job: a table of time, tokens/s, bytes moved by each lane and efficiency, all from one run, each job inside a
memory cgroup of the budget + 512 MiB.

    bench/compression_table.py --flexgen build/release/flexgen --shape llama-3.1-8b --prompts 256 1024 --out table.json

Needs root (for the cgroup). Dummy weights and prepared weights are written before anything is timed, and kept.
"""
import argparse
import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
FORMS = {"bf16": [], "int4 weights": ["--weight-dtype", "int4"], "int4 cache": ["--kv-cache-dtype", "int4"],
         "both int4": ["--weight-dtype", "int4", "--kv-cache-dtype", "int4"]}


def bench(args, form, prompts, prompt_len, gen_len, cap=None):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.flexgen, "bench", "--model", args.shape, "--cpu-memory", args.memory, "--disk-dir", args.disk_dir, "--num-prompts", str(prompts),
                   "--prompt-len", prompt_len, "--gen-len", gen_len, "--json", file.name, *FORMS[form], *args.extra]
        if cap:
            command = [os.path.join(HERE, "memory_cap.sh"), str(cap), *command]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        return json.load(open(file.name))


def size_bytes(text):
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(text[:-3]) * units[text[-3:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--memory", default="6GiB")
    parser.add_argument("--disk-dir", default=os.path.expanduser("~/.cache/flexgen"))
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--prompt-len", default="64:192")
    parser.add_argument("--gen-len", default="32")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--out")
    parser.add_argument("extra", nargs="*", help="flags for flexgen bench, after --")
    args = parser.parse_args()
    cap = size_bytes(args.memory) + (512 << 20)

    for form in args.forms:  # writes what is not there yet
        bench(args, form, 1, "1", "1")
    runs = {}
    for prompts in args.prompts:
        print(f"\n{args.shape}, {prompts} prompts of {args.prompt_len} tokens, {args.gen_len} generated, --cpu-memory {args.memory}\n")
        print("| | time | generated tokens/s | of bf16 | busiest (bound) | disk read | disk write | compute busy | efficiency |\n" + "| --- " * 9 + "|")
        for form in args.forms:
            run = bench(args, form, prompts, args.prompt_len, args.gen_len, cap)
            runs[f"{prompts} {form}"] = run
            base = runs[f"{prompts} {args.forms[0]}"]
            lanes = run["lanes"]
            print(f"| {form} | {run['elapsed_s']:.0f} s | {run['generated_tokens_per_s']:.2f} | {base['elapsed_s'] / run['elapsed_s']:.2f} | {run['bound_lane']} | "
                  f"{lanes['disk read']['bytes'] / 1e9:.1f} GB | {lanes['disk write']['bytes'] / 1e9:.1f} GB | {lanes['compute']['busy_s']:.0f} s | {run['efficiency']:.3f} |", flush=True)
            if args.out:
                json.dump(runs, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
