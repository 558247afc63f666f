#!/usr/bin/env python3
"""Entity matching with ten examples before each pair: prompts that have nearly all in common. Times with sharing and without, whether answers are equal, and llama.cpp's server beside it.

    bench/entity_matching.py --flexgen build/release/flexgen --model DIR --data ER-MAGELLAN/Beer ER-MAGELLAN/iTunes-Amazon --out matching.json
    bench/entity_matching.py ... --llama-bin BIN --gguf MODEL.gguf --slots 1 4 8

A folder of data has train.txt and test.txt, lines of LEFT TAB RIGHT TAB 0|1, as the ER-Magellan sets are given out. All lines of test.txt are asked, three tokens each, greedily. llama.cpp's
server keeps prompts in its slots; its best number of slots counts. Its time leaves out the start, flexgen's holds it. The machine should be quiet otherwise.
"""
import argparse
import concurrent.futures
import json
import os
import random
import statistics
import subprocess
import tempfile
import time

from llama_server import LlamaServer

SHOTS, TOKENS = 10, 3


def pairs(folder, part):
    with open(os.path.join(folder, part + ".txt"), encoding="utf-8") as file:
        for line in file:
            left, right, same = line.rstrip("\n").split("\t")
            clean = lambda text: text.replace("COL ", "; ").replace(" VAL ", ": ").removeprefix("; ").strip()
            yield clean(left), clean(right), same == "1"


def prompts(folder):
    """Ten examples, five of each answer, always the same ones; then the pair."""
    train = list(pairs(folder, "train"))
    random.Random(1).shuffle(train)
    shots = [pair for same in (True, False) for pair in [pair for pair in train if pair[2] == same][:SHOTS // 2]]
    random.Random(2).shuffle(shots)
    ask = lambda left, right: f"Product A is {left}. Product B is {right}. Are A and B the same?"
    head = "".join(f"{ask(left, right)} {'Yes' if same else 'No'}\n\n" for left, right, same in shots)
    return [head + ask(left, right) for left, right, _ in pairs(folder, "test")]


def flexgen(args, texts, sharing):
    """Seconds of the whole command, prompt tokens, those that were computed before, and answers by line."""
    with tempfile.TemporaryDirectory() as folder:
        lines, output = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(lines, "w") as file:
            for number, text in enumerate(texts):
                body = {"prompt": text, "max_tokens": TOKENS, "temperature": 0, "logprobs": 0}
                file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        start = time.monotonic()
        run = subprocess.run([args.flexgen, "run-batch", "--model", args.model, "-i", lines, "-o", output, "--cpu-memory", args.memory, "--prefix-sharing", sharing, "--quiet"],
                             capture_output=True, text=True)
        seconds = time.monotonic() - start
        if run.returncode != 0:
            raise SystemExit(run.stderr[-3000:])
        answers, tokens, cached = {}, 0, 0
        with open(output) as file:
            for record in map(json.loads, file):
                body = record["response"]["body"]
                answers[record["custom_id"]] = [body["choices"][0]["text"], body["choices"][0]["logprobs"]["token_logprobs"]]
                tokens += body["usage"]["prompt_tokens"]
                cached += (body["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return seconds, tokens, cached, answers


def llama_cpp(args, texts, slots):
    """Seconds from the first request to the last answer, and prompt tokens that it computed."""
    context = slots * (max(len(text) for text in texts) // 2 + 64)
    with LlamaServer(args.llama_bin, args.gguf, 18437, "-np", slots, "-c", context, "-t", os.cpu_count(), "-fa", "on", "-b", 2048, "-ub", 512) as server:
        ask = lambda text: server.post("/completion", {"prompt": text, "n_predict": TOKENS, "temperature": 0, "cache_prompt": True})["timings"]["prompt_n"]
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(slots) as pool:
            computed = sum(pool.map(ask, texts))
        return time.monotonic() - start, computed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each; medians count")
    parser.add_argument("--lines", type=int, help="the first so many lines alone")
    parser.add_argument("--llama-bin", help="a folder with llama-server")
    parser.add_argument("--gguf", help="the same model for it")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--out", help="write the figures here too")
    args = parser.parse_args()
    table = []
    print("| task | lines | prompt tokens | computed with sharing | without | with | gain | equal answers | llama.cpp |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for folder in args.data:
        texts = prompts(folder)[:args.lines]
        runs = {"off": [], "auto": []}
        for _ in range(args.rounds):
            for sharing in runs:
                runs[sharing].append(flexgen(args, texts, sharing))
        seconds = {sharing: statistics.median(run[0] for run in runs[sharing]) for sharing in runs}
        _, tokens, cached, answers = runs["auto"][0]
        row = {"task": os.path.basename(folder.rstrip("/")), "lines": len(texts), "prompt_tokens": tokens, "computed": tokens - cached, "off_s": seconds["off"], "auto_s": seconds["auto"],
               "equal": answers == runs["off"][0][3]}
        if args.llama_bin:
            row["llama_cpp"] = {slots: llama_cpp(args, texts, slots) for slots in args.slots}
        table.append(row)
        best = min(row["llama_cpp"].items(), key=lambda item: item[1][0]) if args.llama_bin else None
        print(f"| {row['task']} | {len(texts)} | {tokens} | {tokens - cached} | {seconds['off']:.1f} s | {seconds['auto']:.1f} s | {seconds['off'] / seconds['auto']:.2f} | {'yes' if row['equal'] else 'NO'} "
              f"| {f'{best[1][0]:.1f} s ({best[0]} slots, {best[1][1]} computed)' if best else ''} |", flush=True)
        if args.out:
            with open(args.out, "w") as file:
                json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
