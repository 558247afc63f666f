#!/usr/bin/env python3
"""Conversations in the form of gpt-oss (harmony) to their end, from a model that says what a script says: forced calls, calls by choice, thoughts and final text; a model that would not call is held to it.
The same in a batch file, from the server, and from its streams. And where what is asked for cannot be written with the model's tokens, the line and the call say so.

Usage: harmony.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import subprocess
import sys
import tempfile

from scripted_model import ScriptedModel
from serve import ENGINE, Server, check

TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant{{ '' if tools }}{# calls go to <|channel|>commentary #}"
MARKS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"]
ENDS = ["<|return|>", "<|call|>"]
THOUGHT = "<|channel|>analysis<|message|>They want a sum.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>" + '{"x": 7}' + "<|call|>"
FINAL = "<|channel|>final<|message|>It is seven.<|return|>"
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["x"]}}} for name in ("add", "drop")]
STRICT = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS]
SAYS_SEVEN = {"guided_regex": "It is [a-z]{5}\\."}
NAMED = {"type": "function", "function": {"name": "add"}}

# Questions of these lengths have their answers at places of their own.
THINKS_AND_CALLS, CALLS, THINKS_AND_ANSWERS = "a" * 5, "b" * 120, "c" * 220


def prompt_of(question):
    return f"<|start|>user<|message|>{question}<|end|><|start|>assistant"


# Name, question, what is asked beside it; reasoning, content, function called.
CASES = [
    ("required", THINKS_AND_CALLS, {"tools": TOOLS, "tool_choice": "required"}, "They want a sum.", None, "add"),
    ("named", CALLS, {"tools": TOOLS, "tool_choice": NAMED}, None, None, "add"),
    ("auto", THINKS_AND_CALLS, {"tools": TOOLS}, "They want a sum.", None, "add"),
    ("final", THINKS_AND_ANSWERS, {"tools": TOOLS}, "They want a sum.", "It is seven.", None),
    ("strict call", THINKS_AND_CALLS, {"tools": STRICT}, "They want a sum.", None, "add"),
    ("strict final", THINKS_AND_ANSWERS, {"tools": STRICT}, "They want a sum.", "It is seven.", None),
    ("regex", THINKS_AND_ANSWERS, SAYS_SEVEN, "They want a sum.", "It is seven.", None),
    ("regex or call, which calls", THINKS_AND_CALLS, {"tools": STRICT, **SAYS_SEVEN}, "They want a sum.", None, "add"),
    ("regex or call, which says", THINKS_AND_ANSWERS, {"tools": STRICT, **SAYS_SEVEN}, "They want a sum.", "It is seven.", None),
    ("no tools", THINKS_AND_ANSWERS, {}, "They want a sum.", "It is seven.", None),
    # Would answer, and must call.
    ("held", THINKS_AND_ANSWERS, {"tools": TOOLS, "tool_choice": NAMED}, "They want a sum.", None, "add")]


def body_of(question, asked):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_completion_tokens": 120, **asked}


def check_choice(case, choice):
    name, _, asked, reasoning, content, function = case
    message = choice["message"]
    check(choice["finish_reason"] == ("tool_calls" if function else "stop"), f"{name}: {choice}")
    check(message.get("reasoning_content") == reasoning and message["content"] == content, f"{name}: {message}")
    calls = message.get("tool_calls", [])
    check([call["function"]["name"] for call in calls] == ([function] if function else []), f"{name}: {message}")
    for call in calls:
        given = json.loads(call["function"]["arguments"])
        check(list(given) == ["x"] and 0 <= given["x"] <= 9 and (name == "held" or given["x"] == 7), f"{name}: {given}")


def run_batch(binary, model, work, lines, code):
    asked, output = os.path.join(work, "in.jsonl"), os.path.join(work, "out.jsonl")
    with open(asked, "w") as file:
        for name, url, body in lines:
            file.write(json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}) + "\n")
    done = subprocess.run([binary, "run-batch", "-m", model, "-i", asked, "-o", output, "--in-order", "--overwrite", "--json", *ENGINE], capture_output=True, text=True, timeout=300)
    check(done.returncode == code, f"run-batch: exit code {done.returncode} instead of {code}; it said:\n{done.stdout}{done.stderr}")
    with open(output) as file:
        return [json.loads(line) for line in file], json.loads(done.stdout), done.stderr


def check_stream(case, server, whole):
    """Deltas add up to the message."""
    message, calls, reason = {"content": "", "reasoning_content": ""}, [], None
    for chunk in server.stream("/v1/chat/completions", body_of(case[1], case[2])):
        choice = chunk["choices"][0]
        for part in message:
            message[part] += choice["delta"].get(part) or ""
        calls += choice["delta"].get("tool_calls", [])
        reason = choice["finish_reason"] or reason
    wanted = whole["message"]
    check(message["content"] == (wanted["content"] or "") and message["reasoning_content"] == wanted.get("reasoning_content", ""), f"{case[0]}: {message} is not {wanted}")
    check([call["function"] for call in calls] == [call["function"] for call in wanted.get("tool_calls", [])], f"{case[0]}: {calls} is not {wanted}")
    check(reason == whole["finish_reason"], f"{case[0]}: {reason}")


def conversations(binary, model, work, server):
    lines = [(case[0], "/v1/chat/completions", body_of(case[1], case[2])) for case in CASES]
    records, _, said = run_batch(binary, model, work, lines, 0)
    for case, record in zip(CASES, records):
        check(record["error"] is None, f"{record}; it said:\n{said}")
        choice = record["response"]["body"]["choices"][0]
        check_choice(case, choice)
        asked = server.ask("/v1/chat/completions", body_of(case[1], case[2]))["choices"][0]
        check_choice(case, asked)
        check_stream(case, server, asked)


def schemas(binary, model, work, server):
    """The final message is held to a schema, which the script does not follow, in a call, in a prompt and in a table."""
    schema = {"type": "object", "properties": {"x": {"const": 7}}, "required": ["x"]}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
    choice = server.ask("/v1/chat/completions", body_of(THINKS_AND_ANSWERS, asked))["choices"][0]
    check(choice["finish_reason"] == "stop" and json.loads(choice["message"]["content"]) == {"x": 7} and choice["message"]["reasoning_content"] == "They want a sum.", choice)
    check_stream(("schema", THINKS_AND_ANSWERS, asked), server, choice)
    cut = server.ask("/v1/chat/completions", {**body_of(THINKS_AND_ANSWERS, asked), "max_completion_tokens": 12})["choices"][0]
    check(cut["finish_reason"] == "length" and cut["message"]["content"] is None and "They want a sum.".startswith(cut["message"]["reasoning_content"]), cut)
    path, table = os.path.join(work, "x.json"), os.path.join(work, "t.csv")
    with open(path, "w") as file:
        json.dump(schema, file)
    with open(table, "w") as file:
        file.write(f"q\n{THINKS_AND_ANSWERS}\n")
    ran = subprocess.run([binary, "generate", "-m", model, "--chat", "--json-schema", path, "--json", "--max-tokens", "120", *ENGINE, THINKS_AND_ANSWERS], capture_output=True, text=True, timeout=300)
    check(ran.returncode == 0 and json.loads(json.loads(ran.stdout)["content"]) == {"x": 7}, f"{ran.stdout}{ran.stderr}")
    ran = subprocess.run([binary, "map", "-m", model, "-i", table, "-o", os.path.join(work, "o.csv"), "--prompt-template", "{{ q }}", "--chat", "--json-schema", path, "--max-tokens", "120", *ENGINE],
                         capture_output=True, text=True, timeout=300)
    with open(os.path.join(work, "o.csv")) as file:
        check(ran.returncode == 0 and file.read().split("\n")[1].endswith(",7"), f"{ran.stdout}{ran.stderr}")


def dead_ends(binary, model, work, server):
    body = {"prompt": "x", "max_tokens": 9, "temperature": 0}
    dead = {**body, "guided_choice": ["a\u00e9"]}  # the tokenizer has the "a" alone
    lines = [("good", "/v1/completions", {**body, "guided_choice": ["ab"]}), ("dead", "/v1/completions", dead), ("plain", "/v1/completions", body)]
    records, summary, said = run_batch(binary, model, work, lines, 1)
    check(records[0]["response"]["body"]["choices"][0]["text"] == "ab" and records[2]["error"] is None, records)
    error = records[1]["error"]
    check(error["code"] == "dead_end" and "at token 2 of the answer" in error["message"] and "finite" not in error["message"] and error["line"] == 2, records[1])
    check(summary["without_answer"] == 1 and summary["answered"] == 2 and "1 without an answer" in said and error["message"] in said, f"{summary} {said}")
    check(server.ask("/v1/completions", dead, 400)["error"]["code"] == "dead_end", "the server answers")
    check(server.stream("/v1/completions", dead)[-1]["error"]["code"] == "dead_end", "its stream is none")
    check(server.ask("/v1/completions", {**body, "guided_choice": ["ab"]})["choices"][0]["text"] == "ab", "nothing goes on behind it")
    schema = os.path.join(work, "schema.json")
    with open(schema, "w") as file:
        json.dump({"const": "\u00e9"}, file)
    told = subprocess.run([binary, "generate", "-m", model, "--json-schema", schema, *ENGINE, "x"], capture_output=True, text=True, timeout=300)
    check(told.returncode == 1 and "token 2 of the answer" in told.stderr and "finite" not in told.stderr, f"{told.returncode}: {told.stderr}")


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        model = os.path.join(work, "model")
        ScriptedModel(model, MARKS, ENDS, [(prompt_of(THINKS_AND_CALLS), THOUGHT + CALL), (prompt_of(CALLS), CALL), (prompt_of(THINKS_AND_ANSWERS), THOUGHT + FINAL)])
        with open(os.path.join(model, "chat_template.jinja"), "w") as file:
            file.write(TEMPLATE)
        with Server(binary, model) as server:
            conversations(binary, model, work, server)
            schemas(binary, model, work, server)
            dead_ends(binary, model, work, server)
    print("harmony.py: all holds")


if __name__ == "__main__":
    main()
