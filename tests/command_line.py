#!/usr/bin/env python3
"""The command line from outside: what goes to stdout and what to stderr, as the answer comes, what --quiet, --verbose, --json and --config do, and how errors begin.
Usage: command_line.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

from kill_resume import make_model

LIMIT_S = 120
PROMPT = "count to 3: one two"


def fail(text):
    sys.exit(f"command_line.py: {text}")


def same(found, expected, what):
    if found != expected:
        fail(f"{what}: {found!r} instead of {expected!r}")


class Test:
    def __init__(self, binary, source, work):
        self.binary, self.work = binary, work
        self.model = os.path.join(work, "model")
        make_model(source, self.model)
        self.few = ["--hardware", "generic", "--cpu-memory", "64MiB", "--threads", "1"]
        self.input = os.path.join(work, "in.jsonl")
        with open(self.input, "w") as file:
            file.write("no json\n")
            for number in range(4):
                body = {"prompt": f"count to {number}: one two", "max_tokens": 8, "temperature": 0}
                file.write(json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        self.number = 0

    def run(self, *arguments, stdin="", environment=None):
        """Exit code, stdout, stderr."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLEXGEN_")}
        ended = subprocess.run([self.binary, *arguments], input=stdin if isinstance(stdin, bytes) else stdin.encode(), capture_output=True, timeout=LIMIT_S, env=clean | (environment or {}))
        return ended.returncode, ended.stdout.decode(), ended.stderr.decode()

    def good(self, *arguments, **how):
        code, out, error = self.run(*arguments, **how)
        if code != 0:
            fail(f"{arguments}: ended with {code}: {error}")
        return out, error

    def generate(self, *arguments, **how):
        return self.good("generate", "--model", self.model, *self.few, "--max-tokens", "24", "--ignore-eos", *arguments, **how)

    def batch(self, *arguments, **how):
        self.number += 1
        output = os.path.join(self.work, f"out{self.number}.jsonl")
        return output, *self.good("run-batch", "--model", self.model, "-i", self.input, "-o", output, *self.few, *arguments, **how)

    def prompts(self):
        answer, _ = self.generate(PROMPT)
        for text in (PROMPT, PROMPT + "\n", PROMPT + "\r\n", "\ufeff" + PROMPT):
            same(self.generate("-", stdin=text)[0], answer, f"{text!r} from standard input")
        same(self.generate("-p", PROMPT)[0], answer, "-p")
        if self.generate("-", stdin=PROMPT + "\n\n")[0] == answer:
            fail("all line ends are dropped, not the last alone")

    def planning(self):
        plan = ["plan", "--model", self.model, *self.few, "--json"]
        with open(self.input) as file:
            job = file.read()
        of_file = json.loads(self.good(*plan, "-i", self.input)[0])
        piped = json.loads(self.good(*plan, "-i", "-", stdin=job)[0])
        same(piped["job"], of_file["job"], "the job of a plan from standard input")
        if self.run(*plan, "-i", "-", stdin="")[0] == 0:
            fail("a plan of an empty standard input")

    def streaming(self):
        # Each write is a packet of its own.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [self.binary, "generate", "--model", self.model, *self.few, "--max-tokens", "24", "--ignore-eos", PROMPT]
        process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE)
        theirs.close()
        pieces = []
        while piece := ours.recv(1 << 16):
            pieces.append(piece)
        process.communicate(timeout=LIMIT_S)
        whole, _ = self.generate(PROMPT)
        same(b"".join(pieces).decode(), whole, "the pieces of an answer")
        if len(pieces) < 6:
            fail(f"an answer of 24 tokens came in {len(pieces)} pieces")
        stop = whole[len(whole) // 2:len(whole) // 2 + 3]
        same(self.generate(PROMPT, "--stop", stop)[0], whole[:whole.index(stop)] + "\n", "an answer with a stop string")

    def statistics(self):
        answer, said = self.generate(PROMPT)
        same(said, "", "what generate says")
        out, said = self.generate(PROMPT, "--stats")
        same(out, answer, "the answer with --stats")
        for word in ("policy:", "generated tokens", "predicted"):
            if word not in said:
                fail(f"--stats lacks '{word}': {said}")
        if self.run("generate", "--model", self.model, PROMPT, "--stats", "--quiet")[0] != 2:
            fail("--stats and --quiet are taken together")

    def levels(self):
        noise = {"FLEXGEN_NONSENSE": "1"}
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
        _, _, said = self.batch(environment=noise)
        if not re.search(f"^{stamp}warning: .*FLEXGEN_NONSENSE", said, re.M) or "generated tokens" not in said or "debug:" in said:
            fail(f"without flags: {said}")
        _, _, said = self.batch("--quiet", environment=noise)
        if "FLEXGEN_NONSENSE" not in said or not re.fullmatch(f"({stamp}warning: .*\n)+", said):
            fail(f"--quiet: {said}")
        same(self.batch("--log-level", "error", environment=noise)[2], "", "--log-level error")
        _, _, said = self.batch("-v", environment={"FLEXGEN_BUFFERS": "2"})
        for word in ("debug: --buffers 2 (from FLEXGEN_BUFFERS)", "debug: budgets: 64.0 MiB", "debug: planned in"):
            if not re.search(f"^{stamp}{re.escape(word)}", said, re.M):
                fail(f"--verbose lacks '{word}': {said}")

    def summaries(self):
        output, out, _ = self.batch("--json")
        summary = json.loads(out)
        with open(output) as file:
            records = [json.loads(line) for line in file]
        same([summary[name] for name in ("output", "lines", "answered", "done_before", "bad", "stopped")], [output, 5, 4, 0, 1, False], "the run's summary")
        usage = [record["response"]["body"]["usage"] for record in records if not record["error"]]
        for theirs, ours in (("prompt_tokens", "prompt_tokens"), ("completion_tokens", "generated_tokens")):
            same(summary[ours], sum(one[theirs] for one in usage), ours)
        if not summary["elapsed_s"] > 0 or summary["lanes"]["compute"]["operations"] < 1:
            fail(f"the run's summary: {summary}")
        kept = os.path.join(self.work, "summary.json")
        _, out, _ = self.batch(f"--json={kept}")
        same(out, "", "stdout with --json=FILE")
        with open(kept) as file:
            same(json.load(file)["answered"], 4, "the summary in a file")

        text, _ = self.generate(PROMPT)
        answer = json.loads(self.generate(PROMPT, "--json")[0])
        same((answer["text"] + "\n", answer["finish_reason"], answer["generated_tokens"]), (text, "length", 24), "generate --json")
        same(self.generate(PROMPT, f"--json={kept}")[0], text, "the text beside --json=FILE")

        shards = os.path.join(self.work, "merged.jsonl")
        for number in range(2):
            self.good("run-batch", "--model", self.model, "-i", self.input, "-o", shards, *self.few, "--shard", f"{number}/2")
        same(json.loads(self.good("merge", "-i", self.input, "-o", shards, "--json")[0])["lines"], 5, "merge --json")
        for command in (["inspect", self.model], ["plan", "-m", self.model, *self.few, "--prompt-len", "8", "--gen-len", "8"], ["doctor", "--disk-dir", self.work]):
            json.loads(self.good(*command, "--json")[0])
            same(self.good(*command, f"--json={kept}")[0] == "", command[0] != "plan", f"{command[0]}: whether stdout is empty with --json=FILE")
            with open(kept) as file:
                json.load(file)

    def config(self):
        path = os.path.join(self.work, "job.toml")
        with open(path, "w") as file:
            file.write(f'hardware = "generic"\nthreads = 1\ncpu-memory = "64MiB"  # a comment\nmodel = "{self.model}"\n[generate]\nmax-tokens = 24\nignore-eos = true\n')
        same(self.good("generate", "--config", path, PROMPT), self.generate(PROMPT), "flags of a file")
        variables = {"FLEXGEN_MODEL": self.model, "FLEXGEN_HARDWARE": "generic", "FLEXGEN_MAX_TOKENS": "24", "FLEXGEN_IGNORE_EOS": "1", "FLEXGEN_CPU_MEMORY": "64MiB", "FLEXGEN_THREADS": "1"}
        same(self.good("generate", PROMPT, environment=variables), self.generate(PROMPT), "flags of the environment")

    def files(self):
        """No flag writes over the model, an input, or what a job keeps; whatever lies beside an output is known."""

        def content(folder):
            found = {}
            for name in sorted(os.listdir(folder)):
                if os.path.isfile(os.path.join(folder, name)):
                    with open(os.path.join(folder, name), "rb") as file:
                        found[name] = file.read()
            return found

        def refused(*command):
            before = content(self.work), content(self.model), content(folder)
            code, out, said = self.run(*command)
            if code != 2 or not said.startswith("flexgen: ") or (content(self.work), content(self.model), content(folder)) != before:
                fail(f"{command}: ended with {code}, or changed a file: {said}")

        folder = os.path.join(self.work, "beside")
        os.mkdir(folder)
        weights = os.path.join(self.model, "model.safetensors")
        os.link(weights, os.path.join(self.work, "hard"))
        os.symlink(os.path.join(self.model, "config.json"), os.path.join(self.work, "soft"))
        for path in (weights, os.path.join(self.work, "hard"), os.path.join(self.work, "soft"), os.path.join(self.model, "tokenizer_config.json"), os.path.join(self.model, "generation_config.json")):
            refused("generate", "-m", self.model, "a", "--max-tokens", "3", *self.few, "--trace", path)
            for flags in (["-o", path, "--overwrite"], ["-o", folder + "/o", "--error-output", path], ["-o", folder + "/o", f"--json={path}"]):
                refused("run-batch", "-m", self.model, "-i", self.input, *flags, *self.few)
            refused("inspect", self.model, f"--json={path}")
            refused("doctor", "-m", self.model, "--measure", f"--json={path}")
        refused("doctor", f"--json={weights}")
        jinja, toml = os.path.join(folder, "t.jinja"), os.path.join(folder, "c.toml")
        for path, text in ((jinja, "{{ messages[0].content }}"), (toml, "threads = 1\n")):
            with open(path, "w") as file:
                file.write(text)
        for read in (["--chat-template", jinja], ["--config", toml]):
            refused("run-batch", "-m", self.model, "-i", self.input, "-o", read[1], *read, "--overwrite", *self.few)
            refused("run-batch", "-m", self.model, "-i", self.input, "-o", folder + "/o", "--error-output", read[1], *read, *self.few)
        table = os.path.join(self.work, "rows.csv")
        with open(table, "w") as file:
            file.write("a\n1\n2\n")
        ask = ["map", "-m", self.model, "-i", table, "--prompt-template", "{{ a }}", "--max-tokens", "2", "--chat", "--chat-template", jinja, *self.few]
        shutil.copy(jinja, jinja + ".csv")
        refused(*ask[:-len(self.few) - 1], jinja + ".csv", *self.few, "-o", jinja + ".csv", "--overwrite")
        # All that jobs leave beside their outputs, whatever that is.
        out, batch = os.path.join(folder, "out.csv"), os.path.join(folder, "out.jsonl")
        self.good(*ask, "-o", out)
        with open(self.input) as file:
            lines = file.read()
        asked = ["run-batch", "-m", self.model, "-i", "-", "-o", batch, *self.few]
        self.good(*asked, stdin=lines)
        self.good(*asked, stdin=lines.split("\n", 2)[2])  # the record of a line that is gone lies in .removed
        same(len([name for name in os.listdir(folder) if name.startswith("out.jsonl")]), 4, "files of a batch job")
        for name in sorted(os.listdir(folder)):
            if name.startswith("out.csv"):
                refused(*ask, "-o", out, "--json", os.path.join(folder, name))
            if name.startswith("out.jsonl"):
                refused(*asked, "--trace", os.path.join(folder, name))
        refused("plan", "-m", self.model, *self.few, "--expert-statistics", folder + "/x", f"--json={folder}/x")
        # Answers may lie beside the model.
        self.good("run-batch", "-m", self.model, "-i", self.input, "-o", os.path.join(self.model, "answers.jsonl"), *self.few)

    def errors(self):
        # A prompt that is no text is refused, as a line of a batch is.
        for prompt, stdin, code in ((b"a\xff", b"", 2), ("-", b"a\xff\n", 1)):
            found, out, said = self.run("generate", "--model", self.model, *self.few, prompt, stdin=stdin)
            if found != code or out or "byte 2 is not valid UTF-8" not in said:
                fail(f"{prompt}: ended with {found}: {out}{said}")
        found, out, said = self.run("generate", "--model", self.model, *self.few, "-", stdin="a\n" * (2 << 20))
        if found != 1 or "is longer than 2.00 MiB" not in said:
            fail(f"a prompt of 4 MiB on standard input: ended with {found}: {said}")
        output = os.path.join(self.work, "none.jsonl")
        for code, command in ((1, ["inspect", self.work]), (1, ["generate", "--model", self.work + "/none", "x"]), (2, ["fly"]), (2, ["run-batch", "--input", "x"]), (2, ["generate", "--no-such-flag"]),
                              (1, ["run-batch", "--model", self.model, "-i", self.work + "/none", "-o", output, *self.few]), (1, ["merge", "-i", self.input, "-o", output]),
                              (1, ["run-batch", "--model", self.model, "-i", self.input, "-o", output, "--hardware", "generic", "--cpu-memory", "1KiB"]),
                              (2, ["doctor", "--disk-only"]), (1, ["doctor", "--disk-dir", self.work + "/none"]), (1, ["eval", "--model", self.model, "--task", self.work + "/none"]),
                              (1, ["plan", "--model", self.model, "--config", self.work + "/none"]), (1, ["bench", "--model", "no-such-shape"]), (2, ["completion", "tcsh"])):
            found, out, said = self.run(*command)
            same(out, "", f"stdout of {command}")
            if found != code or not said.startswith("flexgen: "):
                fail(f"{command}: ended with {found}: {said}")


def main():
    with tempfile.TemporaryDirectory(prefix="flexgen_command_line_") as work:
        test = Test(os.path.abspath(sys.argv[1]), sys.argv[2], work)
        for part in (test.prompts, test.planning, test.streaming, test.statistics, test.levels, test.summaries, test.config, test.files, test.errors):
            part()
            print(f"{part.__name__}: right", flush=True)


if __name__ == "__main__":
    main()
