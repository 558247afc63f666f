#!/usr/bin/env python3
"""What a grammar costs: the same job with 64 slots without a grammar, and with one that allows the same tokens (any text), in pairs that take turns in going first.

    bench/grammar_cost.py --flexgen build/release/flexgen --model smollm2 --pairs 5

Prints how much longer the second takes, in real time and in processor time, as medians over the pairs, and ends with 1 where the answers differ: then the grammar would not have cost the same work.
--grammar says another one (vLLM's fields, as JSON); its answers may differ, and times are then per generated token. The machine should be quiet; processor time says something on a busy one too.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time

ANY_TEXT = {"guided_grammar": r"root ::= [\U00000000-\U0010FFFF]*"}
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards count coins twice".split()


def run(args, folder, name, grammar):
    """Real seconds, processor seconds, generated tokens, and the answers."""
    lines, output = folder / "in.jsonl", folder / f"{name}.jsonl"
    with lines.open("w") as file:
        for number in range(args.prompts):
            words = [WORDS[(number * 7 + place * (1 + number % 5)) % len(WORDS)] for place in range(args.prompt_words)]
            body = {"prompt": " ".join(words), "max_tokens": args.tokens, "temperature": 0, **grammar}
            file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
    output.unlink(missing_ok=True)
    pathlib.Path(str(output) + ".job").unlink(missing_ok=True)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([args.flexgen, "run-batch", "--model", args.model, "-i", lines, "-o", output, "--cpu-memory", args.memory, "--micro-batch-size", str(args.slots), "--num-micro-batches", "1", "--quiet",
                    *args.extra], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    real, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    bodies = {record["custom_id"]: record["response"]["body"] for record in map(json.loads, output.read_text().splitlines())}
    return (real, after.ru_utime - before.ru_utime, sum(body["usage"]["completion_tokens"] for body in bodies.values()),
            {name: [choice["text"] for choice in body["choices"]] for name, body in bodies.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--model", required=True, help="a checkpoint with a tokenizer")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--grammar", type=json.loads, default=ANY_TEXT)
    parser.add_argument("extra", nargs="*", help="further flags of run-batch, behind --")
    args = parser.parse_args()
    args.flexgen = os.path.abspath(args.flexgen)
    ratios, same = {"real": [], "processor": []}, args.grammar == ANY_TEXT
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        for pair in range(args.pairs):
            order = [("without", {}), ("with", args.grammar)]
            got = {name: run(args, folder, name, grammar) for name, grammar in (order if pair % 2 == 0 else order[::-1])}
            if same and got["with"][3] != got["without"][3]:
                raise SystemExit("grammar_cost.py: the answers differ")
            for kind, place in (("real", 0), ("processor", 1)):
                ratios[kind].append(got["with"][place] / got["with"][2] / (got["without"][place] / got["without"][2]))
            print(f"pair {pair + 1}: without {got['without'][0]:.2f} s real, {got['without'][1]:.2f} s processor, {got['without'][2]} tokens; "
                  f"with {got['with'][0]:.2f} s, {got['with'][1]:.2f} s, {got['with'][2]} tokens", flush=True)
    for kind, all_of in ratios.items():
        print(f"{kind} time: {100 * (statistics.median(all_of) - 1):+.1f}% (from {100 * (min(all_of) - 1):+.1f}% to {100 * (max(all_of) - 1):+.1f}%)")


if __name__ == "__main__":
    main()
