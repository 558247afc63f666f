#!/usr/bin/env python3
"""Conversations through the command line: a batch file of /v1/chat/completions lines is answered, goes on after a kill with the same bytes, and equals the completions of the prompts that the
template writes; plan reads it; generate --chat; what is wrong is said.

Usage: chat.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import subprocess
import sys
import tempfile

from kill_resume import make_model

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}{{ mood }}"


def fail(text):
    sys.exit(f"chat.py: {text}")


def check(condition, text):
    if not condition:
        fail(text)


def line(name, url, body):
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": {"max_completion_tokens": 5, "temperature": 0, **body}}) + "\n"


class Chat:
    def __init__(self, binary, source, work):
        self.binary, self.work, self.model = binary, work, os.path.join(work, "model")
        make_model(source, self.model)
        with open(os.path.join(self.model, "chat_template.jinja"), "w") as file:
            file.write(TEMPLATE)

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, content):
        with open(self.path(name), "w") as file:
            file.write(content)
        os.utime(self.path(name), (1700000000, 1700000000))  # which goes into the answers
        return self.path(name)

    def flexgen(self, *args, code=0):
        done = subprocess.run([self.binary, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=300, text=True)
        if done.returncode != code:
            fail(f"{' '.join(args)}: exit code {done.returncode} instead of {code}; it said:\n{done.stdout}{done.stderr}")
        return done.stdout, done.stderr

    def batch(self, source, output, *flags, code=0):
        said = self.flexgen("run-batch", "-m", self.model, "-i", source, "-o", self.path(output), "--hardware", "generic", "--planner", "first-rule", "--threads", "1", "--cpu-memory", "64MiB", "--in-order",
                            *flags, code=code)[1]
        with open(self.path(output)) as file:
            return said, [json.loads(one) for one in file]


def conversations(count):
    for number in range(count):
        messages = [{"role": "user", "content": f"number {number}"}]
        if number % 3 == 1:
            messages.insert(0, {"role": "system", "content": "be brief"})
        if number % 3 == 2:
            messages += [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
        yield str(number), messages


def written_out(messages, mood=""):
    return "".join(f"[{m['role']}] {m['content']}\n" for m in messages) + "[assistant]" + mood


def answers(chat):
    lines = list(conversations(12))
    asked = chat.write("chat.jsonl", "".join(line(name, "/v1/chat/completions", {"messages": messages, "chat_template_kwargs": {"mood": "!"}, "logprobs": True, "top_logprobs": 2}) for name, messages in lines))
    said, records = chat.batch(asked, "chat.out")
    plain = chat.write("plain.jsonl", "".join(line(name, "/v1/completions", {"prompt": written_out(messages, "!"), "add_special_tokens": False}) for name, messages in lines))
    _, expected = chat.batch(plain, "plain.out")
    check(len(records) == 12, said)
    for record, one in zip(records, expected):
        body, choice = record["response"]["body"], record["response"]["body"]["choices"][0]
        check(body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-"), body)
        check(choice["message"]["role"] == "assistant" and choice["message"]["content"] == one["response"]["body"]["choices"][0]["text"], f"{choice} is not {one}")
        check(body["usage"] == one["response"]["body"]["usage"], f"{body['usage']} is not {one}")
        check(len(choice["logprobs"]["content"]) == body["usage"]["completion_tokens"], choice)
    # Cut off in the middle, it goes on to the same bytes.
    with open(chat.path("chat.out"), "rb") as file:
        whole = file.read()
    with open(chat.path("chat.out"), "wb") as file:
        file.write(whole[:len(whole) // 2])
    chat.batch(asked, "chat.out")
    with open(chat.path("chat.out"), "rb") as file:
        check(file.read() == whole, "a job that was cut off gives other bytes than one that was not")
    # An edited input keeps the answers of lines that are as they were.
    with open(asked) as file:
        edited = file.read().replace("number 3", "number three")
    said, records = chat.batch(chat.write("chat.jsonl", edited), "chat.out")
    check("1 answered now, 11 done before" in said, said)


def what_is_wrong(chat):
    user = [{"role": "user", "content": "Hi"}]
    bad = [{"messages": []}, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, {"messages": user, "tool_choice": "required"}, {"messages": user, "response_format": {"type": "xml"}}]
    said, records = chat.batch(chat.write("bad.jsonl", "".join(line(str(i), "/v1/chat/completions", body) for i, body in enumerate(bad)) + line("good", "/v1/chat/completions", {"messages": user})), "bad.out")
    check([record["error"] is not None for record in records] == [True] * 4 + [False], records)
    for word, record in zip(["is empty", "image_url", "tool_choice", "response_format"], records):
        check(word in record["error"]["message"], record)
    # A file given on the command line; one that is broken; a model without any.
    other = chat.write("other.jinja", "{{ messages[0].content }}")
    asked = chat.write("one.jsonl", line("1", "/v1/chat/completions", {"messages": user}) + '{"messages": [{"role": "user", "content": "bare"}], "max_tokens": 2}\n')
    _, records = chat.batch(asked, "one.out", "--chat-template", other)
    check(records[0]["response"]["body"]["usage"]["prompt_tokens"] < 9 and records[1]["custom_id"] == "line-2", records)
    # Answers of one template are not taken for those of another.
    for flags, difference in (((), "another chat template"), (("--chat-template", chat.write("changed.jinja", "{{ messages[0].content }}!")), "another chat template")):
        said = chat.flexgen("run-batch", "-m", chat.model, "-i", asked, "-o", chat.path("one.out"), "--cpu-memory", "64MiB", "--hardware", "generic", *flags, code=1)[1]
        check(difference in said, said)
    said = chat.flexgen("run-batch", "-m", chat.model, "-i", asked, "-o", chat.path("broken.out"), "--cpu-memory", "64MiB", "--hardware", "generic", "--chat-template", chat.write("broken.jinja", "a\n{% if %}"), code=1)[1]
    check("broken.jinja: the chat template, line 2" in said, said)
    os.rename(os.path.join(chat.model, "chat_template.jinja"), chat.path("kept.jinja"))
    _, records = chat.batch(asked, "none.out", code=3)
    check("give one with --chat-template FILE" in records[0]["error"]["message"], records)
    os.rename(chat.path("kept.jinja"), os.path.join(chat.model, "chat_template.jinja"))
    # Without a number of tokens, memory is set aside for all positions, and that is said.
    said, _ = chat.batch(chat.write("open.jsonl", '{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}\n'), "open.out")
    check("give no max_completion_tokens" in said, said)


def other_commands(chat):
    asked = chat.write("plan.jsonl", "".join(line(name, "/v1/chat/completions", {"messages": messages}) for name, messages in conversations(5)))
    plan = json.loads(chat.flexgen("plan", "-m", chat.model, "-i", asked, "--hardware", "generic", "--cpu-memory", "64MiB", "--json")[0])
    check("5" in json.dumps(plan), plan)
    flags = ["-m", chat.model, "--hardware", "generic", "--cpu-memory", "64MiB", "--max-tokens", "5", "--threads", "1"]
    answer = json.loads(chat.flexgen("generate", *flags, "--chat", "--system", "be brief", "--json", "Hi")[0])
    text = written_out([{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hi"}])
    plain = json.loads(chat.flexgen("generate", *flags, "--no-special-tokens", "--json", text)[0])
    check(answer["content"] == plain["text"], f"{answer} is not {plain}")
    check("--chat" in chat.flexgen("generate", *flags, "--system", "x", "Hi", code=2)[1], "--system without --chat is taken")


def main():
    binary, source = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as work:
        chat = Chat(os.path.abspath(binary), source, work)
        answers(chat)
        what_is_wrong(chat)
        other_commands(chat)
    print("chat.py: all holds")


if __name__ == "__main__":
    main()
