#!/usr/bin/env python3
"""flexgen chat: each turn is answered as run-batch answers the same conversation; commands; a conversation that is too long is refused with a sentence; on a terminal Ctrl-C stops an answer and not the
program, and Ctrl-D ends it.

Usage: chat_loop.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time

import serve
from serve import ENGINE, beside

LIMIT_S = 120
FLAGS = ["--max-tokens", "12", *ENGINE]


def check(condition, text):
    if not condition:
        sys.exit(f"chat_loop.py: {text}")


class Test(serve.Test):
    def __init__(self, binary, source, work):
        super().__init__(binary, source, work)
        path = os.path.join(self.model, "config.json")
        with open(path) as file:
            config = json.load(file)
        config["max_position_embeddings"] = 1 << 15
        with open(path, "w") as file:
            json.dump(config, file)

    def chat(self, said, *flags):
        return subprocess.run([self.binary, "chat", "-m", self.model, *beside(flags, FLAGS), *flags], input=said, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S, text=True)

    def answers(self, conversations):
        """run-batch's, of lists of messages."""
        lines, out = os.path.join(self.work, "in.jsonl"), os.path.join(self.work, "out.jsonl")
        with open(lines, "w") as file:
            for number, messages in enumerate(conversations):
                body = {"messages": messages, "max_tokens": 12, "temperature": 0}
                file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n")
        done = subprocess.run([self.binary, "run-batch", "-m", self.model, "-i", lines, "-o", out, "--overwrite", *ENGINE], capture_output=True, timeout=LIMIT_S, text=True)
        check(done.returncode == 0, done.stderr)
        with open(out) as file:
            records = {record["custom_id"]: record for record in map(json.loads, file)}
        return [records[str(number)]["response"]["body"]["choices"][0]["message"]["content"] for number in range(len(conversations))]


def turns(test):
    say = lambda text: {"role": "user", "content": text}
    reply = lambda text: {"role": "assistant", "content": text}
    system = {"role": "system", "content": "be brief"}
    [first] = test.answers([[system, say("seven wizards")]])
    [second, again] = test.answers([[system, say("seven wizards"), reply(first), say("and a fox")], [system, say("and a fox")]])
    done = test.chat("seven wizards\n\nand a fox\r\n/clear\nand a fox\n/exit\nnever\n", "--system", "be brief")
    check(done.returncode == 0 and done.stdout == f"{first}\n{second}\n{again}\n", f"{done} instead of {[first, second, again]}")
    check("a new conversation" in done.stderr and "cut off after --max-tokens 12" in done.stderr and ">" not in done.stderr, done.stderr)
    alone = test.chat("seven wizards", "--system", "be brief", "--prefix-sharing", "off")  # the input ends in the line
    check(alone.returncode == 0 and alone.stdout == first + "\n", alone)


def too_long(test):
    done = test.chat("x\n" + "seven wizards " * 30 + "\nx\n", "--max-model-len", "120")
    check(done.returncode == 1 and len(re.findall("room for 120", done.stderr)) == 1 and "/clear" in done.stderr, done)
    check(done.stdout.count("\n") >= 2, f"the others are answered: {done}")
    # Nor is a line taken that is no text.
    done = subprocess.run([test.binary, "chat", "-m", test.model, *FLAGS], input=b"a\xff\nx\n", capture_output=True, timeout=LIMIT_S)
    check(done.returncode == 1 and b"flexgen: this line: byte 2 is not valid UTF-8" in done.stderr and done.stdout.count(b"\n") == 1, done)
    full = test.chat("seven wizards\n", "--max-model-len", "30", "--max-tokens", "29")
    check(full.returncode == 0 and "has its 30 tokens" in full.stderr, full)
    for flags, message in [(["--max-model-len", "100000"], "the model takes 32768 tokens"), (["--stop", ""], "--stop is empty"), (["--stop-token-id", "100000"], "--stop-token-id 100000")]:
        refused = test.chat("x\n", *flags)
        check(refused.returncode in (1, 2) and message in refused.stderr, refused)
    os.rename(os.path.join(test.model, "chat_template.jinja"), os.path.join(test.work, "template"))
    refused = test.chat("x\n")
    check(refused.returncode == 1 and "flexgen: chat needs the model's chat template" in refused.stderr, refused)
    given = test.chat("x\n", "--chat-template", os.path.join(test.work, "template"))
    check(given.returncode == 0 and given.stdout, given)
    os.rename(os.path.join(test.work, "template"), os.path.join(test.model, "chat_template.jinja"))


class Terminal:
    def __init__(self, command):
        self.seen = ""
        pid, self.screen = pty.fork()
        if pid == 0:
            os.execv(command[0], command)
        self.pid = pid
        attributes = termios.tcgetattr(self.screen)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(self.screen, termios.TCSANOW, attributes)

    def read(self, until):
        """What comes, up to the text that `until` finds in it."""
        end = time.monotonic() + LIMIT_S
        while not (found := re.search(until, self.seen, re.S)):
            check(time.monotonic() < end, f"no {until!r} in {self.seen!r}")
            if select.select([self.screen], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.screen, 65536).decode(errors="replace")
                except OSError:
                    check(False, f"it has ended; no {until!r} in {self.seen!r}")
        self.seen = self.seen[found.end():]
        return found.group(0)

    def type(self, text):
        os.write(self.screen, text.encode())

    def ended(self):
        end = time.monotonic() + LIMIT_S
        while (status := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            check(time.monotonic() < end, "it does not end")
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    os.read(self.screen, 65536)
                except OSError:
                    pass
        return os.waitstatus_to_exitcode(status[1])


def terminal(test):
    memory = ["--cpu-memory", "512MiB"]
    engine = [*beside(memory), *memory]
    talk = Terminal([test.binary, "chat", "-m", test.model, "--max-model-len", "32000", "--max-tokens", "30000", *engine])
    talk.read("> ")
    talk.type("\x03")
    talk.read(r"/exit ends\)\s+> ")
    talk.type("tell me everything\n")
    talk.read(r"\S")  # it streams
    talk.type("\x03")
    talk.read(r"\(stopped\)\s+> ")
    talk.type("go on\n")
    talk.read(r"\S")
    talk.type("\x03")
    talk.read(r"\(stopped\)\s+> ")
    talk.type("/help\n")
    talk.read(r"/clear begins.*> ")
    talk.type("\x04")
    check(talk.ended() == 0, "Ctrl-D ends it in good order")


def main():
    with tempfile.TemporaryDirectory() as work:
        test = Test(sys.argv[1], sys.argv[2], work)
        turns(test)
        too_long(test)
        terminal(test)
    print("chat_loop.py: all holds")


if __name__ == "__main__":
    main()
