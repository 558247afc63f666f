#!/usr/bin/env python3
"""Peak memory of `flexgen` beside its budget, measured: at most 150 MiB more than --cpu-memory whatever the input is, and no more for many lines than for few.

Usage: memory.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

BUDGET_MIB = 32
PROMISE_MIB = BUDGET_MIB + 150
LINE_BYTES = (8 << 20) - 200  # nearly the longest line that is allowed
ONE_TEXT_BYTES = 1 << 20
RUNNER = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
print(json.dumps([code.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, code.stderr.decode()[-2000:]]))
"""


def run(*command):
    """Exit code, peak MiB and the end of stderr; a process in between, as a peak is of all children so far."""
    out = subprocess.run([sys.executable, "-c", RUNNER, *command], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def line(custom_id, body):
    return '{"custom_id":"%s","method":"POST","url":"/v1/completions","body":{"max_tokens":1,%s}}\n' % (custom_id, body)


def filled(before, item, after, comma=","):
    count = (LINE_BYTES - len(before) - len(after)) // (len(item) + len(comma))
    return before + comma.join([item] * count) + after


LONG_LINES = {
    "objects in an unknown field": filled('"prompt":"a","x":[', "{}", "]"),
    "objects in a known field": filled('"prompt":"a","stop":[', "{}", "]"),
    "lists as prompts": filled('"prompt":[', "[]", "]"),
    "lists of one id": filled('"prompt":[', "[5]", "]"),
    "lists of many ids": '"prompt":[' + ",".join(["[" + ",".join(["5"] * 1999) + "]"] * 2048)[: LINE_BYTES - 100].rsplit("]", 1)[0] + "]]",
    "one list of ids": filled('"prompt":[', "5", "]"),
    "a list of ids in a list": filled('"prompt":[[', "5", "]]"),
    "short texts": filled('"prompt":[', '"a"', "]"),
    "2048 texts": '"prompt":[' + ",".join(['"' + "once upon a time " * 230 + '"'] * 2040) + "]",
    # Of one text the tokenizer takes some 50 bytes for each of its own: 8 MiB are beyond the promise.
    "one text": '"prompt":"' + "once upon a time " * (ONE_TEXT_BYTES // 17) + '"',
    "one word": '"prompt":"' + "x" * ONE_TEXT_BYTES + '"',
    "fields": '"prompt":"a",' + ",".join('"f%d":1' % i for i in range(LINE_BYTES // 13)),
    "numbers out of range": filled('"prompt":[', "1e400", "]"),
    "a text without an end": '"prompt":"' + "x" * (LINE_BYTES - 100),
    "nesting": '"prompt":' + "[" * (LINE_BYTES // 2 - 100) + "]" * (LINE_BYTES // 2 - 100),
    "stop strings": filled('"prompt":"a","stop":[', '"b"', "]"),
}


def check_long_lines(binary, model, directory):
    worst = 0
    for name, body in LONG_LINES.items():
        path, out = os.path.join(directory, "long.jsonl"), os.path.join(directory, "long-out.jsonl")
        with open(path, "w") as file:
            file.write(line("before", '"prompt":[5]') + line("long", body) + line("after", '"prompt":[5]'))
        assert os.path.getsize(path) < (8 << 20) + 1000, name
        start = time.time()
        code, peak, err = run(binary, "run-batch", "-m", model, "-i", path, "-o", out, "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic", "--threads", "1")
        records = {record["custom_id"]: record for record in map(json.loads, open(out))} if os.path.exists(out) else {}
        print(f"one line, {name}: exit {code}, {peak:.0f} MiB, {time.time() - start:.1f} s", flush=True)
        assert code == 0, err
        assert records["before"]["error"] is None and records["after"]["error"] is None and len(records) == 3, name
        assert peak < PROMISE_MIB, f"{name}: {peak} MiB"
        worst = max(worst, peak)
        for path in (path, out, out + ".job"):
            os.remove(path)
    return worst


def check_planned_lines(binary, source, directory):
    """Lines that are good as well as long: too much work to be run here, but they are read and planned for."""
    model = os.path.join(directory, "model")
    shutil.copytree(os.path.join(source, "tests/fixtures/models/llama"), model)
    shutil.copy(os.path.join(source, "tests/fixtures/tokenizers/gpt2-like/tokenizer.json"), model)
    config_path = os.path.join(model, "config.json")
    config = json.load(open(config_path))
    config["max_position_embeddings"] = 1 << 23
    json.dump(config, open(config_path, "w"))
    for name in ("lists of many ids", "2048 texts", "one list of ids", "one text"):
        path = os.path.join(directory, "long.jsonl")
        with open(path, "w") as file:
            file.write(line("long", LONG_LINES[name]) + line("after", '"prompt":[5]'))
        start = time.time()
        code, peak, err = run(binary, "plan", "--model", model, "-i", path, "--cpu-memory", "64GiB", "--hardware", "generic")
        print(f"planned, {name}: exit {code}, {peak:.0f} MiB, {time.time() - start:.1f} s", flush=True)
        assert code == 0, err
        assert peak < PROMISE_MIB, f"{name}: {peak} MiB"


def check_many_choices(binary, model, directory):
    """One line with some 80,000 tokens with 20 logprobs each."""
    path, out = os.path.join(directory, "choices.jsonl"), os.path.join(directory, "choices-out.jsonl")
    with open(path, "w") as file:
        prompts = json.dumps([[5 + i % 40, 7] for i in range(640)])
        file.write('{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"max_tokens":8,"n":16,"logprobs":20,"ignore_eos":true,"prompt":%s}}\n' % prompts)
    code, peak, err = run(binary, "run-batch", "-m", model, "-i", path, "-o", out, "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic", "--planner", "first-rule", "--threads", "1")
    print(f"one line of 10,240 choices: exit {code}, {peak:.0f} MiB, {os.path.getsize(out) >> 20} MiB of output", flush=True)
    assert code == 0, err
    record = json.loads(open(out).read())
    assert [choice["index"] for choice in record["response"]["body"]["choices"]] == list(range(10240))
    assert peak < PROMISE_MIB, f"{peak} MiB"
    # A resume reads the record again, and keeps it.
    code, peak, err = run(binary, "run-batch", "-m", model, "-i", path, "-o", out, "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic", "--threads", "1")
    print(f"read again: exit {code}, {peak:.0f} MiB", flush=True)
    assert code == 0, err
    assert peak < PROMISE_MIB, f"{peak} MiB"
    os.remove(out)


def check_many_lines(binary, model, directory):
    peaks = []
    for count in (1000, 300000):
        path = os.path.join(directory, "many.jsonl")
        with open(path, "w") as file:
            for i in range(count):
                file.write(line(f"request-{i}", '"prompt":[%d,7,9]' % (5 + i % 40)))
        code, peak, err = run(binary, "plan", "--model", model, "-i", path, "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic")
        print(f"{count} lines: exit {code}, {peak:.0f} MiB", flush=True)
        assert code == 0, err
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20, f"{peaks} MiB: it grows with the lines"


def main():
    binary, source = sys.argv[1:3]
    model = os.path.join(source, "demo/model")
    directory = tempfile.mkdtemp(prefix="flexgen_memory_")
    try:
        check_long_lines(binary, model, directory)
        check_planned_lines(binary, source, directory)
        check_many_choices(binary, model, directory)
        check_many_lines(binary, model, directory)
    finally:
        shutil.rmtree(directory)


main()
