#!/usr/bin/env python3
"""What surrounds a job must not stop it, and must be named when it does: standard streams that are closed, full, stuck or gone, terminals of all kinds,
files that may not be read, and an output that others touch.

Usage: streams.py FLEXGEN_BINARY SOURCE_DIR"""

import fcntl
import itertools
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

from kill_resume import make_model

LIMIT_S = 120
NOBODY = 65534


def fail(text):
    sys.exit(f"streams.py: {text}")


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Test:
    def __init__(self, binary, source, work):
        self.work = work
        os.chmod(work, 0o755)
        self.binary = shutil.copy(binary, work)
        self.model = os.path.join(work, "model")
        make_model(source, self.model)
        self.spill = os.path.join(work, "spill")
        os.mkdir(self.spill)
        self.input = os.path.join(work, "in.jsonl")
        self.write_input(self.input, 6)
        self.long_input = os.path.join(work, "long.jsonl")
        self.write_input(self.long_input, 400)
        self.number = 0
        self.reference = {}
        for path in (self.input, self.long_input):
            output = self.new_output()
            self.expect(self.run(output, path), 0)
            self.reference[path] = sorted(read(output).splitlines(True))
        if len(self.reference[self.input]) != 7:
            fail(f"{len(self.reference[self.input])} records instead of 7")

    def write_input(self, path, lines):
        with open(path, "w") as file:
            file.write("no json\n")
            for number in range(lines):
                body = {"prompt": f"count to {number}: one two", "max_tokens": 20, "temperature": 0}
                file.write(json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}) + "\n")

    def new_output(self):
        self.number += 1
        return os.path.join(self.work, f"out{self.number}.jsonl")

    def command(self, output, path=None):
        return [self.binary, "run-batch", "--model", self.model, "-i", path or self.input, "-o", output, "--hardware", "generic", "--cpu-memory", "64MiB",
                "--disk-dir", self.spill, "--disk-space", "256MiB", "--threads", "1", "--weights", "0:0:100", "--kv-cache", "0:0:100", "--micro-batch-size", "2",
                "--num-micro-batches", "2"]

    def run(self, output, path=None, **how):
        return self.run_command(self.command(output, path), **how)

    def run_command(self, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how):
        """Exit code and what was said."""
        try:
            ended = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=stderr, timeout=LIMIT_S, **how)
        except subprocess.TimeoutExpired:
            fail(f"{command} hangs")
        return ended.returncode, (ended.stdout or b"").decode(errors="replace"), (ended.stderr or b"").decode(errors="replace")

    def expect(self, ended, code, *texts, what=""):
        if ended[0] != code:
            fail(f"{what}: ended with {ended[0]} instead of {code}; it said: {ended[1]}{ended[2]}")
        for text in texts:
            if text not in ended[1] + ended[2]:
                fail(f"{what}: '{text}' is missing in: {ended[1]}{ended[2]}")

    def expect_answers(self, output, what, path=None):
        if sorted(read(output).splitlines(True)) != self.reference[path or self.input]:
            fail(f"{what}: other answers: {read(output)[:300]}")

    # A log that cannot be written.

    def logs(self):
        with open("/dev/full", "wb") as full:
            output = self.new_output()
            self.expect(self.run(output, stdout=full, stderr=full), 0, what="/dev/full")
            self.expect_answers(output, "/dev/full")
        for closed in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
            def close_them():
                for descriptor in closed:
                    os.close(descriptor)
            output = self.new_output()
            self.expect(self.run(output, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=close_them), 0, what=f"{closed} closed")
            self.expect_answers(output, f"{closed} closed")
        for flags in (0, os.O_NONBLOCK):
            reader, writer = os.pipe2(flags | os.O_CLOEXEC)
            os.close(reader)
            output = self.new_output()
            self.expect(self.run(output, stdout=writer, stderr=writer), 0, what="a closed pipe")
            self.expect_answers(output, "a closed pipe")
            os.close(writer)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while os.write(writer, b"x" * 4096):
                pass
        except BlockingIOError:
            pass
        for blocking in (False, True):
            os.set_blocking(writer, blocking)
            output = self.new_output()
            self.expect(self.run(output, stdout=writer, stderr=writer), 0, what="a pipe that nobody reads")
            self.expect_answers(output, "a pipe that nobody reads")
        os.close(reader)
        os.close(writer)

    # Terminals.

    def on_terminal(self, environment, controlling=False, close_after=None, width=None):
        """Exit code, what the terminal got, the output."""
        master, slave = pty.openpty()
        if width:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, width, 0, 0))

        def take_terminal():
            os.setsid()
            if controlling:
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        output = self.new_output()
        process = subprocess.Popen(self.command(output, self.long_input), stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal,
                                   env={**{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLORTERM")}, **environment})
        os.close(slave)
        said, begin = b"", time.monotonic()
        os.set_blocking(master, False)
        while process.poll() is None and time.monotonic() - begin < LIMIT_S:
            try:
                said += os.read(master, 65536)
            except BlockingIOError:
                pass
            except OSError:
                break
            if close_after is not None and os.path.exists(output) and len(read(output).splitlines()) >= close_after:
                break
            time.sleep(0.002)
        try:
            said += os.read(master, 1 << 20)
        except OSError:
            pass
        os.close(master)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            fail("a job hangs whose terminal was closed")
        return code, said, output

    def terminals(self):
        for environment, colours, bar in (({"TERM": "xterm"}, True, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False, True), ({"TERM": "dumb"}, False, False),
                                          ({"TERM": "dumb", "COLORTERM": "truecolor"}, False, False), ({}, False, False), ({"TERM": "xterm", "NO_COLOR": ""}, True, True)):
            code, said, output = self.on_terminal(environment)
            if code != 0:
                fail(f"{environment}: ended with {code}: {said}")
            self.expect_answers(output, str(environment), self.long_input)
            if (b"\033" in said) != colours:
                fail(f"{environment}: {'no ' if colours else ''}escape codes in {said!r}")
            if re.search(rb"\r\[[#-]{10,}\]", said) and not bar:
                fail(f"{environment}: lines are drawn over: {said!r}")
        code, said, output = self.on_terminal({"TERM": "xterm"}, close_after=30)
        if code != 0:
            fail(f"a terminal that goes away: ended with {code}")
        self.expect_answers(output, "a terminal that goes away", self.long_input)
        # One that is the session's own sends SIGHUP: as SIGTERM, the job ends after the step under way.
        code, said, output = self.on_terminal({"TERM": "xterm"}, controlling=True, close_after=30)
        if code not in (75, 0):
            fail(f"SIGHUP: ended with {code}")
        kept = len(read(output).splitlines())
        self.expect(self.run(output, self.long_input), 0, what="after SIGHUP")
        self.expect_answers(output, "after SIGHUP", self.long_input)
        # nohup
        output = self.new_output()
        process = subprocess.Popen(self.command(output, self.long_input), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        while process.poll() is None and not (os.path.exists(output) and os.path.getsize(output)):
            time.sleep(0.005)
        process.send_signal(signal.SIGHUP)
        if process.wait(LIMIT_S) != 0:
            fail(f"under nohup SIGHUP ends a job with {process.returncode}")
        self.expect_answers(output, "nohup", self.long_input)
        print(f"  terminals: stopped by SIGHUP after {kept} of {len(self.reference[self.long_input])} answers", flush=True)

    def widths(self):
        """Neither bar nor table is wider than the terminal; the bar says the time left at every width."""
        for width in (60, 80, 120, 200):
            code, said, _ = self.on_terminal({"TERM": "xterm"}, width=width)
            if code != 0:
                fail(f"{width} columns: ended with {code}: {said}")
            drawn = [line for line in re.split(r"[\r\n]+", said.decode()) if line.strip()]
            bars = [line for line in drawn if line.startswith("[")]
            for line in drawn:
                if len(line) > width and not line.startswith(("info:", "\033")):
                    fail(f"{width} columns: a line of {len(line)}: {line}")
            if not bars or any("ETA" not in bar or "%" not in bar for bar in bars):
                fail(f"{width} columns: bars {bars}")

    # Results that cannot be written.

    def results(self):
        few = ["--model", self.model, "--hardware", "generic", "--cpu-memory", "64MiB"]
        commands = [["generate", *few, "one two", "--max-tokens", "3"], ["plan", *few, "--json", "-i", self.input], ["plan", *few, "-i", self.input],
                    ["inspect", self.model, "--json"], ["inspect", self.model], ["--help"], ["--version"]]
        for command in commands:
            command = [self.binary, *command]
            self.expect(self.run_command(command), 0, what=str(command))
            with open("/dev/full", "wb") as full:
                self.expect(self.run_command(command, stdout=full), 1, "cannot write the result to standard output", "No space left", what=f"{command} >/dev/full")
            self.expect(self.run_command(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(1)), 1, "cannot write the result", what=f"{command} >&-")
            reader, writer = os.pipe()
            os.close(reader)
            self.expect(self.run_command(command, stdout=writer), 1, "cannot write the result", "Broken pipe", what=f"{command} | closed")
            os.close(writer)

    # Files that may not be read or written.

    def as_nobody(self):
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    def refused(self, what, *texts, output=None, **how):
        ended = self.run(output or os.path.join(self.work, "open", "o.jsonl"), preexec_fn=how.pop("preexec_fn", self.as_nobody), **how)
        self.expect(ended, 1, *texts, what=what)
        said = ended[2]
        if "fetch" in said or "damaged" in said or "is a bug" in said or "terminate" in said:
            fail(f"{what}: says '{said}'")

    def permissions(self):
        open_folder = os.path.join(self.work, "open")
        os.mkdir(open_folder)
        os.chmod(open_folder, 0o777)
        os.chmod(self.spill, 0o777)
        output = os.path.join(open_folder, "o.jsonl")
        self.expect(self.run(output, preexec_fn=self.as_nobody), 0, what="nobody")
        os.unlink(output)
        os.unlink(output + ".job")
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            path = os.path.join(self.model, name)
            mode = os.stat(path).st_mode
            os.chmod(path, 0)
            self.refused(name, path, "Permission denied", "ls -ld")
            os.chmod(path, mode)
        for path, mode in ((self.model, 0o000), (self.model, 0o444), (self.input, 0o000)):
            before = os.stat(path).st_mode
            os.chmod(path, mode)
            self.refused(f"{path} {mode:o}", path, "Permission denied")
            os.chmod(path, before)
        for mode in (0o555, 0o000):
            os.chmod(open_folder, mode)
            self.refused(f"folder of the output {mode:o}", "o.jsonl", "Permission denied")
            os.chmod(open_folder, 0o777)
        os.chmod(self.spill, 0o555)
        self.refused("--disk-dir", "--disk-dir", "Permission denied")
        os.chmod(self.spill, 0o777)
        self.expect(self.run(output), 0, what="as root")
        os.chmod(output, 0o444)
        self.refused("an output that may only be read", output, "Permission denied")
        os.chmod(output, 0o666)
        os.chmod(output + ".job", 0)
        before = read(output)
        self.refused("a job file that may not be read", output + ".job", "Permission denied")
        if read(output) != before:
            fail("an output was changed whose job file could not be read")
        os.chmod(output + ".job", 0o644)
        self.others(open_folder)

    def others(self, folder):
        run_as_self = {"preexec_fn": None}
        self.refused("a directory as output", "directory", output=folder, **run_as_self)
        self.refused("a missing folder", os.path.join(folder, "no"), "there is no directory", output=os.path.join(folder, "no", "o.jsonl"), **run_as_self)
        self.refused("a file as folder", "check the path", output=os.path.join(self.input, "o.jsonl"), **run_as_self)
        self.refused("a long name", "shorter name", output=os.path.join(folder, "n" * 300), **run_as_self)
        for loop in ("loop", "pool"):
            os.symlink(os.path.join(folder, "pool" if loop == "loop" else "loop"), os.path.join(folder, loop))
        self.refused("links in a circle", "links", output=os.path.join(folder, "loop"), **run_as_self)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            path = os.path.join(self.model, name)
            os.rename(path, path + ".away")
            os.mkdir(path)
            self.refused(f"{name} is a directory", path, "a directory", **run_as_self)
            os.rmdir(path)
            os.rename(path + ".away", path)
        self.refused("descriptors", "Too many open files", "ulimit -n", output=os.path.join(folder, "few.jsonl"),
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)))

    # An output that others touch.

    def run_touched(self, touch):
        output = self.new_output()
        with open(os.path.join(self.work, "log"), "wb") as log:
            process = subprocess.Popen(self.command(output, self.long_input), stdout=log, stderr=log)
            while process.poll() is None and not (os.path.exists(output) and len(read(output).splitlines()) >= 30):
                time.sleep(0.002)
            touch(output)
            try:
                code = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                fail("a job hangs whose output was touched")
        said = read(os.path.join(self.work, "log")).decode(errors="replace")
        if code != 1 or output not in said:
            fail(f"ended with {code} although its output was touched; it said: {said}")
        return output, said

    def finish(self, output, what):
        ended = self.run(output, self.long_input)
        self.expect(ended, 0, what=what)
        self.expect_answers(output, what, self.long_input)
        return ended

    def touched(self):
        output, said = self.run_touched(os.unlink)
        saved = re.search(r"saved as (\S+)", said).group(1)
        if os.path.exists(output) or len(read(saved).splitlines()) < 30:
            fail(f"a removed output: {said}")
        os.rename(saved, output)
        os.rename(saved + ".job", output + ".job")
        self.finish(output, "after it was removed")

        def replace(path):
            with open(path + ".new", "w") as file:
                file.write("mine\n")
            os.rename(path + ".new", path)
        output, said = self.run_touched(replace)
        if read(output) != b"mine\n" or len(read(output + ".rescued").splitlines()) < 30:
            fail(f"a replaced output: {said}")
        os.rename(output + ".rescued", output)
        self.finish(output, "after it was replaced")
        output, said = self.run_touched(lambda path: os.rename(path, path + ".moved"))
        os.rename(output + ".moved", output)
        self.finish(output, "after it was moved")
        output, said = self.run_touched(lambda path: os.truncate(path, 1000))
        if os.path.getsize(output) != 1000:
            fail(f"a cut output: {said}")
        self.finish(output, "after it was cut")

    def saved_again(self):
        output = self.new_output()
        self.expect(self.run(output), 0)
        plain = read(output)
        lines = plain.decode().splitlines()[:4]
        ways = {
            "CRLF": "".join(line + "\r\n" for line in lines), "json.dumps": "".join(json.dumps(json.loads(line)) + "\n" for line in lines),
            "sorted keys": "".join(json.dumps(json.loads(line), sort_keys=True) + "\n" for line in lines),
            "raw": "".join(json.dumps(json.loads(line), ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines),
            "BOM": "\ufeff" + "\n".join(lines), "reversed": "\n\n".join(json.dumps(dict(reversed(json.loads(line).items()))) for line in reversed(lines)),
        }
        for how, text in ways.items():
            with open(output, "w", newline="") as file:
                file.write(text)
            ended = self.run(output)
            self.expect(ended, 0, "3 answered now, 4 done before", what=how)
            if not read(output).startswith(text.encode()):
                fail(f"{how}: what was there is gone")
        for how, data in {"notes": b"my notes\nmore notes\n", "one note": plain + b"my notes", "flip": plain.replace(b"text_completion", b"texd_completion", 1)}.items():
            with open(output, "wb") as file:
                file.write(data)
            self.expect(self.run(output), 1, "line", output, "nothing was changed", what=how)
            if read(output) != data:
                fail(f"{how}: the file was changed")


def main():
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flexgen_streams_") as work:
        test = Test(sys.argv[1], sys.argv[2], work)
        for part in (test.logs, test.results, test.terminals, test.widths, test.touched, test.saved_again, test.permissions):
            part()
            print(f"{part.__name__}: right ({time.monotonic() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
