#!/usr/bin/env python3
"""PyPI's lm-evaluation-harness, unmodified, against flexgen serve: `local-completions` (multiple choice, the last word, whole texts, answers) and `local-chat-completions`, 64 requests at a time, on the
tasks of examples/lm_eval. The scores are those of lm_eval's own HF backend in fp32 to 1e-3, kept for the demo's model in tests/fixtures/lm_eval/scores.json, and its answers are the same texts.
examples/benchmark.sh is run on a few of them.

lm_eval is taken from where this Python has it, else put into a folder of its own by pip; where that cannot be done the test is skipped (77).

Usage: serve_lm_eval.py FLEXGEN_BINARY SOURCE_DIR [--model DIR] [--hf] [--keep]
--hf computes the HF backend's scores now, which needs torch and transformers; --keep writes them to the fixture. Another model than the demo's needs --hf, and is not asked in conversations."""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

from pip_module import pip_module
from serve import Server, check

TASKS = ["flexgen_facts", "flexgen_last_word", "flexgen_whole_text", "flexgen_answers"]
FIXTURE = "tests/fixtures/lm_eval/scores.json"
CLOSE = 1e-3
PLAIN = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"  # a conversation is its text, as the demo's tokenizer begins one
LM_EVAL_S = 1500
PIP_S = 240


def run(source, folder, output, command):
    """What it says."""
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": os.path.join(output, "hf"), "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(paths),
               "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    done = subprocess.run(command, cwd=source, env={**os.environ, **offline}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=LM_EVAL_S, text=True)
    check(done.returncode == 0 and "request failed" not in done.stdout, f"{' '.join(command)}: exit code {done.returncode}; it said:\n{done.stdout[-8000:]}")
    return done.stdout


def lm_eval(source, folder, output, arguments):
    """Scores and answers by task."""
    run(source, folder, output, [sys.executable, "-m", "lm_eval", "--include_path", "examples/lm_eval", "--output_path", output, "--log_samples", *arguments])
    [results] = glob.glob(os.path.join(output, "**", "results_*.json"), recursive=True)
    with open(results) as file:
        scores = {task: {name: value for name, value in of_task.items() if isinstance(value, float) and "stderr" not in name} for task, of_task in json.load(file)["results"].items()}
    answers = []
    for path in glob.glob(os.path.join(output, "**", "samples_flexgen_answers_*.jsonl"), recursive=True):
        with open(path) as file:
            answers = [sample["resps"][0][0] for sample in sorted(map(json.loads, file), key=lambda sample: sample["doc_id"])]
    return {"scores": scores, "answers": answers}


def compare(got, expected):
    for task, scores in expected["scores"].items():
        for name, value in scores.items():
            # A perplexity is as close as its logarithm.
            allowed = CLOSE * max(1, value)
            print(f"{task:20} {name:22} {got['scores'][task][name]:12.6f} {value:12.6f}")
            check(abs(got["scores"][task][name] - value) <= allowed, f"{task} {name}: {got['scores'][task][name]} by the server, {value} by the HF backend")
    for number, (ours, theirs) in enumerate(zip(got["answers"], expected["answers"], strict=True)):
        check(ours == theirs, f"answer {number}: {ours!r} by the server, {theirs!r} by the HF backend")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--model")
    parser.add_argument("--hf", action="store_true")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    source, binary = os.path.abspath(args.source), os.path.abspath(args.binary)
    model = os.path.abspath(args.model) if args.model else os.path.join(source, "demo/model")
    check(args.hf or not args.model, "--model needs --hf: only the demo's scores are kept")
    with open(os.path.join(model, "config.json")) as file:
        length = min(2048, json.load(file)["max_position_embeddings"])
    with tempfile.TemporaryDirectory() as work:
        folder = os.path.join(work, "pip")
        pip_module("lm_eval", folder, "lm_eval[api]", "transformers", limit_s=PIP_S)
        if args.hf:
            expected = lm_eval(source, folder, os.path.join(work, "hf_scores"), ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", "8", "--tasks", ",".join(TASKS)])
            if args.keep:
                os.makedirs(os.path.dirname(os.path.join(source, FIXTURE)), exist_ok=True)
                with open(os.path.join(source, FIXTURE), "w") as file:
                    json.dump(expected, file, ensure_ascii=False, indent=1)
        else:
            with open(os.path.join(source, FIXTURE)) as file:
                expected = json.load(file)
        template = os.path.join(work, "plain.jinja")
        with open(template, "w") as file:
            file.write(PLAIN)
        flags = ["--compute-dtype", "f32", "--max-model-len", str(length), "--max-num-seqs", "64", "--chat-template", template, "--served-model-name", "model"]
        with Server(binary, model, *flags, "--cpu-memory", "4GiB" if args.model else "256MiB") as server:
            url = f"http://127.0.0.1:{server.port}/v1"
            # The HF backend puts the tokenizer's BOS before a text, if it has one, and an API's client is to be told.
            got = lm_eval(source, folder, os.path.join(work, "completions"), ["--model", "local-completions", "--tasks", ",".join(TASKS), "--model_args",
                          f"model=model,base_url={url}/completions,tokenizer_backend=huggingface,tokenizer={model},add_bos_token=True,num_concurrent=64,max_length={length},timeout={LM_EVAL_S},max_retries=1"])
            compare(got, expected)
            if args.model:
                return
            chat = lm_eval(source, folder, os.path.join(work, "chat"), ["--model", "local-chat-completions", "--tasks", "flexgen_answers", "--apply_chat_template", "--model_args",
                           f"model=model,base_url={url}/chat/completions,num_concurrent=64,timeout={LM_EVAL_S},max_retries=1"])
            check(chat["answers"] == got["answers"] and chat["scores"]["flexgen_answers"] == got["scores"]["flexgen_answers"], f"chat: {chat}; completions: {got}")
        said = run(source, folder, os.path.join(work, "example"), ["examples/benchmark.sh", binary, model, "--limit", "4"])
        for task in TASKS:
            check(task in said, f"examples/benchmark.sh does not tell of {task}:\n{said}")
    print("serve_lm_eval.py: all holds")


if __name__ == "__main__":
    main()
