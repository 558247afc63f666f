#!/usr/bin/env python3
"""What it gains to compute once what prompts have in common: jobs with --prefix-sharing auto and off, in pairs of one run, and what the number of computed tokens allows.

    bench/shared_prefix.py --flexgen build/release/flexgen --out shared.json
    bench/shared_prefix.py --flexgen build/release/flexgen --jobs 8b 8b-groups --memory 6GiB --disk-dir DIR

The gain that is allowed is the ratio of computed tokens, as products take nearly all of the time of such jobs. With --llama-bin and --gguf (make_gguf.py) the jobs of the shape smollm2-135m run
in llama.cpp's llama-batched-bench -pps too, with a unified cache or not, whichever is faster. The machine should be quiet otherwise. Dummy weights are written before anything is timed.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

SMALL, LARGE = "smollm2-135m", "llama-3.1-8b"
# Shape; prompts, tokens of each that are common and its own, generated ones, groups.
JOBS = {
    "64 of 512": (SMALL, 64, 512, 1, 16, 1),
    "64 of 512 and 64": (SMALL, 64, 512, 64, 16, 1),
    "8 groups of 8": (SMALL, 64, 512, 64, 16, 8),
    "nothing in common": (SMALL, 64, 0, 192, 16, 1),
    "8b": (LARGE, 64, 1024, 64, 16, 1),
    "8b-groups": (LARGE, 64, 1024, 64, 16, 8),
}
DEFAULT_JOBS = [name for name, job in JOBS.items() if job[0] == SMALL]


def flexgen(args, job, sharing):
    shape, prompts, common, own, generated, groups = job
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.flexgen, "bench", "--model", shape, "--load-format", "dummy", "--dummy-dir", args.dummy_dir, "--no-efficiency", "--cpu-memory", args.memory,
                   "--num-prompts", str(prompts), "--prompt-len", str(common + own), "--gen-len", str(generated), "--prefix-sharing", sharing, "--json", file.name, *args.extra]
        if common:
            command += ["--shared-prefix", str(common)]
        if groups > 1:
            command += ["--prefix-groups", str(groups)]
        if args.disk_dir:
            command += ["--disk-dir", args.disk_dir]
        run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{run.stderr[-3000:]}")
        with open(file.name) as result:
            return json.load(result)


def llama_cpp(args, job):
    """Seconds of the job at the better of both kinds of cache."""
    _, prompts, common, own, generated, _ = job
    times = []
    for unified in ([], ["-kvu"]):
        command = [os.path.join(args.llama_bin, "llama-batched-bench"), "-m", args.gguf, "-c", str(prompts * (common + own + generated + 8)), "-b", "2048", "-ub", "512",
                   "-t", str(os.cpu_count()), "-npp", str(common + own), "-ntg", str(generated), "-npl", str(prompts), "-pps", *unified]
        run = subprocess.run(command, env=dict(os.environ, LD_LIBRARY_PATH=args.llama_bin), capture_output=True, text=True)
        rows = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("|") and line.split("|")[1].strip().isdigit()]
        if not rows:
            raise SystemExit(f"{' '.join(command)}\n{run.stderr[-3000:]}")
        cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
        times.append(float(cells[4]) + float(cells[6]))
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=DEFAULT_JOBS)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs of each job; medians count")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--disk-dir")
    parser.add_argument("--dummy-dir", default=os.path.expanduser("~/.cache/flexgen"))
    parser.add_argument("--llama-bin", help="a folder with llama-batched-bench")
    parser.add_argument("--gguf", help="the shape smollm2-135m for it")
    parser.add_argument("--out", help="write the figures here too")
    parser.add_argument("extra", nargs="*", help="flags for flexgen bench, after --")
    args = parser.parse_args()
    table = []
    print("| job | computed whole | computed once | gain | tokens allow | share | predicted | llama.cpp |\n| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in args.jobs:
        job = JOBS[name]
        times = {"off": [], "auto": []}
        for _ in range(args.rounds):
            for sharing in times:
                result = flexgen(args, job, sharing)
                times[sharing].append(result["elapsed_s"])
        _, prompts, common, own, generated, _ = job
        rows = prompts * (common + own + generated - 1)
        row = {"job": name, "off_s": times["off"], "auto_s": times["auto"], "shared_prompt_tokens": result["shared_prompt_tokens"], "predicted_s": result["predicted"]["time_s"],
               "gain": statistics.median(times["off"]) / statistics.median(times["auto"]), "allowed": rows / (rows - result["shared_prompt_tokens"]), "policy": result["policy"]}
        if args.llama_bin and job[0] == SMALL and job[5] == 1 and own == 1:
            row["llama_cpp_s"] = llama_cpp(args, job)
        table.append(row)
        print(f"| {name} | {statistics.median(times['off']):.1f} s | {statistics.median(times['auto']):.1f} s | {row['gain']:.2f} | {row['allowed']:.2f} | {row['gain'] / row['allowed']:.2f} "
              f"| {row['predicted_s']:.1f} s | {'%.1f s' % row['llama_cpp_s'] if 'llama_cpp_s' in row else ''} |", flush=True)
        if args.out:
            with open(args.out, "w") as file:
                json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
