#!/usr/bin/env python3
"""Tables through the command line: all forms keep their rows and columns; a job that is killed goes on and gives the same table; choices are those of prompts scored one by one; what is wrong is said.

Usage: tables.py FLEXGEN_BINARY SOURCE_DIR"""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from kill_resume import make_model

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def fail(text):
    sys.exit(f"tables.py: {text}")


def check(condition, text):
    if not condition:
        fail(text)


class Tables:
    def __init__(self, binary, source, work):
        self.binary, self.source, self.work, self.model = binary, source, work, os.path.join(work, "model")
        make_model(source, self.model)
        with open(os.path.join(self.model, "chat_template.jinja"), "w") as file:
            file.write("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{{ mood }}{% if add_generation_prompt %}[assistant]{% endif %}")
        self.few = ["--hardware", "generic", "--planner", "first-rule", "--threads", "1", "--cpu-memory", "64MiB"]

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def command(self, source, output, *flags):
        return [self.binary, "map", "-m", self.model, "-i", self.path(source), "-o", self.path(output), *self.few, *flags]

    def run(self, source, output, *flags, code=0):
        """What it says on stdout, and on stderr."""
        done = subprocess.run(self.command(source, output, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=200, text=True)
        if done.returncode != code:
            fail(f"{source} {' '.join(flags)}: exit code {done.returncode} instead of {code}; it said:\n{done.stdout}{done.stderr}")
        return done.stdout, done.stderr

    def rows(self, name):
        csv.field_size_limit(16 << 20)
        return list(csv.reader(io.StringIO(self.read(name).decode("utf-8-sig"), newline=""), delimiter="\t" if name.endswith(".tsv") else ","))


def table_text(count):
    rows = [["id", "words", "odd, name"]] + [[str(i), f"{WORDS[i % 10]} {i // 10}", ["", 'q"q', "two\nlines", "a,b"][i % 4]] for i in range(count)]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue(), rows


ASK = ["--prompt-template", "count {{ words }} {{ row['odd, name'] }}", "--max-tokens", "4"]


def forms(tables):
    text, rows = table_text(12)
    tables.write("t.csv", text)
    tables.run("t.csv", "a.csv", *ASK)
    found = tables.rows("a.csv")
    check([row[:3] for row in found] == rows and found[0][3] == "answer" and tables.read("a.csv").count(b"\r\n") == 13, f"rows, columns or line ends changed: {found}")
    answers = [row[3] for row in found[1:]]
    # The same by run-batch.
    tables.write("lines.jsonl", "".join(json.dumps({"prompt": f"count {row[1]} {row[2]}", "max_tokens": 4, "temperature": 0}) + "\n" for row in rows[1:]))
    subprocess.run([tables.binary, "run-batch", "-m", tables.model, "-i", tables.path("lines.jsonl"), "-o", tables.path("lines.out"), "--in-order", *tables.few], check=True, capture_output=True, timeout=100)
    plain = [json.loads(line)["response"]["body"]["choices"][0]["text"].strip(" \t\r\n\f\v") for line in tables.read("lines.out").splitlines()]
    check(plain == answers, f"other answers than run-batch's: {answers} instead of {plain}")
    tsv = "".join("\t".join(f'"{cell}"' if "\n" in cell else cell for cell in row) + "\n" for row in rows)
    objects = [dict(zip(rows[0], row)) for row in rows[1:]]
    jsonl = "".join(json.dumps(one | {"n": 1.50, "deep": {"x": [i]}}) + "\n" for i, one in enumerate(objects))
    for name, content in {"f.csv.gz": gzip.compress(b"\xef\xbb\xbf" + text.encode()), "f.tsv": tsv, "f.jsonl": jsonl, "g.csv": text.encode("utf-16")}.items():
        tables.write(name, content)
        for output in ("f.out.csv", "f.out.tsv", "f.out.jsonl"):
            tables.run(name, output, *ASK, "--overwrite")
            if output.endswith("jsonl"):
                made = [json.loads(line) for line in tables.read(output).splitlines()]
                check([one["answer"] for one in made] == answers and [{key: one[key] for key in rows[0]} for one in made] == objects, f"{name} to {output}: {made}")
                check(name != "f.jsonl" or tables.read(output).splitlines()[0].startswith(jsonl.encode().splitlines()[0][:-1]), "values of JSONL changed")
            else:
                made = tables.rows(output)
                check([row[-1] for row in made[1:]] == answers and [row[:3] for row in made] == rows, f"{name} to {output}: {made}")


def killed(tables):
    text, _ = table_text(150)
    tables.write("k.csv", text)
    slow = ["--weights", "0:0:100", "--micro-batch-size", "2", "--num-micro-batches", "1"]
    ask = [*ASK, "--temperature", "0.8", "--seed", "5"]
    tables.run("k.csv", "whole.csv", *ask)
    for attempt in range(3):
        process = subprocess.Popen(tables.command("k.csv", "killed.csv", *ask, *slow), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begin, before = time.monotonic(), os.path.getsize(tables.path("killed.csv.answers.jsonl")) if attempt else 0
        while time.monotonic() < begin + 30 and process.poll() is None:
            time.sleep(0.005)
            if os.path.exists(tables.path("killed.csv.answers.jsonl")) and os.path.getsize(tables.path("killed.csv.answers.jsonl")) > before + 2000:
                break
        process.kill()
        process.wait()
        check(not os.path.exists(tables.path("killed.csv")), "a job that was killed has a table")
    said = tables.run("k.csv", "killed.csv", *ask)[1]
    check(" 0 done before" not in said, f"it did not go on: {said}")
    check(tables.read("killed.csv") == tables.read("whole.csv"), "a job that was killed gives another table")
    check("150 done before" in tables.run("k.csv", "killed.csv", *ask)[1], "a job that is done is done again")
    # Rows that are as they were keep their answers.
    tables.write("k.csv", text.replace("\r\n", "\r\n9,new,\r\n", 1))
    check("1 answered now, 150 done before" in tables.run("k.csv", "killed.csv", *ask)[1], "an edited table")
    with open(tables.path("killed.csv"), "a") as file:
        file.write("mine\n")
    check("was changed since" in tables.run("k.csv", "killed.csv", *ask, code=1)[1], "an edited output is written over")


def killed_at_the_end(tables):
    """A kill while the table takes its place: the same command goes on, as what was written is told of at any moment."""
    for attempt in range(4):
        tables.write("l.csv", "id,words,much\r\n" + "".join(f"{row},{WORDS[row]} {attempt if row == 0 else ''},{'x' * (1 << 20)}\r\n" for row in range(10)))
        before = os.stat(tables.path("late.csv")).st_ino if os.path.exists(tables.path("late.csv")) else None
        process = subprocess.Popen(tables.command("l.csv", "late.csv", "--prompt-template", "{{ words }}", "--max-tokens", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if os.path.exists(tables.path("late.csv")) and os.stat(tables.path("late.csv")).st_ino != before:
                break
        process.kill()
        process.wait()
        tables.run("l.csv", "late.csv", "--prompt-template", "{{ words }}", "--max-tokens", "2")
    # Of two sums either may be the table's, and no other.
    kept, mark, other = tables.read("late.csv"), tables.read("late.csv.written"), b"0" * 64 + b"\n"
    for sums in (mark + other, other + mark):
        tables.write("late.csv.written", sums)
        tables.run("l.csv", "late.csv", "--prompt-template", "{{ words }}", "--max-tokens", "2")
        check(tables.read("late.csv") == kept and tables.read("late.csv.written") == mark, "what a kill left is not put right")
    tables.write("late.csv.written", other + other)
    check("was changed since" in tables.run("l.csv", "late.csv", "--prompt-template", "{{ words }}", "--max-tokens", "2", code=1)[1], "a table of neither sum is written over")


def two_at_once(tables):
    """A start that is refused, as another one is under way, changes nothing of it: the order of choices says what the lines' tokens mean."""
    text, _ = table_text(300)
    tables.write("u.csv", text)
    ask = ["--prompt-template", "{{ words }} ", "--micro-batch-size", "2", "--num-micro-batches", "1", "--choices"]
    tables.run("u.csv", "alone.csv", *ask, "x,y,dog dog")
    for name, flags in (("two.csv", []), ("over.csv", ["--overwrite"])):
        answers = tables.path(name + ".answers.jsonl")
        beside = lambda: {other: tables.read(other) for other in os.listdir(tables.work) if other.startswith(name)}
        process = subprocess.Popen(tables.command("u.csv", name, *ask, "x,y,dog dog", "--weights", "0:0:100"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        begin = time.monotonic()
        while time.monotonic() < begin + 60 and process.poll() is None and not (os.path.exists(answers) and os.path.getsize(answers) > 2000):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            check(process.poll() is None, "the first start is over before the second one began")
            files = beside()
            said = tables.run("u.csv", name, *ask, "dog dog,y,x", *flags, code=1)[1]
            check("another flexgen process is writing" in said, said)
            check(files == beside(), "a start that is refused changes files of the one under way")
        except SystemExit:
            process.kill()
            raise
        os.kill(process.pid, signal.SIGCONT)
        said = process.communicate()[1]
        check(process.returncode == 0 and tables.read(name) == tables.read("alone.csv"), f"a job beside which another one was refused gives another table: {said}")


def choices(tables):
    tables.write("c.csv", "q,label\n" + "".join(f"{word} says,{'x' if i % 3 else 'dog dog'}\n" for i, word in enumerate(WORDS)))
    for names, flags in ((["x", "y", "z"], []), (["dog dog", "x"], []), (["x", "dog dog"], ["--chat"])):
        out = tables.run("c.csv", "c.out.csv", "--prompt-template", "{{ q }}", "--choices", ",".join(names), "--answer-column", "label", "--overwrite", *flags)[0]
        rows = tables.rows("c.out.csv")[1:]
        # The same by scoring whole texts.
        asked = [f"[user] {row[0]}\n[assistant]{name}" if flags else f"{row[0]} {name}" for row in rows for name in names]
        tables.write("scored.jsonl", "".join(json.dumps({"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0, "add_special_tokens": not flags}) + "\n" for text in asked))
        subprocess.run([tables.binary, "run-batch", "-m", tables.model, "-i", tables.path("scored.jsonl"), "-o", tables.path("scored.out"), "--in-order", "--overwrite", *tables.few], check=True, capture_output=True,
                       timeout=100)
        sums = [sum(value for value in json.loads(line)["response"]["body"]["choices"][0]["logprobs"]["token_logprobs"] if value is not None) for line in tables.read("scored.out").splitlines()]
        best = [names[max(range(len(names)), key=lambda i: sums[row * len(names) + i])] for row in range(len(rows))]
        check([row[2] for row in rows] == best, f"choices {names} {flags}: {[row[2] for row in rows]} instead of {best}")
        right = sum(row[1] == row[2] for row in rows)
        check(f"({right} of {len(rows)})" in out, f"accuracy: {out}")


def right_answers_that_are_no_choices(tables):
    for name, content, asked, said in (("f.csv", "q,label\na,0.0\nb,1.0\n", "0,1", "2 of 2 rows are none of --choices ('0.0', say)"), ("f.jsonl", '{"q": "a", "label": true}\n{"q": "b", "label": "True"}\n', "True,False", "1 of 2 rows are none of --choices ('true', say)"),
                                       ("g.jsonl", '{"q": "a", "label": 0.0}\n{"q": "b", "label": "1"}\n', "0,1", ""), ("g.csv", "q,label\na, 0\nb,1\n", "0,1", "")):
        tables.write(name, content)
        told = tables.run(name, "out." + name, "--prompt-template", "{{ q }}", "--choices", asked, "--answer-column", "label")[1]
        check(said in told if said else "none of --choices" not in told, f"{name}: {told}")


def refused(tables):
    text, _ = table_text(4)
    tables.write("r.csv", text)
    cases = [("a,b\n1,2\n3\n", ["--prompt-template", "x"], "row 2 (line 3) has 1 fields"), ("a\n\"x\n", ["--prompt-template", "x"], "nothing closes"), ("answer\n1\n", ["--prompt-template", "x"], "a column 'answer' already"),
             ("a\n1\n", ["--prompt-template", "{{ b }}"], "'b' is undefined"), ("a;b\n1;2\n", ["--prompt-template", "{{ b }}"], "in the place of semicolons"), ("a\n1\n", ["--prompt-template", "{{ a"], "--prompt-template line 1"), ("a\n", ["--prompt-template", "x"], "has no rows")]
    for content, flags, word in cases:
        tables.write("bad.csv", content)
        said = tables.run("bad.csv", "bad.out.csv", *flags, code=1)[1]
        check(word in said and len(said.splitlines()) == 1 and not [name for name in os.listdir(tables.work) if name.startswith("bad.out")], f"{content!r}: {said}")
    tables.write("there.csv", "mine\n")
    check("is there already" in tables.run("r.csv", "there.csv", *ASK, code=1)[1] and tables.read("there.csv") == b"mine\n", "a table that is there is written over")
    # So are files beside it that no job has written.
    for beside in ("lines.jsonl", "written", "answers.jsonl", "answers.jsonl.job"):
        tables.write(f"mine.csv.{beside}", "mine\n")
        said = tables.run("r.csv", "mine.csv", *ASK, code=1)[1]
        check(beside in said and tables.read(f"mine.csv.{beside}") == b"mine\n" and not os.path.exists(tables.path("mine.csv")), f"a file that is there, {beside}, is written over: {said}")
        for name in os.listdir(tables.work):
            if name.startswith("mine.csv"):
                os.remove(tables.path(name))
    for end in (".tmp", ".lines.jsonl.tmp", ".answers.jsonl.tmp", ".answers.jsonl.job.tmp", ".written.tmp"):
        tables.write("kept.csv" + end, "mine\n")
    tables.run("r.csv", "kept.csv", *ASK)
    check(all(tables.read(name) == b"mine\n" for name in os.listdir(tables.work) if name.startswith("kept.csv") and name.endswith(".tmp")), "a file that is no job's is written over")
    check("tools/parquet_table.py" in tables.run("r.parquet", "x.csv", *ASK, code=1)[1], "Parquet")
    # Templates of models that think: choices would be judged as the first words of a thought, and answers that end within it are none.
    with open(os.path.join(tables.model, "chat_template.jinja")) as file:
        usual = file.read()
    with open(os.path.join(tables.model, "chat_template.jinja"), "w") as file:
        file.write(usual.replace("[assistant]{% endif %}", "[assistant]<think>{% endif %}{# </think> #}"))
    said = tables.run("r.csv", "think.csv", "--chat", "--prompt-template", "x", "--choices", "yes,no", code=1)[1]
    check("begin with thoughts" in said, said)
    said = tables.run("r.csv", "think.csv", "--chat", "--prompt-template", "x", "--max-tokens", "4")[1]
    check("end within the model's thoughts" in said and "4 rows, 0 with an answer" in said, said)
    with open(os.path.join(tables.model, "chat_template.jinja"), "w") as file:
        file.write(usual)
    # A row that has not enough positions: an empty cell, or its end of the text.
    tables.write("long.csv", "a\nshort\n" + "word " * 400 + "\n")
    said = tables.run("long.csv", "long.out.csv", "--prompt-template", "{{ a }}", "--max-tokens", "4")[1]
    check(tables.rows("long.out.csv")[2][1] == "" and "1 of 2 rows have no answer" in said, said)
    tables.run("long.csv", "long.out.csv", "--prompt-template", "{{ a }}", "--max-tokens", "4", "--fail-on-bad-lines", code=3)
    # One that is too long for a line loses what is too much before it is turned into tokens.
    tables.write("huge.csv", "a\nshort\n" + "w\u00e4rd " * 500_000 + "\n")
    for flags in (["--max-tokens", "4"], ["--choices", "yes,no"]):
        said = tables.run("huge.csv", "huge.out.csv", "--prompt-template", "{{ a }}", *flags, "--overwrite")[1]
        check(tables.rows("huge.out.csv")[2][1] == "" and "1 of 2 rows have no answer" in said, said)
        for side in ("left", "right"):
            check("2 rows, 2 with an answer" in tables.run("huge.csv", f"huge.{side}.csv", "--prompt-template", "{{ a }}", *flags, "--truncate", side, "--overwrite")[1], f"--truncate {side} {flags}")
    for side in ("left", "right"):
        check("2 rows, 2 with an answer" in tables.run("long.csv", f"{side}.csv", "--prompt-template", "{{ a }}", "--max-tokens", "4", "--truncate", side)[1], f"--truncate {side}")


def choices_of_a_template(tables):
    """What a chat template says of a row is that row's; the day that it tells is that of the job's begin, whenever the table was last touched."""
    path = os.path.join(tables.model, "chat_template.jinja")
    with open(path) as file:
        usual = file.read()
    with open(path, "w") as file:
        file.write(usual.replace("{{ mood }}", "{{ strftime_now('%d %B %Y') }}{% if 'gamma' in messages[0].content %}{{ raise_exception('no gamma') }}{% endif %}"))
    text = "q\n" + "".join(f"{word} says\n" for word in WORDS)
    asked = ["--chat", "--prompt-template", "{{ q }}", "--choices", "x,dog dog"]
    day = 86400
    starts = ((0, text, [], " 9 answered now, 0 done before, 1 bad"), (3 * day, text, [], " 0 answered now, 10 done before, 1 bad"), (5 * day, text + "nu says\n", [], " 1 answered now"),
              (7 * day, text, ["--overwrite"], " 0 answered now"), (9 * day, text, [], " 0 answered now"))
    for touched, content, flags, counts in starts:
        tables.write("day.csv", content)
        os.utime(tables.path("day.csv"), (1700000000 + touched,) * 2)
        said = tables.run("day.csv", "day.out.csv", *asked, *flags)[1]
        check(counts in said, f"after {touched} s: {said}")
        rows = tables.rows("day.out.csv")
        check([row[0] for row in rows[1:] if not row[1]] == ["gamma says"], f"rows without an answer: {rows}")
    check("no gamma" in json.loads(tables.read("day.out.csv.answers.jsonl").splitlines()[2])["error"]["message"], "the record of a row that the template refuses")
    with open(path, "w") as file:
        file.write(usual)


def numbers(tables):
    """Cells have the digits that the model wrote, however many."""
    tables.write("schema.json", json.dumps({"type": "object", "properties": {"id": {"type": "integer"}, "sum": {"type": "number"}}, "required": ["id", "sum"], "additionalProperties": False}))
    tables.write("n.csv", "a\n" + "".join(f"{i}\n" for i in range(200)))
    flags = ["--prompt-template", "{{ a }}", "--json-schema", tables.path("schema.json"), "--output-column", "whole", "--temperature", "2", "--seed", "3", "--max-tokens", "120"]
    random, tables.model = tables.model, os.path.join(tables.source, "demo", "model")  # one whose answers can end
    for output in ("n.out.csv", "n.out.jsonl"):
        tables.run("n.csv", output, *flags)
        rows = tables.rows(output)[1:] if output.endswith("csv") else [list(json.loads(line, parse_int=str, parse_float=str).values()) for line in tables.read(output).splitlines()]
        long = 0
        for _, whole, *cells in rows:
            try:
                said = json.loads(whole or "", parse_int=str, parse_float=str)
            except ValueError:
                said = {"id": "", "sum": ""}  # cut off
            check([cell or "" for cell in cells] == [said["id"], said["sum"]], f"{output}: cells {cells} of {whole}")
            long += len(said["id"]) > 20 or len(said["sum"]) > 20
        check(long > 1, f"{output}: numbers of more than 20 digits: {long}")
    tables.model = random
    # And those that rows have.
    tables.write("n.jsonl", '{"n": 1.50, "id": 44846436436264362643, "l": [8871049.19807971049]}\n')
    tables.run("n.jsonl", "rows.csv", "--prompt-template", "{{ id }}", "--max-tokens", "2")
    check(tables.rows("rows.csv")[1][:3] == ["1.50", "44846436436264362643", "[8871049.19807971049]"], tables.rows("rows.csv"))


def judged(tables):
    """What is right is compared as JSON where it is JSON."""
    tables.write("right.jsonl", "".join(json.dumps({"q": word, "n": 0}).replace(": 0}", ": 1.50}") + "\n" for word in WORDS))
    out = tables.run("right.jsonl", "right.out.jsonl", "--prompt-template", "{{ q }}", "--choices", "1.500,15e-1", "--answer-column", "n")[0]
    check("accuracy 1.000 (10 of 10)" in out, out)
    # Labels are values too: two of them, however right ones and answers are written.
    tables.write("labels.jsonl", "".join(f'{{"q": "{word}", "n": {("1.50", "2.0", "1.5", "2")[i % 4]}}}\n' for i, word in enumerate(WORDS)))
    for flags, labels in (([], "mean of 2 labels"), (["--positive-label", "2.00"], "of '2.00'")):
        out = tables.run("labels.jsonl", "labels.out.jsonl", "--prompt-template", "{{ q }}", "--choices", "1.500,20e-1", "--answer-column", "n", "--overwrite", *flags)[0]
        check(labels in out, out)
    fixed = {"t": {"const": 100}, "s": {"enum": [0.7]}, "p": {"const": {"a": 1, "b": [2.5]}}, "n": {"const": "x"}}
    tables.write("fixed.json", json.dumps({"type": "object", "properties": fixed, "required": list(fixed), "additionalProperties": False}))
    right = '{"n": "x ", "p": {"b": [2.50], "a": 1.0}, "s": 0.70, "t": 100.00}'
    tables.write("fields.jsonl", "".join(f'{{"q": {i}, "right": {right}}}\n' for i in range(60)))
    tables.write("fields.csv", "q,right\n" + "".join(f'{i},"{right.replace(chr(34), chr(34) * 2)}"\n' for i in range(60)))
    random, tables.model = tables.model, os.path.join(tables.source, "demo", "model")  # one whose answers can end
    flags = ["--prompt-template", "{{ q }}", "--json-schema", tables.path("fixed.json"), "--answer-column", "right", "--temperature", "2", "--seed", "3", "--max-tokens", "180"]
    for name in ("fields.jsonl", "fields.csv"):
        out, said = tables.run(name, name.replace(".", ".out."), *flags)
        answered = int(re.search(r"60 rows, (\d+) with an answer", said)[1])
        check(answered > 0 and f"fields right: {4 * answered} of 240" in out, f"{out}: {said} {tables.read(name.replace('.', '.out.'))[:2000]}")
    tables.model = random


def own_examples(tables):
    """A table that is its own table of examples: no row is shown its answer."""
    tables.write("own.csv", "words,label\n" + "".join(f"{word},{word.upper()}\n" for word in WORDS))
    os.symlink(tables.path("own.csv"), tables.path("soft.csv"))
    for name in ("own.csv", "soft.csv"):
        flags = ["--prompt-template", "Q: {{ words }}\nA:", "--examples", tables.path(name), "--shots", "4", "--answer-column", "label"]
        out = tables.run("own.csv", "own.out.csv", *flags, "--dry-run", "10")[0]
        for prompt, word in zip(re.split(r"^row \d+:\n", out, flags=re.M)[1:], WORDS, strict=True):
            check(prompt.endswith(f"Q: {word}\nA:\n\n") and word.upper() not in prompt.split() and prompt.count("Q: ") == 5, prompt)
    said = tables.run("own.csv", "own.out.csv", *flags[:5], "10", *flags[6:], code=1)[1]
    check("10 rows, and 11 are needed (one more, as no row is an example of its own)" in said, said)


def nul(tables):
    """A NUL byte ends nothing: what stands behind it would be lost."""
    for name, text in {"z.jsonl": b'{"a":"x"}\0{"a":"y"}\n', "y.jsonl": b'{"a":"x"}\0\n'}.items():
        tables.write(name, text)
        said = tables.run(name, "z.out.jsonl", "--prompt-template", "{{ a }}", code=1)[1]
        check("row 1 (line 1): not valid JSON at byte 10: a NUL byte" in said and not os.path.exists(tables.path("z.out.jsonl")), said)
    tables.write("z.json", b'{"type":"object","properties":{"id":{"type":"integer"}}}\0junk')
    check("at byte 57: a NUL byte" in tables.run("s.csv", "z.out.csv", "--prompt-template", "{{ words }}", "--json-schema", tables.path("z.json"), code=1)[1], "a schema with a NUL byte")


def shown(tables):
    text, _ = table_text(4)
    tables.write("s.csv", text)
    tables.write("ex.jsonl", "".join(json.dumps({"words": word, "answer": word.upper()}) + "\n" for word in WORDS))
    flags = ["--prompt-template", "Q: {{ words }}\nA:", "--examples", tables.path("ex.jsonl"), "--shots", "2", "--dry-run", "2"]
    out = tables.run("s.csv", "s.out.csv", *flags)[0]
    check(out.count("\n\nQ: alpha 0\nA:\n") == 1 and out.count("A: ") == 4 and out == tables.run("s.csv", "s.out.csv", *flags)[0], out)
    tables.write("mark.j2", "\ufeffQ: {{ words }}\r\nA:")  # as editors on Windows write it
    check(tables.run("s.csv", "s.out.csv", "--template", tables.path("mark.j2"), *flags[2:])[0] == out, "a file's byte order mark or line ends are in the prompts")
    # A table with pandas' index: its column has no name, and stays.
    tables.write("index.csv", ",words\n0,one\n1,two\n")
    tables.run("index.csv", "index.out.csv", "--prompt-template", "{{ row[''] }} {{ words }}", "--max-tokens", "2")
    check([row[:2] for row in tables.rows("index.out.csv")] == [["", "words"], ["0", "one"], ["1", "two"]], tables.rows("index.out.csv"))
    chat = tables.run("s.csv", "s.out.csv", *flags, "--chat", "--system", "Short.")[0]
    check(chat.count("[system] Short.") == 2 and chat.count("[assistant] ") == 4 and not os.path.exists(tables.path("s.out.csv.lines.jsonl")), chat)
    kwargs = ["--chat", "--chat-template-kwargs", '{"mood": "[glad]"}']
    glad = tables.run("s.csv", "s.out.csv", *flags, *kwargs)[0]
    check(glad.count("[glad][assistant]") == 2, glad)
    for name, asked in (("glad.csv", ["--max-tokens", "2"]), ("choice.csv", ["--choices", "yes,no"])):
        tables.run("s.csv", name, "--prompt-template", "x", *asked, *kwargs)
        plain = tables.run("s.csv", "plain-" + name, "--prompt-template", "x", *asked, "--chat") and tables.read(f"plain-{name}.lines.jsonl")
        check(tables.read(name + ".lines.jsonl") != plain, f"{name}: the template is not given what the user gives")
    said = tables.run("s.csv", "moon.csv", "--prompt-template", "x", "--chat", "--chat-template-kwargs", '{"moon": 1}', code=1)[1]
    check("never looks at 'moon'" in said, said)
    summary = json.loads(tables.run("s.csv", "s.out.csv", *flags[:-2], "--max-tokens", "3", "--json")[0])
    check(summary["output"] == tables.path("s.out.csv") and summary["rows"] == 4 and summary["answered"] == 4, summary)


def main():
    with tempfile.TemporaryDirectory(prefix="flexgen_tables_") as work:
        tables = Tables(os.path.abspath(sys.argv[1]), sys.argv[2], work)
        for part in (forms, killed, killed_at_the_end, two_at_once, choices, choices_of_a_template, right_answers_that_are_no_choices, refused, shown, numbers, judged, own_examples, nul):
            part(tables)
    print("tables: all as they should be")


if __name__ == "__main__":
    main()
