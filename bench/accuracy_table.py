#!/usr/bin/env python3
"""What 8 and 4 bits and sparse attention cost in accuracy: a Markdown table, by `flexgen eval` alone.

    bench/accuracy_table.py --flexgen build/release/flexgen --text-model DIR --out bench/results/accuracy.json

Perplexity of the model in --text-model on text of its own kind (sampled from it, at temperature 1 from no prompt, by `flexgen run-batch`), and exact match
of the shipped demo model on lines it has never seen.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
DEMO = os.path.join(HERE, "..", "demo")
DTYPES = ["auto", "int8", "int4"]
WEIGHTS = [("auto", "auto"), ("int8", "auto"), ("int4", "minmax"), ("int4", "mse")]


def run(command):
    result = subprocess.run(command, text=True, capture_output=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")


def sample_text(args, folder):
    """Texts the model makes up, each ended by its end token, as one file."""
    requests, answers, text = (os.path.join(folder, name) for name in ("requests.jsonl", "answers.jsonl", "text"))
    with open(requests, "w") as file:
        for i in range(args.samples):
            body = {"prompt": [args.bos], "max_tokens": args.sample_tokens, "temperature": 1, "seed": i}
            file.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
    run([args.flexgen, "run-batch", "--model", args.text_model, "-i", requests, "-o", answers, "--cpu-memory", "256MiB"])
    lines = sorted((json.loads(line) for line in open(answers)), key=lambda line: int(line["custom_id"]))
    with open(text, "w") as file:
        file.write("\n".join(line["response"]["body"]["choices"][0]["text"].strip() for line in lines))
    return text


def evaluate(args, folder, flags, model, what):
    out = os.path.join(folder, "figures.json")
    run([args.flexgen, "eval", "--model", model, *what, "--cpu-memory", "256MiB", "--disk-dir", folder, "--json", out, *flags])
    figures = json.load(open(out))
    # Where files lie on this machine says nothing of the figures.
    return {name: os.path.basename(value) if isinstance(value, str) else value for name, value in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--text-model", required=True)
    parser.add_argument("--bos", type=int, default=1)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--sample-tokens", type=int, default=400)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--matmul", nargs="+", default=["auto", "int8"], help="which of --matmul-dtype auto and int8 to show")
    parser.add_argument("--out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, task = sample_text(args, folder), os.path.join(folder, "task.jsonl")
        run([sys.executable, os.path.join(DEMO, "invoice_records.py"), "--seed", "2000003", "--count", str(args.lines), "--task", task])
        rows = []
        print("| weights | KV cache | keys | sparsity | perplexity | lines right | fields right |\n| --- | --- | --- | --- | --- | --- | --- |")
        settings = [(sparsity, weights, quantization, "auto", cache, rotation) for sparsity in ("1", "0.1") for weights, quantization in WEIGHTS
                    for cache, rotation in [(dtype, "none") for dtype in DTYPES] + [("int4", "hadamard")]]
        settings += [("1", weights, "auto", "int8", cache, "none") for weights in ("int8", "int4") for cache in DTYPES]
        for sparsity, weights, quantization, matmul, cache, rotation in settings:
            if matmul not in args.matmul:
                continue
            flags = ["--weight-dtype", weights, "--weight-quantization", quantization, "--kv-cache-dtype", cache, "--kv-cache-rotation", rotation,
                     "--attention-sparsity", sparsity, "--matmul-dtype", matmul]
            of_text = evaluate(args, folder, flags, args.text_model, ["--perplexity", text])
            of_task = evaluate(args, folder, flags, os.path.join(DEMO, "model"), ["--task", task, "--max-tokens", "96"])
            rows.append({"flags": flags, "text": of_text, "task": of_task})
            print(f"| {' '.join([weights] + [quantization] * (quantization != 'auto'))}{', int8 products' if matmul == 'int8' else ''} | {cache} | "
                  f"{'rotated' if rotation != 'none' else 'plain'} | {sparsity} | {of_text['perplexity']:.4f} | {of_task['exact_percent']:.1f}% | "
                  f"{of_task['fields_percent']:.2f}% |", flush=True)
        if args.out:
            json.dump(rows, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
