#!/usr/bin/env python3
"""Batch files as people have them, through the command line: every form gives the answers of JSONL or a sentence that names it; exit codes; requests through a pipe; answers in order and errors apart;
an input that is edited.

Usage: batch_files.py FLEXGEN_BINARY SOURCE_DIR"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from kill_resume import make_model


class Batch:
    def __init__(self, binary, source, work):
        self.binary, self.work, self.model = binary, work, os.path.join(work, "model")
        make_model(source, self.model)

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.utime(self.path(name), (1700000000, 1700000000))  # which goes into the answers
        return self.path(name)

    def run(self, source, output, *flags, stdin=b"", code=0, environment=None):
        """What it says. `source`: a path, or "-" with `stdin`."""
        done = subprocess.run([self.binary, "run-batch", "-m", self.model, "-i", source, "-o", self.path(output), "--hardware", "generic", "--planner", "first-rule", "--threads", "1",
                               "--cpu-memory", "64MiB", *flags], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env=environment)
        said = done.stdout.decode(errors="replace")
        if done.returncode != code:
            fail(f"{source} {' '.join(flags)}: exit code {done.returncode} instead of {code}; it said:\n{said}")
        return said

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def ids(self, name):
        return [json.loads(line)["custom_id"] for line in self.read(name).splitlines()]


def fail(text):
    sys.exit(f"batch_files.py: {text}")


def request(name, prompt):
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt, "max_tokens": 3, "temperature": 0}}


def forms(batch):
    requests = [request(str(number), f"number {number}") for number in range(12)]
    lines = [json.dumps(one, separators=(",", ":")) for one in requests]
    text = "\n".join(lines) + "\n"
    batch.run(batch.write("plain.jsonl", text), "plain.out")
    expected = sorted(batch.read("plain.out").splitlines())
    marked = b"\xef\xbb\xbf" + text.encode()
    all_forms = {"gzip": gzip.compress(text.encode()), "two gzip members": gzip.compress(text[:300].encode()) + gzip.compress(text[300:].encode()), "BOM": marked, "BOM in gzip": gzip.compress(marked),
                 "UTF-16LE": text.encode("utf-16"), "UTF-16BE": b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16 unmarked": text.encode("utf-16-le"), "UTF-16 in gzip": gzip.compress(text.encode("utf-16")),
                 "CR": text.replace("\n", "\r").encode(), "CRLF": text.replace("\n", "\r\n").encode(), "array": json.dumps(requests).encode(), "pretty array": json.dumps(requests, indent=2).encode(),
                 "pretty": "\n".join(json.dumps(one, indent=2) for one in requests).encode(), "pretty CRLF": "\r\n".join(json.dumps(one, indent="\t").replace("\n", "\r\n") for one in requests).encode()}
    for name, content in all_forms.items():
        batch.run(batch.write("form.jsonl", content), f"{name}.out")
        if sorted(batch.read(f"{name}.out").splitlines()) != expected:
            fail(f"{name}: other answers than JSONL")
    # Begun with one form, it goes on with another.
    batch.write("form.jsonl", text)
    if "0 answered now, 12 done before" not in batch.run(batch.path("form.jsonl"), "gzip.out"):
        fail("a job that was begun with gzip does not go on with its text")
    named = {"CSV": b"id,prompt\n1,hello\n", "Parquet": b"PAR1\x15\x04\x15", "xz": b"\xfd7zXZ\x00\x00", "zip": b"PK\x03\x04\x14", "PDF": b"%PDF-1.7\n", "cut off": gzip.compress(text.encode())[:-9],
             "broken at line 1": json.dumps(requests)[:-20].encode()}
    for word, content in named.items():
        said = batch.run(batch.write("form.jsonl", content), "named.out", code=1)
        if word not in said or len([line for line in said.splitlines() if line and " info: " not in line]) != 1:
            fail(f"{word} is to be named in one sentence; it said:\n{said}")
        if os.path.exists(batch.path("named.out")):
            fail(f"{word}: a refused job left an output")


def exit_codes(batch):
    good, bad = json.dumps(request("a", "x")) + "\n", "no json\n"
    batch.run(batch.write("codes.jsonl", bad + bad), "none.out", code=3)
    batch.run(batch.path("codes.jsonl"), "none.out", code=3)
    batch.write("codes.jsonl", good + bad)
    batch.run(batch.path("codes.jsonl"), "some.out")
    batch.run(batch.path("codes.jsonl"), "some.out", "--fail-on-bad-lines", code=3)
    for quiet in (["--quiet"], ["--log-level", "error"]):
        said = batch.run(batch.path("codes.jsonl"), "some.out", "--fail-on-bad-lines", *quiet, code=3)
        if "some.out: 1 of 2 lines is bad, as its error record says" not in said or len(said.splitlines()) != 1:
            fail(f"{quiet}: why it ends with 3 is not told: {said!r}")
        if batch.run(batch.path("codes.jsonl"), "some.out", *quiet):
            fail(f"{quiet}: something is told of a good end")
    batch.run(batch.write("codes.jsonl", good), "all.out", "--fail-on-bad-lines")


def bare_lines(batch):
    batch.run(batch.write("bare.jsonl", '{"prompt": "x", "max_tokens": 2}\n\n{"prompt": "y", "max_tokens": 2, "custom_id": "mine"}\n'), "bare.out")
    if sorted(batch.ids("bare.out")) != ["line-1", "mine"]:
        fail(f"bodies alone are called {batch.ids('bare.out')}")


def arranged(batch):
    lines = [json.dumps(request(str(number), "a b c d"[:1 + 2 * (number % 4)])) if number % 4 else "bad" for number in range(20)]
    batch.run(batch.write("order.jsonl", "\n".join(lines)), "order.out", "--in-order", "--error-output", batch.path("order.errors"), "--micro-batch-size", "3", "--num-micro-batches", "1")
    if batch.ids("order.out") != [str(number) for number in range(20) if number % 4] or batch.ids("order.errors") != [f"line-{number + 1}" for number in range(0, 20, 4)]:
        fail(f"in order: {batch.ids('order.out')}, errors {batch.ids('order.errors')}")
    whole = sorted(batch.read("order.out").splitlines() + batch.read("order.errors").splitlines())
    for shard in ("0/2", "1/2"):
        batch.run(batch.path("order.jsonl"), "parts.out", "--shard", shard)
    merged = subprocess.run([batch.binary, "merge", "-i", batch.path("order.jsonl"), "-o", batch.path("parts.out"), "--error-output", batch.path("parts.errors"),
                             batch.path("parts.0-of-2.out"), batch.path("parts.1-of-2.out")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    if merged.returncode or batch.ids("parts.out") != batch.ids("order.out") or batch.ids("parts.errors") != batch.ids("order.errors"):
        fail(f"merged: {merged.stdout.decode()}")
    if sorted(batch.read("parts.out").splitlines() + batch.read("parts.errors").splitlines()) != whole:
        fail("shards that were merged have other records than one job")


def keeps_input(pid, folder):
    """Whether the process has a file without a name, or with one of its own, open in the folder."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(os.path.realpath(folder) + "/"):
                return True
        except OSError:
            pass
    return False


def piped(batch):
    text = "".join(json.dumps(request(str(number), f"number {number}")) + "\n" for number in range(6)).encode()
    said = batch.run("-", "piped.out", stdin=b"", code=1)
    if "standard input is empty" not in said:
        fail(f"an empty pipe: {said}")
    batch.run("-", "piped.out", stdin=text)
    if batch.read("piped.out.input") != text:
        fail("what came through the pipe is not kept")
    for source, stdin in (("-", text), ("-", b""), (batch.path("piped.out.input"), b"")):
        if "0 answered now, 6 done before" not in batch.run(source, "piped.out", stdin=stdin):
            fail(f"-i {source} does not go on")
    # Other lines take the place of the first, unless they are refused.
    other = json.dumps(request("z", "none of those")).encode() + b"\n"
    if "another input" not in batch.run("-", "piped.out", stdin=other, code=1) or batch.read("piped.out.input") != text:
        fail("requests that were refused took the place of those that are kept")
    more = text + other
    if "1 answered now, 6 done before" not in batch.run("-", "piped.out", stdin=gzip.compress(more)) or gzip.decompress(batch.read("piped.out.input")) != more:
        fail("more requests through the pipe")
    # A stop while it waits for more.
    process = subprocess.Popen([batch.binary, "run-batch", "-m", batch.model, "-i", "-", "-o", batch.path("waiting.out"), "--hardware", "generic"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    process.stdin.write(text)
    process.stdin.flush()
    begin = time.monotonic()
    while not keeps_input(process.pid, batch.work) and time.monotonic() < begin + 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    if process.wait(20) != 75 or any(name.startswith("waiting.") for name in os.listdir(batch.work)):
        fail(f"SIGINT while requests come: exit code {process.returncode}, left {os.listdir(batch.work)}")
    process.stdin.close()


def edited(batch):
    lines = [json.dumps(request(str(number), f"number {number}")) for number in range(8)]
    batch.run(batch.write("edited.jsonl", "\n".join(lines[:6] + ["bad"])), "edited.out")
    before = batch.read("edited.out").splitlines()
    said = batch.run(batch.write("edited.jsonl", "\n".join([lines[7], lines[6], *reversed(lines[1:6])])), "edited.out")
    if "2 answered now, 5 done before, 0 bad" not in said or "edited.out.removed" not in said:
        fail(f"an edited input: {said}")
    if sorted(batch.ids("edited.out")) != list("1234567") or batch.ids("edited.out.removed") != ["0"] or not set(batch.read("edited.out.removed").splitlines()) <= set(before):
        fail("an edited input: its records")


def ends_by_tokenizer(batch, source):
    """A fine-tune may name its end token in the tokenizer alone."""
    right, model = batch.model, batch.path("tuned")
    shipped = os.path.join(source, "demo", "model")
    shutil.copytree(shipped, model)
    for name in ("config.json", "generation_config.json"):
        with open(os.path.join(model, name), encoding="utf-8") as file:
            config = json.load(file)
        with open(os.path.join(model, name), "w", encoding="utf-8") as file:
            json.dump({**config, "eos_token_id": 1}, file)
    body = {"prompt": "dated Sep 7, 2016 | amount due EUR 212.84 | by Rokar Office | paid | Inv. 427050\n=>", "max_tokens": 96, "temperature": 0}
    line = batch.write("tuned.jsonl", json.dumps(body))
    choices = []
    for batch.model in (shipped, model):
        said = batch.run(line, f"ends{len(choices)}.out")
        choices.append(json.loads(batch.read(f"ends{len(choices)}.out"))["response"]["body"]["choices"])
    batch.model = right
    if choices[0] != choices[1] or choices[0][0]["finish_reason"] != "stop" or "the tokenizer's end token" not in said:
        fail(f"the tokenizer's end token: {choices}, and it said {said}")


def packed_names(batch):
    """An output that is called packed would be plain text."""
    line = batch.write("packed.jsonl", json.dumps({"prompt": "x", "max_tokens": 1}))
    if "leave .gz out" not in batch.run(line, "answers.jsonl.gz", code=2) or os.path.exists(batch.path("answers.jsonl.gz")):
        fail("an output called .gz is not refused")


def other_arithmetic(batch):
    """A job goes on where sums are rounded as they were, and nowhere else."""
    with open("/proc/cpuinfo") as cpus:
        if "amx_bf16" not in cpus.read():
            print("no AMX: another arithmetic is not tried")
            return
    lines = batch.write("arithmetic.jsonl", "".join(json.dumps(request(str(number), f"number {number}")) + "\n" for number in range(4)))
    usual, without_amx = dict(os.environ), {**os.environ, "DNNL_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    for output, begun, other, said in (("amx.out", usual, without_amx, "by AMX"), ("dots.out", without_amx, usual, "DNNL_MAX_CPU_ISA=AVX512_CORE_BF16")):
        batch.run(lines, output, "--compute-dtype", "bf16", environment=begun)
        refusal = batch.run(lines, output, "--compute-dtype", "bf16", environment=other, code=1)
        if "rounds otherwise" not in refusal or said not in refusal:
            fail(f"a job goes on with another arithmetic, or it is not said: {refusal}")
        batch.run(lines, output, "--compute-dtype", "bf16", environment=begun)
    # In fp32 there is no difference.
    batch.run(lines, "fp32.out", "--compute-dtype", "f32", environment=usual)
    batch.run(lines, "fp32.out", "--compute-dtype", "f32", environment=without_amx)


def main():
    with tempfile.TemporaryDirectory(prefix="flexgen_files_") as work:
        batch = Batch(os.path.abspath(sys.argv[1]), sys.argv[2], work)
        for part in (forms, exit_codes, bare_lines, arranged, piped, edited, packed_names, other_arithmetic):
            part(batch)
        ends_by_tokenizer(batch, sys.argv[2])
    print("batch files: all as they should be")


if __name__ == "__main__":
    main()
