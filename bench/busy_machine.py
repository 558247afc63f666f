#!/usr/bin/env python3
"""What a job loses beside other programs: alone, beside busy loops, and two jobs at once, in turns of one run. Medians of --rounds.

    bench/busy_machine.py --flexgen build/release/flexgen --out busy.json

Two models: the shape smollm2-135m, and llama-3.1-8b with 4 of its 32 layers and an eighth of its vocabulary, so that a round takes seconds. A loop is a process that counts. Seconds are of the
whole process, as a user waits for it; of two jobs at once the slower one's. --against names another flexgen that runs alone in each round too, right before or after (in turns).
The machine should be quiet otherwise. Before each run as much memory as it takes is touched and freed: in a virtual machine the first touch of a page may take the host as long as the job computes, and
two jobs at once would alone pay for it. Dummy weights are written before anything is timed, and kept in --dummy-dir.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "head_dim": 64}
MODELS = {
    "smollm2-135m": {**LLAMA, "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
                     "max_position_embeddings": 8192, "rope_theta": 100000.0, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0},
    "llama-3.1-8b/4-layers": {**LLAMA, "num_hidden_layers": 4, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                              "vocab_size": 16032, "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2},
}
JOBS = {"smollm2-135m": ["--num-prompts", "16", "--prompt-len", "200", "--gen-len", "32"],
        "llama-3.1-8b/4-layers": ["--num-prompts", "4", "--prompt-len", "64", "--gen-len", "8"]}
LOOPS = (1, 2, 4)


class Job:
    def __init__(self, args, flexgen, model, folder):
        config = os.path.join(folder, model.replace("/", "-"))
        os.makedirs(config, exist_ok=True)
        with open(os.path.join(config, "config.json"), "w") as file:
            json.dump(MODELS[model], file)
        self.begin = time.monotonic()
        self.command = [flexgen, "bench", "--model", os.path.join(config, "config.json"), "--load-format", "dummy", "--dummy-dir", args.dummy_dir, "--planner", "first-rule",
                        "--no-efficiency", "--cpu-memory", args.memory, *JOBS[model], *args.extra]
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def seconds(self):
        _, errors = self.process.communicate()
        if self.process.returncode != 0:
            raise SystemExit(f"{' '.join(self.command)}\n{errors[-3000:]}")
        return time.monotonic() - self.begin


def touch_memory(gib):
    subprocess.run([sys.executable, "-c", f"b'1' * ({gib} << 30)"], check=True)


def run(args, condition, model, folder):
    """Seconds of one job under the condition."""
    touch_memory(args.touch_gib)
    if condition == "two jobs at once":
        both = [Job(args, args.flexgen, model, folder) for _ in range(2)]
        return max(job.seconds() for job in both)
    if condition == "alone, the other flexgen":
        return Job(args, args.against, model, folder).seconds()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(int(condition.split()[1]))] if condition.startswith("beside") else []
    try:
        if loops:
            time.sleep(0.3)
        return Job(args, args.flexgen, model, folder).seconds()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--against", help="another flexgen, run alone")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--conditions", nargs="+", help="of the table's first column (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--touch-gib", type=int, default=5, help="memory that is touched before each run; two jobs of the larger model take 4 GiB")
    parser.add_argument("--dummy-dir", default=os.path.expanduser("~/.cache/flexgen"))
    parser.add_argument("--out", help="write the figures here too")
    parser.add_argument("extra", nargs="*", help="flags for flexgen bench, after --")
    args = parser.parse_args()
    conditions = ["alone"] + (["alone, the other flexgen"] if args.against else []) + [f"beside {n} busy loop{'s' if n > 1 else ''}" for n in LOOPS] + ["two jobs at once"]
    if args.conditions:
        conditions = [name for name in conditions if name in args.conditions or name == "alone"]

    result = {"machine": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)), "rounds": args.rounds, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            run(args, "alone", model, folder)  # writes the weights
            times = {name: [] for name in conditions}
            for number in range(args.rounds):
                order = conditions if number % 2 == 0 else list(reversed(conditions))
                for name in order:
                    times[name].append(run(args, name, model, folder))
            alone = statistics.median(times["alone"])
            print(f"\n{model}, {' '.join(JOBS[model])}, {result['cores']} cores, medians of {args.rounds}\n\n| | seconds | of alone | all rounds |\n| --- | --- | --- | --- |")
            for name in conditions:
                median = statistics.median(times[name])
                print(f"| {name} | {median:.2f} | {median / alone:.2f} | {' '.join(f'{t:.2f}' for t in times[name])} |", flush=True)
            result["models"][model] = {"job": JOBS[model], "seconds": times}
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
