#!/usr/bin/env python3
"""Hostile lines of a batch file among good ones: wrong types and numbers for every field, nesting, broken UTF-8, 8 MiB of all kinds. Each line gets one record, each bad
line an error record, each good neighbour the answer that it gets without them; nothing hangs, and the memory stays in the promise.

Usage: torture_lines.py FLEXGEN_BINARY SOURCE_DIR [--count N] [--seed N] [--only JOB [--keep DIR]]
A failure is repeated by --only with its job's number and the same --seed; --keep leaves input and output there."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from torture_arguments import torture_arguments

LINES_A_JOB, GOOD_A_JOB = 100, 12
TIMEOUT_S = 300                    # a job takes some seconds; a busy machine may take longer
BUDGET_MIB, MARGIN_MIB = 32, 150   # --cpu-memory, and what a process may take beside it
MAX_LINE = 8 << 20
VOCABULARY = 500                   # at least that of the model; ids from here on are out of range

FIELDS = ["model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n", "logprobs", "echo", "stream", "stream_options", "best_of", "presence_penalty", "frequency_penalty",
          "logit_bias", "suffix", "user", "ignore_eos", "min_tokens", "stop_token_ids", "messages", "max_completion_tokens", "nonsense"]
VALUES = ["null", "true", "false", "0", "-1", "1", "2", "1.5", "-0.0", "1e308", "1e-320", "1e400", "-1e400", "NaN", "Infinity", "9223372036854775807", "9223372036854775808", "18446744073709551616",
          "1" * 400, "0." + "1" * 5000, '""', '"x"', '"1"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u2028\\u2029"', '"' + "x" * 3000 + '"', "[]", "{}", "[[]]", "[[[]]]", "[null]",
          "[true]", "[-1]", "[1.5]", '[1,"a"]', '["a",1]', "[[1],[\"a\"]]", "[2147483647]", "[2147483648]", "[1e3]", '{"a":1}', '["",""]', '["a","a"]', "[" * 9 + "]" * 9, '[{"a":[]}]', "01", "+1", "'x'", "0x10"]


def line(custom_id, body, **outer):
    value = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    value.update(outer)
    return json.dumps(value).encode()


def raw_line(custom_id, body):
    """`body`: the text of the fields after a prompt and max_tokens."""
    return b'{"custom_id":"%s","method":"POST","url":"/v1/completions","body":{%s}}' % (custom_id.encode(), body)


def fill(rng, custom_id):
    """Up to 8 MiB, or more, of one kind."""
    size = rng.choice([1 << 16, 1 << 20, 2 << 20, MAX_LINE - 400, MAX_LINE - 400, MAX_LINE + 1, MAX_LINE + 4096])
    unit = rng.choice([b"[],", b"{},", b"1,", b"0,", b'"",', b'"a",', b"[1],", b"[[]],", b'{"a":1},', b"null,", b"1e9,", b'{"custom_id":1},', b'"\\u00e9",', b"1.5,"])
    content = rng.choice([
        lambda: b'"max_tokens":1,"prompt":[' + unit * (size // len(unit)) + b"1]",
        lambda: b'"max_tokens":1,"prompt":"' + b"x" * size + b'"',
        lambda: b'"max_tokens":1,"prompt":"' + "\u00e9\U0001f600".encode() * (size // 6) + b'"',
        lambda: b'"max_tokens":1,"prompt":"' + b"\\u0041" * (size // 6) + b'"',
        lambda: b'"max_tokens":1,"prompt":"x","stop":[' + unit * (size // len(unit)) + b'"x"]',
        lambda: b'"max_tokens":1,"prompt":"x","user":' + b"[" * (size // 2) + b"]" * (size // 2),
        lambda: b'"max_tokens":1,"prompt":' + b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
        lambda: b'"max_tokens":1,"prompt":"x",' + b",".join(b'"f%d":1' % i for i in range(size // 12)),
        lambda: b'"max_tokens":1,' + b",".join([b'"prompt":"x"'] * (size // 13)),
        lambda: b'"max_tokens":1,"prompt":"x","user":[' + unit * (size // len(unit)) + b"1]",
        lambda: b'"max_tokens":1,"prompt":"x","logit_bias":{' + b",".join(b'"%d":1' % i for i in range(size // 10)) + b"}",
        lambda: b'"max_tokens":1' + b" " * size + b',"prompt":"x"',
        lambda: b'"prompt":"x","max_tokens":' + b"1" * size,
        lambda: b'"prompt":"x","max_tokens":1,"' + b"k" * size + b'":1',
    ])()
    return raw_line(custom_id, content), None


def hostile(rng, number):
    """(bytes of the line, whether it must be refused; None: either)"""
    custom_id = f"h{number}"
    kind = rng.choice(["value", "value", "value", "outer", "bytes", "cut", "nest", "id", "prompt", "fill", "sampling", "twice", "sequences", "spaces", "utf8"])
    good = line(custom_id, {"prompt": "the quick brown fox", "max_tokens": rng.choice([1, 4]), "temperature": 0})
    if kind == "value":
        field, value = rng.choice(FIELDS), rng.choice(VALUES)
        return raw_line(custom_id, b",".join(b'"%s":%s' % (name.encode(), text) for name, text in {"prompt": b'"x"', "max_tokens": b"2", field: value.encode()}.items())), None
    if kind == "outer":
        field = rng.choice(["custom_id", "method", "url", "body", "extra"])
        value = rng.choice(VALUES).encode()
        fields = {"custom_id": b'"%s"' % custom_id.encode(), "method": b'"POST"', "url": b'"/v1/completions"', "body": b'{"prompt":"x","max_tokens":1}'}
        fields[field] = value
        if rng.random() < 0.3:
            del fields[field]
        return b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in fields.items()) + b"}", None
    if kind == "bytes":
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 5, 40])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x1f, 0x7f, 0x80, 0xc0, 0xff, 0x22, 0x5c, 0x7b, 0x5d, 0x2c, 0x0d, rng.randrange(256)])
        return bytes(data), None
    if kind == "cut":
        return good[:rng.randrange(1, len(good))], True
    if kind == "nest":
        depth = rng.choice([9, 50, 1000, 100000, 1000000])
        opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"[[],", b"]")])
        text = opening * depth + (b"1" if rng.random() < 0.5 else b'"') + closing * (depth if rng.random() < 0.7 else depth // 2)
        return rng.choice([text, raw_line(custom_id, b'"prompt":' + text), b'{"custom_id":' + text + b"}"])[:MAX_LINE], True
    if kind == "id":
        name = rng.choice(["", "x" * 513, "x" * 100000, "a\u0000b", "\u2028", " ", "#error", "line-1", "g0", "\U0001f600" * 128, "\ud800", "\n", "\"\\"])
        return line(name, {"prompt": "x", "max_tokens": 1}), None
    if kind == "prompt":
        prompt = rng.choice([[], [[]], "", [""], [VOCABULARY], [2**31 - 1], [2**31], [-1], [1, VOCABULARY + 7], [[1], [2**40]], [[1], "a"], [1.5], [True], [None], "x" * 5000, list(range(3, 300)) * 20, [[3] * 5000],
                             ["x"] * 2049, [[5]] * 2049, "\u0000", "\ud800", "\u2028", "<s></s><pad>", "\r\n\t", "\u202e", "e\u0301" * 50])
        return line(custom_id, {"prompt": prompt, "max_tokens": 1, "temperature": 0}), None
    if kind == "fill":
        return fill(rng, custom_id)
    if kind == "sampling":
        body = {"prompt": "x", "max_tokens": rng.choice([0, 1, 10**6, 2**31, 10**30, 3]), "temperature": rng.choice([0, 1e-308, 1e308, 2, 2.0001, -1, 1]), "top_p": rng.choice([0, 1, 1e-9, 1e-320, 2, 0.5]),
                "seed": rng.choice([0, -1, 2**63, 2**64, 2**64 - 1, 7]), "n": rng.choice([0, 1, 128, 129, 3]), "logprobs": rng.choice([0, 5, 6, -1, 10**9, 1]), "echo": rng.choice([True, False, 1])}
        for field in rng.sample(sorted(body), rng.randrange(len(body))):
            if field != "prompt":
                del body[field]
        return line(custom_id, body), None
    if kind == "twice":
        return b'{"custom_id":"%s",' % custom_id.encode() + good[1:], True
    if kind == "sequences":
        prompts, n = rng.choice([(20, 128), (2048, 1), (2048, 128), (100, 10), (2049, 128)])
        return line(custom_id, {"prompt": ["a"] * prompts, "n": n, "max_tokens": 1 if prompts * n < 3000 else 10**7, "temperature": 0}), None
    if kind == "spaces":
        pad = rng.choice([b" " * 1000, b"\t" * 5, b"\xef\xbb\xbf", b"\x0b", b"\xc2\xa0", b"\xe2\x80\xa8", b"\r", b"\0"])
        return rng.choice([pad + good, good + pad, good.replace(b":", b":" + pad, 1)]), None
    text = rng.choice([b"\xff", b"\xc3", b"\xc3\x28", b"\xe2\x28\xa1", b"\xf0\x90\x28\xbc", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
    return raw_line(custom_id, b'"max_tokens":1,"prompt":"a' + text + b'b"'), True


def limit():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.setsid()


class Torture:
    def __init__(self, options, work):
        self.options, self.work = options, options.keep or work
        os.makedirs(self.work, exist_ok=True)
        self.binary = shutil.copy(options.binary, self.work)
        self.model = os.path.join(self.work, "model")
        fixtures = os.path.join(options.source, "tests/fixtures")
        if not os.path.exists(self.model):
            shutil.copytree(os.path.join(fixtures, "models/llama"), self.model)
            shutil.copy(os.path.join(fixtures, "tokenizers/gpt2-like/tokenizer.json"), self.model)
        self.failures, self.largest_mib, self.slowest_s, self.answered, self.refused = 0, 0, 0, 0, 0

    def good(self, number):
        rng = random.Random(f"good-{number}")
        body = {"prompt": [rng.randrange(3, 400) for _ in range(rng.randint(1, 20))] if number % 2 else "the quick brown fox"[:rng.randint(3, 19)], "max_tokens": rng.randint(1, 12)}
        body.update(rng.choice([{"temperature": 0}, {"temperature": 0.9, "seed": number}, {"temperature": 0.7, "top_p": 0.9, "seed": 1, "n": 2}, {"temperature": 0, "logprobs": 2}]))
        return line(f"g{number}", body)

    def run(self, name, lines):
        """The records, in order; or what went wrong."""
        paths = [os.path.join(self.work, name + ending) for ending in (".in", ".out", ".log", ".out.job")]
        for path in paths[1:]:
            if os.path.exists(path):
                os.unlink(path)
        with open(paths[0], "wb") as file:
            file.write(b"\n".join(lines) + b"\n")
        begin = time.monotonic()
        with open(paths[2], "wb") as log:
            process = subprocess.Popen([self.binary, "run-batch", "-m", self.model, "-i", paths[0], "-o", paths[1], "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic", "--planner", "first-rule",
                                        "--threads", "1"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=limit)
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - begin > TIMEOUT_S:
                    os.killpg(process.pid, signal.SIGKILL)
                    os.wait4(process.pid, 0)
                    process.returncode = -9
                    return None, f"hangs for {TIMEOUT_S} s"
                time.sleep(0.005)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        mib = usage.ru_maxrss / 1024
        self.slowest_s, self.largest_mib = max(self.slowest_s, time.monotonic() - begin), max(self.largest_mib, mib)
        with open(paths[2], errors="replace") as file:
            log = file.read()
        if code < 0:
            return None, f"died of {signal.Signals(-code).name}: {log[-400:]}"
        if code != 0:
            return None, f"exit code {code}: {log[-400:]}"
        if mib > BUDGET_MIB + MARGIN_MIB:
            return None, f"took {mib:.0f} MiB"
        try:
            with open(paths[1], "rb") as file:
                return [json.loads(record) for record in file.read().split(b"\n")[:-1]], None
        except ValueError as error:
            return None, f"the output is no JSON: {error}"

    def neighbours(self):
        records, wrong = self.run("alone", [self.good(number) for number in range(GOOD_A_JOB)])
        if wrong or len(records) != GOOD_A_JOB or any(record["error"] for record in records):
            sys.exit(f"the good lines alone: {wrong or records}")
        self.alone = {record["custom_id"]: json.dumps(record["response"]["body"]["choices"]) for record in records}

    def job(self, number):
        rng = random.Random(f"{self.options.seed}-{number}")
        count = min(LINES_A_JOB, self.options.count - number * LINES_A_JOB) if self.options.only is None else LINES_A_JOB
        hostiles = [hostile(rng, place) for place in range(count)]
        # No line ends within a line; a line of blanks would be none. One that took a good line's custom_id would make that the wrong one, so good lines come first.
        hostiles = [(text.replace(b"\n", b" ") if text.strip() else b"x", refused) for text, refused in hostiles]
        lines = [self.good(place) for place in range(GOOD_A_JOB)] + [text for text, _ in hostiles]
        records, wrong = self.run(f"job{number}", lines)
        return wrong or self.judge(hostiles, lines, records)

    def judge(self, hostiles, lines, records):
        if len(records) != len(lines):
            return f"{len(records)} records of {len(lines)} lines"
        by_id = {}
        for record in records:
            if record["custom_id"] in by_id:
                return f"two records of '{record['custom_id'][:40]}'"
            by_id[record["custom_id"]] = record
        for name, choices in self.alone.items():
            record = by_id.get(name)
            if not record or record["error"] or json.dumps(record["response"]["body"]["choices"]) != choices:
                return f"the good line {name} got another answer: {json.dumps(record)[:200]}"
        errors = sum(record["error"] is not None for record in records)
        self.refused, self.answered = self.refused + errors, self.answered + len(records) - errors
        for record in records:
            if record["error"] and not (record["error"].get("code") and record["error"].get("message")):
                return f"an error without a word: {record}"
            if record["error"] and len(json.dumps(record)) > 4000:
                return f"an error of {len(json.dumps(record))} bytes: {json.dumps(record)[:200]}"
        bad = {record["error"].get("line") for record in records if record["error"]}
        for place, (text, refused) in enumerate(hostiles):
            if refused and GOOD_A_JOB + place + 1 not in bad:
                return f"the bad line {GOOD_A_JOB + place + 1} was not refused: {text[:100]!r}"
        return None


def main():
    options = torture_arguments(2000)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flexgen_lines_") as work:
        torture = Torture(options, work)
        torture.neighbours()
        jobs = [options.only] if options.only is not None else range((options.count + LINES_A_JOB - 1) // LINES_A_JOB)
        for number in jobs:
            if wrong := torture.job(number):
                torture.failures += 1
                print(f"FAILURE in job {number}: {wrong}\n  again: --seed {options.seed} --only {number} --keep DIR", flush=True)
            else:
                print(f"job {number} of {len(jobs)} is as it should be, {time.monotonic() - begin:.0f} s", flush=True)
            if not options.keep:
                for ending in (".in", ".out", ".log", ".out.job"):
                    if os.path.exists(os.path.join(torture.work, f"job{number}{ending}")):
                        os.unlink(os.path.join(torture.work, f"job{number}{ending}"))
    print(f"lines: {len(jobs) * LINES_A_JOB if options.only is not None else options.count} hostile ones in {len(jobs)} jobs (seed {options.seed}), {torture.failures} jobs failed; "
          f"{torture.answered} answers and {torture.refused} error records; the slowest job took {torture.slowest_s:.1f} s, the largest {torture.largest_mib:.0f} MiB of {BUDGET_MIB} + {MARGIN_MIB}; "
          f"{time.monotonic() - begin:.0f} s in all")
    sys.exit(1 if torture.failures else 0)


if __name__ == "__main__":
    main()
