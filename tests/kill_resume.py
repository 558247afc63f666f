#!/usr/bin/env python3
"""Kills `flexgen run-batch` at random moments, restarts it until it is done, and compares: the sorted output must be, byte for
byte, that of a job that ran through (docs/job_files.md). Also outputs that are put in order or split at the end, requests through a pipe, and inputs that are edited between two starts. Also SIGTERM: exit
code 75, then the same. Many of the prompts begin alike, some within others, and some are the same: what is shared, and with whom, differs from start to start.

Usage: kill_resume.py FLEXGEN_BINARY SOURCE_DIR [--seed N] [--kills N]
With --kills it goes on with jobs of all kinds (types of weights and cache, shards) until there were so many."""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

EDITED_JOBS = 6     # whose input is edited half-way
JOBS = 20           # killed until they are done; more of them if there are to be more kills
MAX_STARTS = 12     # of one job; the last one is let through
LINES = 200
START_LIMIT_S = 60  # a start that takes longer hangs

# Each start takes another placement: none may change an answer. All but the last are slow enough to be killed half-way.
PLACEMENTS = [
    "--weights 0:0:100 --kv-cache 0:0:100 --activations 0:0:100 --micro-batch-size 4 --num-micro-batches 2",
    "--weights 0:0:100 --kv-cache 0:0:100 --micro-batch-size 5 --num-micro-batches 2 --buffers 3 --weight-buffers 7",
    "--weights 0:50:50 --kv-cache 0:30:70 --micro-batch-size 3 --num-micro-batches 3",
    "--weights 0:100:0 --kv-cache 0:0:100 --micro-batch-size 7 --num-micro-batches 1",
]

# What may change an answer stays as it is from start to start. Weights in another type are prepared first, and killed while they are.
KINDS = ["", "--weight-dtype int4", "--kv-cache-dtype int8", "--weight-dtype int8 --kv-cache-dtype int4", "--compute-dtype f32 --kv-cache-dtype int4 --kv-cache-rotation hadamard",
         "--weight-dtype bf16,int8 --kv-cache-dtype auto,int8", "--in-order", "--error-output {errors} -i -", "--in-order --error-output {errors}", "--in-order --shard 0/2", "--shard 1/2", "--attention-sparsity 0.5", "--weight-dtype int4 --matmul-dtype int8", "--weight-dtype int4 --shard 2/3"]

# A mixture of experts instead of the dense model; each start says anew how experts are loaded.
MIXTURE = "mixture"
KINDS.append(MIXTURE)

ARRANGED = [kind for kind in KINDS if "--in-order" in kind or "--error-output" in kind]


def copy_fixture(source, name, directory, **changes):
    """A fixture with a tokenizer, and room for longer sequences; its config.json with these changes. Returns the config as it was."""
    shutil.copytree(os.path.join(source, "tests/fixtures/models", name), directory)
    shutil.copy(os.path.join(source, "tests/fixtures/tokenizers/gpt2-like/tokenizer.json"), directory)
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump({**config, "max_position_embeddings": 256, **changes}, file)
    return config


def make_model(source, directory):
    """A fixture whose vocabulary is about the tokenizer's."""
    copy_fixture(source, "llama", directory)


def make_mixture(source, directory):
    """A fixture with experts, its table of tokens repeated until it is as large as the tokenizer's."""
    new = 448
    old = copy_fixture(source, "qwen3_moe", directory, vocab_size=new)["vocab_size"]
    path = os.path.join(directory, "model.safetensors")
    data = read(path)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:8 + size]), b""
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        first, end = tensor["data_offsets"]
        content = data[8 + size + first:8 + size + end]
        if tensor["shape"][0] == old:
            tensor["shape"][0] = new
            content = (content * (new // old + 1))[:len(content) // old * new]
        tensor["data_offsets"] = [len(body), len(body) + len(content)]
        body += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + body)


# Without '"', which is this model's end token.
GRAMMARS = [{"guided_choice": ["yes", "no", "neither"]}, {"guided_regex": "[a-z]{3,12}[0-9]?"}, {"guided_grammar": 'root ::= "(" root ")" | [a-z]'},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "array", "items": {"type": "integer"}, "maxItems": 4}}}}]


def make_input(path, rng):
    common = [rng.randrange(3, 420) for _ in range(150)]  # more than two pages of the cache
    words = "the quick brown fox jumps over a lazy dog while seven wizards count 1234567890 coins, twice".split()
    with open(path, "w") as file:
        for number in range(LINES):
            if number % 25 == 7:
                file.write(rng.choice(['{"custom_id": "torn', '{"custom_id":"x%d","method":"POST","url":"/v1/chat","body":{}}' % number,
                                       "no json at all"]) + "\n")
                continue
            body = {"prompt": " ".join(rng.choices(words, k=rng.randint(1, 30))), "max_tokens": rng.randint(1, 30)}
            if number % 4 == 1:  # token ids
                body["prompt"] = [rng.randrange(3, 420) for _ in range(rng.randint(1, 90))]
            if number % 3 == 0:  # what many have in common, and some more
                body["prompt"] = common[:150 if number % 6 else 80] + [rng.randrange(3, 420) for _ in range(rng.randint(1, 40))]
            if number % 10 == 2:  # several choices in one record
                body.update(prompt=[body["prompt"], "and another" if isinstance(body["prompt"], str) else common[:90]], n=2, max_tokens=rng.randint(1, 12))
            if number % 2:
                body.update(temperature=0.9, top_p=0.95)
                if number % 3:
                    body["seed"] = number
            else:
                body["temperature"] = 0
            if number % 9 == 4:
                body["logprobs"] = 2
            if number % 7 == 3:
                body["echo"] = True
            if number % 8 == 6:
                body["stop"] = ["e", " a"]
            if number % 5 == 3:  # refused by name where the build has no grammars
                body.update(rng.choice(GRAMMARS))
            if number % 11 == 5:  # asked more than once, and nothing is drawn
                body = {"prompt": common[:100], "max_tokens": 9, "temperature": 0, "n": 1 + number % 2}
            if number % 20 == 15:  # a body alone
                file.write(json.dumps(body) + "\n")
                continue
            # One custom_id twice: the second is a bad line.
            line = {"custom_id": f"r{number if number != 150 else 4}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


class Test:
    def __init__(self, binary, source, work, rng):
        self.work, self.rng = work, rng
        self.binary = shutil.copy(binary, work)  # a build meanwhile must not change it
        self.model = os.path.join(work, "model")
        self.input = os.path.join(work, "in.jsonl")
        self.use_spill("spill")
        make_model(source, self.model)
        self.mixture = os.path.join(work, "mixture")
        make_mixture(source, self.mixture)
        make_input(self.input, rng)
        self.kind = ""
        self.references = {}  # kind -> what an uninterrupted run gives
        self.kills_at = []  # how many records were there at each kill

    def use_spill(self, name):
        self.spill = os.path.join(self.work, name)
        os.makedirs(self.spill, exist_ok=True)

    def named(self, output):
        """Where a job of this kind puts its records."""
        if "--shard" not in self.kind:
            return output
        index, count = self.kind.split("--shard ")[1].split()[0].split("/")
        stem, ending = os.path.splitext(output)
        return f"{stem}.{index}-of-{count}{ending}"

    def start(self, output, placement, source=None, more=()):
        kind, model = self.kind.format(errors=self.errors_of(output)).split(), self.model
        if self.kind == MIXTURE:
            kind, model = ["--load-experts", self.rng.choice(["auto", "all", "chosen"])], self.mixture
            if self.rng.random() < 0.5:
                kind += ["--expert-statistics", os.path.join(self.work, "experts.json")]
        named = [] if "-i" in kind else ["-i", source or self.input]
        command = [self.binary, "run-batch", "--model", model, *named, "-o", output, "--hardware", "generic", "--cpu-memory", "64MiB",
                   "--disk-dir", self.spill, "--disk-space", "256MiB", "--threads", "1", *placement.split(), *kind, *more]
        with open(os.path.join(self.work, "log"), "wb") as log, open(self.input, "rb") as piped:
            return subprocess.Popen(command, stdin=piped, stdout=log, stderr=log)

    def errors_of(self, output):
        return output + ".errors"

    def records(self, output):
        """The bytes of the answers, and of the error records that are apart."""
        errors = self.errors_of(output)
        return read(self.named(output)), read(errors) if "--error-output" in self.kind and os.path.exists(errors) else b""

    def log(self):
        with open(os.path.join(self.work, "log"), errors="replace") as file:
            return file.read()

    def wait(self, process, expected):
        try:
            code = process.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            sys.exit(f"flexgen hangs; it said:\n{self.log()}")
        if code not in expected:
            sys.exit(f"flexgen ended with {code} instead of {expected}; it said:\n{self.log()}")
        return code

    def check_partial(self, output):
        """What a kill leaves: whole records of the reference, each once, and at most a torn one. Returns how many."""
        lines = read(output).split(b"\n")
        whole = lines[:-1]
        if len(set(whole)) != len(whole):
            sys.exit(f"{output}: a record is there twice after a kill")
        for line in whole:
            if line not in self.reference:
                sys.exit(f"{output}: a record that the uninterrupted run does not have: {line!r}")
        left = [name for name in os.listdir(self.spill) if os.path.isfile(os.path.join(self.spill, name)) and os.path.getsize(os.path.join(self.spill, name))]
        if left:
            sys.exit(f"a kill left spilled bytes behind: {left}")
        return len(whole)

    def check_whole(self, output, what):
        """`output`: as it is given to flexgen."""
        answers, errors = self.records(output)
        lines = (answers + errors).splitlines(True)
        exact = not self.arranged() or (answers, errors) == self.texts or ("--in-order" not in self.kind and sorted(errors.splitlines()) == sorted(self.texts[1].splitlines()))
        if sorted(lines) == self.sorted_reference and exact:
            return
        if not exact and sorted(lines) == self.sorted_reference:
            sys.exit(f"{what}: the records are not in the order or in the file of an uninterrupted run")
        missing = self.reference - {line.rstrip(b"\n") for line in lines}
        sys.exit(f"{what}: {len(lines)} records instead of {len(self.sorted_reference)}, {len(missing)} of the reference's are missing, "
                 f"for example {sorted(missing)[:1]}")

    def use_kind(self, kind):
        """From now on jobs are of this kind; runs one through for what they must give."""
        self.kind = kind
        if kind not in self.references:
            output = os.path.join(self.work, f"reference{len(self.references)}.jsonl")
            self.use_spill("spill")
            begin = time.monotonic()
            self.wait(self.start(output, PLACEMENTS[0]), {0})
            self.references[kind] = (time.monotonic() - begin, self.records(output))
            if not kind:
                self.check_sharing(self.references[kind][1][0])
        self.time_s, self.texts = self.references[kind]
        text = b"".join(self.texts)
        if "--in-order" in kind and "--shard" not in kind:
            for part in self.texts:
                places = [place_of(json.loads(line)) for line in part.splitlines()]
                if places != sorted(places):
                    sys.exit(f"{kind}: the records are not in the order of the lines: {places}")
        if "--error-output" in kind and (b'"response":null' in self.texts[0] or self.texts[1].count(b'"response":null') != self.texts[1].count(b"\n")):
            sys.exit(f"{kind}: errors and answers are not apart")
        self.sorted_reference = sorted(text.splitlines(True))
        self.reference = set(text.splitlines())
        self.size = len(text)
        errors = sum(b'"response":null' in line for line in self.reference)
        with_grammar = sum(b"guided" in line or b"response_format" in line for line in read(self.input).splitlines())  # which a build without grammars refuses
        if "--shard" not in kind and (len(self.reference) != LINES or errors - (LINES // 25 + 1) not in (0, with_grammar)):
            sys.exit(f"the reference has {len(self.reference)} records, {errors} of bad lines; it was to have {LINES} and {LINES // 25 + 1}")

    def check_sharing(self, text):
        """That prompts were shared, and that it changes no answer."""
        if not re.search(r"of these shared +[1-9]", self.log()) or "which are computed once" not in self.log():
            sys.exit(f"nothing was shared; flexgen said:\n{self.log()}")
        output = os.path.join(self.work, "apart.jsonl")
        self.wait(self.start(output, PLACEMENTS[2], more=["--prefix-sharing", "off"]), {0})
        if "of these shared" in self.log() or "computed once" in self.log() or b'"cached_tokens":0' not in read(output) or re.search(rb'"cached_tokens":[1-9]', read(output)):
            sys.exit(f"with --prefix-sharing off something was shared; flexgen said:\n{self.log()}")
        if not re.search(rb'"cached_tokens":[1-9]', text):
            sys.exit("no line's usage tells what it shared")
        if answers_of(text) != answers_of(read(output)):
            sys.exit("with and without --prefix-sharing off the answers differ")

    def arranged(self):
        return "--in-order" in self.kind or "--error-output" in self.kind

    def run_until(self, process, output, bytes_wanted):
        """Until the output has got so long, or the process is over."""
        limit = time.monotonic() + START_LIMIT_S
        while process.poll() is None and time.monotonic() < limit:
            if os.path.exists(output) and os.path.getsize(output) >= bytes_wanted:
                return
            time.sleep(0.001)

    def killed_job(self, number):
        plain = os.path.join(self.work, f"killed-{number}.jsonl")
        output = self.named(plain)
        self.use_spill(f"spill-{number}")  # its own, so that weights are prepared again
        for start in range(MAX_STARTS):
            process = self.start(plain, self.rng.choice(PLACEMENTS))
            if start + 1 < MAX_STARTS:
                moment = self.rng.random()
                if moment < 0.2:  # while it starts, reads the input, or prepares weights
                    time.sleep(self.rng.uniform(0, 0.25))
                elif moment < 0.5:  # at a moment: between any two writes
                    time.sleep(self.rng.uniform(0, 0.6) * self.time_s)
                elif moment < 0.6:  # while it ends
                    self.run_until(process, output, self.size)
                else:  # as soon as there is so much more, whatever the machine's speed
                    before = os.path.getsize(output) if os.path.exists(output) else 0
                    self.run_until(process, output, self.rng.randint(before + 1, max(before + 1, int(1.1 * self.size))))
                process.kill()
            if self.wait(process, {0, -signal.SIGKILL}) == 0:
                break
            self.kills_at.append(self.check_partial(output) if os.path.exists(output) else 0)
        self.check_whole(plain, f"job {number} ({self.kind}), killed {start} times")
        shutil.rmtree(self.spill)
        self.use_spill("spill")
        if number % 5 == 0 and not self.arranged():
            self.damaged_job(plain, output, number)

    def edited_job(self, number):
        """Killed, edited and killed again: what it ends with is what a run of the last input gives, and no answer that was there is lost."""
        output, source = os.path.join(self.work, f"edited-{number}.jsonl"), os.path.join(self.work, f"edited-{number}.in")
        last = read(self.input).splitlines(True)
        first = [line for line in last if self.rng.random() < 0.8]
        for place in range(15):
            body = {"prompt": f"another {place}", "max_tokens": 3}
            first.insert(self.rng.randrange(len(first)), json.dumps({"custom_id": f"gone{place}", "method": "POST", "url": "/v1/completions", "body": body} if place % 3 else body).encode() + b"\n")
        if number % 2:
            self.rng.shuffle(first)
        seen, moment, ours, left = {}, os.stat(self.input), answers_of(b"".join(self.texts)), self.rng.randint(1, 3)
        for step in range(2 * MAX_STARTS):
            lines = first if left > 0 else last
            with open(source, "wb") as file:
                file.write(b"".join(lines))
            os.utime(source, ns=(moment.st_atime_ns, moment.st_mtime_ns))
            process = self.start(output, self.rng.choice(PLACEMENTS), source)
            if step + 1 < MAX_STARTS:
                before = os.path.getsize(output) if os.path.exists(output) else 0
                if self.rng.random() < 0.4:
                    time.sleep(self.rng.uniform(0, 0.4) * self.time_s)
                else:
                    self.run_until(process, output, self.rng.randint(before + 1, before + self.size // 3))
                process.kill()
            code = self.wait(process, {0, -signal.SIGKILL})
            here = [json.loads(line) for line in read(output).split(b"\n")[:-1]] if os.path.exists(output) else []
            if len({record["id"] for record in here}) != len(here):
                sys.exit(f"{output}: a line has two records after a kill")
            for record in here:
                if record["response"]:
                    seen.setdefault(record["id"], []).append(json.dumps(record["response"]["body"]["choices"]))
            if code == 0 and lines is last:
                break
            left -= 1
            if left == 0 and here and not any(record["id"] in ours for record in here):
                left = 1  # all are of lines that go: the last input would be refused as another job's
        # What a line had in common with others was told when it was answered.
        if answers_of(read(output)) != answers_of(b"".join(self.texts)):
            sys.exit(f"{output}: its input was edited, and its records are not those of a run of the last input")
        kept = {}
        for path in (output, output + ".removed"):
            for line in read(path).splitlines() if os.path.exists(path) else []:
                record = json.loads(line)
                if record["response"]:
                    kept.setdefault(record["id"], []).append(json.dumps(record["response"]["body"]["choices"]))
        for name, choices in seen.items():
            if name not in kept or set(choices) != set(kept[name]):
                sys.exit(f"{output}: the answer {name} was there and is lost or another one")

    def damaged_job(self, plain, output, number):
        """Checksums survive kills: whatever bit of an answer flips, the next start does not take the line, names it and changes nothing."""
        whole = read(output)
        starts = [match.start() for match in re.finditer(rb'"text":"[A-Za-z0-9 ]', whole)]
        at = self.rng.choice(starts) + len(b'"text":"')
        damaged = whole[:at] + (b"#" if whole[at:at + 1] != b"#" else b"%") + whole[at + 1:]
        with open(output, "wb") as file:
            file.write(damaged)
        self.wait(self.start(plain, PLACEMENTS[3]), {1})
        line = damaged.count(b"\n", 0, at) + 1
        if f"line {line} " not in self.log() or "checksum" not in self.log() or read(output) != damaged:
            sys.exit(f"{output}: line {line} is damaged; flexgen said:\n{self.log()}")
        lines = damaged.splitlines(True)
        with open(output, "wb") as file:
            file.write(b"".join(lines[:line - 1] + lines[line:]))
        self.wait(self.start(plain, PLACEMENTS[3]), {0})
        self.check_whole(plain, f"job {number} without its damaged line")

    def terminated_job(self, number):
        output = os.path.join(self.work, f"terminated-{number}.jsonl")
        process = self.start(output, PLACEMENTS[0])
        self.run_until(process, output, self.size // 4)
        process.send_signal(signal.SIGTERM)
        self.wait(process, {75})
        if b"" != read(output).split(b"\n")[-1]:
            sys.exit(f"{output}: SIGTERM left a torn record")
        done = self.check_partial(output)
        if not 0 < done < LINES or "the same command goes on" not in self.log():
            sys.exit(f"SIGTERM after {done} of {LINES} records; flexgen said:\n{self.log()}")
        self.wait(self.start(output, PLACEMENTS[1]), {0})
        self.check_whole(output, f"the job ended by SIGTERM after {done} records")


def answers_of(text):
    """The records by their ids, without what their lines shared."""
    records = {}
    for line in text.splitlines():
        record = json.loads(line)
        if record["response"]:
            del record["response"]["body"]["usage"]["prompt_tokens_details"]
        record.pop("checksum", None)
        if records.setdefault(record["id"], record) is not record:
            sys.exit(f"{record['id']}: two records")
    return records


def place_of(record):
    """The place of a record's line in make_input()."""
    return int(re.fullmatch(r"[rx](\d+)|line-(\d+)", record["custom_id"]).group(1) or int(record["custom_id"][5:]) - 1)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=0, help="go on until there were so many")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flexgen_kill_") as work:
        test = Test(options.binary, options.source, work, random.Random(options.seed))
        number = 0
        while number < JOBS or len(test.kills_at) < options.kills:
            test.use_kind(KINDS[number % len(KINDS)] if options.kills else MIXTURE if number % 8 == 3 else "" if number % 4 > 1 else KINDS[1] if number % 4 == 0 else ARRANGED[number // 4 % len(ARRANGED)])
            test.killed_job(number)
            number += 1
            if options.kills and number % 10 == 0:
                print(f"{number} jobs, {len(test.kills_at)} kills, {time.monotonic() - begin:.0f} s", flush=True)
        test.use_kind("")
        for edited in range(EDITED_JOBS):
            test.edited_job(edited)
        for terminated in range(2):
            test.terminated_job(terminated)
    # A test whose kills come too early or too late proves nothing.
    half_way = [count for count in test.kills_at if 0 < count < LINES]
    print(f"kills: {number} jobs of {len(test.references)} kinds, {len(test.kills_at)} kills, {test.kills_at.count(0)} of them before the first record, {len(half_way)} half-way, at {len(set(half_way))} different counts of records, no answer lost, "
          f"doubled or changed; {time.monotonic() - begin:.0f} s in all")
    if len(half_way) < JOBS or len(set(half_way)) < JOBS // 2:
        sys.exit("too few kills hit a job half-way; is it too fast? Give it more lines")


if __name__ == "__main__":
    main()
