#!/usr/bin/env python3
"""One GGUF file in flexgen and in llama.cpp: greedy answers to prompts, and the perplexity of a text in llama.cpp's own windows.

    bench/gguf_against_llama_cpp.py --flexgen build/release/flexgen --llama-bin DIR --gguf FILE --text wikitext-2-test.raw [--json OUT.json]

Answers: prompts are stretches of the text, continued greedily. Where two answers part, the two tokens' logprobs in flexgen say by how much (`margins`): a small one is what the two
programs' rounding makes. Perplexity: chunks of 512 tokens, of which llama.cpp scores the second half; flexgen scores the same positions of the same token ids (`echo` with `logprobs`)."""
import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile

from llama_server import LlamaServer

WINDOW = 512
PORT = 18173


def flexgen_records(args, bodies):
    with tempfile.TemporaryDirectory() as folder:
        source, out = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(source, "w") as file:
            for i, body in enumerate(bodies):
                file.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        subprocess.run([args.flexgen, "run-batch", "--model", args.gguf, "-i", source, "-o", out, "--cpu-memory", args.cpu_memory, *args.flexgen_flags.split()], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out) as file:
            records = {record["custom_id"]: record["response"]["body"]["choices"][0] for record in map(json.loads, file)}
    return [records[str(i)] for i in range(len(bodies))]


def answers(args, server, tokens):
    """Where the greedy answers of both part, if they do."""
    stretch = len(tokens) // args.prompts
    prompts = [tokens[i * stretch:i * stretch + args.prompt_tokens] for i in range(args.prompts)]
    theirs = [server.post("/completion", {"prompt": prompt, "n_predict": args.answer_tokens, "temperature": 0, "ignore_eos": True, "return_tokens": True, "cache_prompt": False})["tokens"] for prompt in prompts]
    body = {"max_tokens": args.answer_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    ours = [choice["token_ids"] for choice in flexgen_records(args, [{**body, "prompt": prompt} for prompt in prompts])]
    parted = [(i, next(at for at in range(args.answer_tokens) if a[at] != b[at])) for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    # What flexgen gives to either token there, each as the next token of what both have said.
    bodies = []
    for i, at in parted:
        for token in (ours[i][at], theirs[i][at]):
            bodies.append({"prompt": prompts[i] + ours[i][:at] + [token], "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0})
    scores = [choice["logprobs"]["token_logprobs"] for choice in flexgen_records(args, bodies)] if bodies else []
    margins = []
    for n, (i, at) in enumerate(parted):
        last = len(prompts[i]) + at
        margins.append(scores[2 * n][last] - scores[2 * n + 1][last])
    return {"prompts": len(prompts), "equal": len(prompts) - len(parted), "parted_at": [at for _, at in parted], "margins": margins}


def perplexity(args, tokens):
    chunks = [tokens[at:at + WINDOW] for at in range(0, len(tokens) - WINDOW + 1, WINDOW)][:args.text_tokens // WINDOW]
    choices = flexgen_records(args, [{"prompt": chunk, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0} for chunk in chunks])
    total = count = 0
    for choice in choices:
        scored = choice["logprobs"]["token_logprobs"][WINDOW // 2 + 1:WINDOW]
        total -= sum(scored)
        count += len(scored)
    done = subprocess.run([os.path.join(args.llama_bin, "llama-perplexity"), "-m", args.gguf, "-f", args.text, "-c", str(WINDOW), "--chunks", str(len(chunks)), "-t", str(args.threads)],
                          capture_output=True, text=True)
    found = re.search(r"PPL = ([0-9.]+) \+/- ([0-9.]+)", done.stdout + done.stderr)
    if not found:
        sys.exit(f"llama-perplexity says no perplexity: {(done.stdout + done.stderr)[-400:]}")
    return {"chunks": len(chunks), "tokens_scored": count, "flexgen": math.exp(total / count), "llama.cpp": float(found[1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--text-tokens", type=int, default=20000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu-memory", default="4GiB")
    parser.add_argument("--flexgen-flags", default="")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    with LlamaServer(args.llama_bin, args.gguf, PORT, "-np", 1, "-c", 2048, "-t", args.threads, "--no-webui") as server:
        with open(args.text, encoding="utf-8", newline="") as file:  # as it is: llama-perplexity reads bytes
            tokens = server.post("/tokenize", {"content": file.read(), "add_special": False})["tokens"]
        result = {"answers": answers(args, server, tokens)}
    result["perplexity"] = perplexity(args, tokens)
    print(json.dumps(result, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
