#!/usr/bin/env python3
"""What it gains to compute once what prompts have in common: jobs with --prefix-sharing auto and off, in pairs of one run, and what the number of computed tokens allows.

    bench/shared_prefix.py --flexgen build/release/flexgen --out shared.json
    bench/shared_prefix.py --flexgen build/release/flexgen --jobs 8b 8b-groups 8b-nested --memory 6GiB --cap 6656MiB --disk-dir DIR
    bench/shared_prefix.py ... --jobs 8b --large config.json      # the 8B shape with fewer layers, by a config.json of one's own

The gain that is allowed is the ratio of computed tokens, as products take nearly all of the time of such jobs. The machine should be quiet otherwise. Dummy weights are written before anything is timed. With --cap (as root) each
program runs in a memory cgroup of that size.

llama.cpp, with --llama-bin and a GGUF of the shape (make_gguf.py; --gguf, --large-gguf): llama-batched-bench, with a unified cache or not, whichever is faster. Of 64 prompts of 512 common tokens it is asked for the job
itself (-pps). A job whose prompts have tokens of their own it cannot be asked for: -pps shares whole prompts. Its time is then a sum of three runs: the common tokens of each level as prompts, one for each group; the own tokens
as prompts; and the generation after prompts of the whole length, shared by all (-pps). This is in its favour, as own tokens do not attend to the common ones and a generated row reads one prefix, whatever the groups. With --server
llama-server is asked for the job itself, in each number of --slots, whichever is fastest; it keeps prompts in its slots (its GGUF needs a vocabulary: make_gguf.py --vocabulary).
"""
import argparse
import concurrent.futures
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import time

from llama_server import LlamaServer

HERE = os.path.dirname(os.path.realpath(__file__))
SMALL, LARGE = "small", "large"
# Model; prompts, tokens of each that are common (on each level) and its own, generated ones, groups (on each level, inside each of the one before).
JOBS = {
    "64 of 512": (SMALL, 64, [512], 1, 16, [1]),
    "64 of 512 and 64": (SMALL, 64, [512], 64, 16, [1]),
    "8 groups of 8": (SMALL, 64, [512], 64, 16, [8]),
    "nested": (SMALL, 64, [256, 256], 64, 16, [1, 8]),
    "nothing in common": (SMALL, 64, [], 192, 16, []),
    "8b": (LARGE, 64, [1024], 64, 16, [1]),
    "8b-groups": (LARGE, 64, [1024], 64, 16, [8]),
    "8b-nested": (LARGE, 64, [512, 512], 64, 16, [1, 8]),
}
DEFAULT_JOBS = [name for name, job in JOBS.items() if job[0] == SMALL]


def size(text):
    """Bytes of 6GiB, 500MiB."""
    parts = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text}: a size is written as 6GiB or 6656MiB")
    return int(parts[1]) << {"KiB": 10, "MiB": 20, "GiB": 30}[parts[2]]


def capped(args, command):
    return [os.path.join(HERE, "memory_cap.sh"), str(args.cap), *command] if args.cap else command


def flexgen(args, job, sharing, prompts=None, cap=True):
    """`prompts`: another number of them, without groups."""
    model, count, common, own, generated, groups = job
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.flexgen, "bench", "--model", args.small if model == SMALL else args.large, "--load-format", "dummy", "--dummy-dir", args.dummy_dir, "--no-efficiency",
                   "--cpu-memory", args.memory, "--num-prompts", str(prompts or count), "--prompt-len", str(sum(common) + own), "--gen-len", str(generated), "--prefix-sharing", sharing,
                   "--json", file.name, *args.extra]
        if common and not prompts:
            command += ["--shared-prefix", ",".join(map(str, common)), "--prefix-groups", ",".join(map(str, groups))]
        if args.disk_dir:
            command += ["--disk-dir", args.disk_dir]
        run = subprocess.run(capped(args, command) if cap else command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{run.stderr[-3000:]}")
        with open(file.name) as result:
            return json.load(result)


def batched_bench(args, gguf, prompt, generated, prompts, shared):
    """(seconds of the prompts, of the generation); with `shared` at the better of both kinds of cache."""
    times, said = [], ""
    for unified in (False, True) if shared else (False,):
        context = prompts * (generated + 8) + prompt * (1 if unified else prompts) + 64
        command = [os.path.join(args.llama_bin, "llama-batched-bench"), "-m", gguf, "-c", str(context), "-b", "2048", "-ub", str(args.ubatch), "-t", str(os.cpu_count()),
                   "-npp", str(prompt), "-ntg", str(generated), "-npl", str(prompts), *(["-pps"] if shared else []), *(["-kvu"] if unified else [])]
        for _ in range(3):  # what it says last is lost at times, as another thread writes it
            run = subprocess.run(capped(args, command), env=dict(os.environ, LD_LIBRARY_PATH=args.llama_bin), capture_output=True, text=True)
            rows = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("|") and line.split("|")[1].strip().isdigit()]
            if rows or run.returncode != 0:
                break
        said = f"{' '.join(command)}\n{run.stderr[-3000:]}"
        if rows:
            cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
            times.append((float(cells[4]), float(cells[6])))
    if not times:  # with one kind of cache it may not fit a cap
        raise SystemExit(said)
    return min(times, key=sum)


def by_parts(args, gguf, job):
    """What llama-batched-bench takes for the job, or for its parts (see above)."""
    _, prompts, common, own, generated, groups = job
    if own == 1 and groups == [1]:
        whole = batched_bench(args, gguf, sum(common) + own, generated, prompts, True)
        return {"job_s": sum(whole)}
    parts, in_all = [], 1
    for tokens, inside in zip(common, groups):
        in_all *= inside
        parts.append(batched_bench(args, gguf, tokens, 1, in_all, False)[0])
    own_s = batched_bench(args, gguf, own, 1, prompts, False)[0]
    generation_s = batched_bench(args, gguf, sum(common) + own, generated, prompts, True)[1]
    return {"common_s": parts, "own_s": own_s, "generation_s": generation_s, "job_s": sum(parts) + own_s + generation_s}


def token_prompts(job, vocabulary):
    """The job's prompts as token ids; the first ones are left out, as they may mean something."""
    _, prompts, common, own, _, groups = job
    drawn = lambda seed, tokens: random.Random(seed).choices(range(300, vocabulary), k=tokens)
    result = []
    for prompt in range(prompts):
        tokens, in_all = [], 1
        for level, (length, inside) in enumerate(zip(common, groups)):
            in_all *= inside
            tokens += drawn(f"{level} {prompt * in_all // prompts}", length)
        result.append(tokens + drawn(f"own {prompt}", own))
    return result


def by_server(args, gguf, job, vocabulary):
    """Of each number of slots: seconds from the first request to the last answer, and prompt tokens that the server computed."""
    prompts = token_prompts(job, vocabulary)
    runs = []
    for slots in args.slots:
        flags = ["-np", slots, "-c", slots * (len(prompts[0]) + job[4] + 64), "-t", os.cpu_count(), "-b", 2048, "-ub", args.ubatch]
        with LlamaServer(args.llama_bin, gguf, 18439, *flags, wrapper=capped(args, [])) as server:
            ask = lambda tokens: server.post("/completion", {"prompt": tokens, "n_predict": job[4], "temperature": 0, "ignore_eos": True, "cache_prompt": True})["timings"]["prompt_n"]
            start = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(slots) as pool:
                computed = sum(pool.map(ask, prompts))
            runs.append({"slots": slots, "job_s": time.monotonic() - start, "computed": computed})
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=DEFAULT_JOBS)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs of each job; medians count")
    parser.add_argument("--sharing", nargs="+", choices=["off", "auto"], default=["off", "auto"], help="of these runs some alone, as computing the whole of a large job takes long")
    parser.add_argument("--small", default="smollm2-135m", help="the model of the first jobs: a shape or a config.json")
    parser.add_argument("--large", default="llama-3.1-8b", help="the model of the jobs 8b...")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--cap", type=size, help="a memory cgroup for each program, as 6656MiB; needs root")
    parser.add_argument("--disk-dir")
    parser.add_argument("--dummy-dir", default=os.path.expanduser("~/.cache/flexgen"))
    parser.add_argument("--llama-bin", help="a folder with llama-batched-bench (and llama-server)")
    parser.add_argument("--gguf", help="the small model for it")
    parser.add_argument("--large-gguf", help="the large model for it")
    parser.add_argument("--ubatch", type=int, default=512, help="its -ub")
    parser.add_argument("--server", action="store_true", help="llama-server too")
    parser.add_argument("--vocabulary", type=int, default=49152, help="tokens that both models have at least")
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 16], help="of llama-server")
    parser.add_argument("--out", help="write the figures here too")
    parser.add_argument("extra", nargs="*", help="flags for flexgen bench, after --")
    args = parser.parse_args()
    table = []
    for model in {JOBS[name][0] for name in args.jobs}:  # writes the weights
        flexgen(args, (model, 1, [], 1, 1, []), "off", prompts=1, cap=False)
    print("| job | computed whole | computed once | gain | tokens allow | share | predicted | llama.cpp |\n| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in args.jobs:
        job = JOBS[name]
        times = {sharing: [] for sharing in ("off", "auto") if sharing in args.sharing}
        for _ in range(args.rounds):
            for sharing in times:
                result = flexgen(args, job, sharing)
                times[sharing].append(result["elapsed_s"])
        model, prompts, common, own, generated, _ = job
        rows = prompts * (sum(common) + own + generated - 1)
        medians = {sharing: statistics.median(runs) for sharing, runs in times.items()}
        row = {"job": name, **{f"{sharing}_s": runs for sharing, runs in times.items()}, "shared_prompt_tokens": result["shared_prompt_tokens"],
               "predicted_s": result["predicted"]["time_s"], "allowed": rows / (rows - result["shared_prompt_tokens"]), "policy": result["policy"]}
        if len(medians) == 2:
            row["gain"] = medians["off"] / medians["auto"]
        gguf, theirs = args.gguf if model == SMALL else args.large_gguf, []
        if args.llama_bin and gguf and common:
            row["llama_cpp"] = by_parts(args, gguf, job)
            theirs.append(f"{row['llama_cpp']['job_s']:.1f} s{' (parts)' if 'own_s' in row['llama_cpp'] else ''}")
        if args.server and gguf and common:
            row["llama_server"] = by_server(args, gguf, job, args.vocabulary)
            best = min(row["llama_server"], key=lambda run: run["job_s"])
            theirs.append(f"server {best['job_s']:.1f} s, {best['slots']} slots")
        table.append(row)
        cells = [f"{medians[sharing]:.1f} s" if sharing in medians else "" for sharing in ("off", "auto")]
        cells += [f"{row['gain']:.2f}" if "gain" in row else "", f"{row['allowed']:.2f}", f"{row['gain'] / row['allowed']:.2f}" if "gain" in row else ""]
        print(f"| {name} | {' | '.join(cells)} | {row['predicted_s']:.1f} s | {', '.join(theirs)} |", flush=True)
        if args.out:
            with open(args.out, "w") as file:
                json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
