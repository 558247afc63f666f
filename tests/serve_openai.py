#!/usr/bin/env python3
"""PyPI's `openai` client, unmodified, against flexgen serve: every call that it has for what the server does, streams, and the batch example of its documentation, through a restart of the server.

It is taken from where this Python has it, else put into a folder of its own by pip; where that cannot be done the test is skipped (77).

Usage: serve_openai.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import sys
import tempfile
import time

from pip_module import pip_module
from serve import LIMIT_S, Server, Test, check

SLOW = ["--max-num-seqs", "4", "--micro-batch-size", "2", "--num-micro-batches", "2", "--weights", "0:0:100"]


def client_of(openai, server, key="secret"):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0, timeout=LIMIT_S)


def calls(openai, client):
    check([model.id for model in client.models.list()] == ["model"] and client.models.retrieve("model").id == "model", "models")
    whole = client.completions.create(model="model", prompt="seven wizards", max_tokens=12, temperature=0, logprobs=1)
    check(whole.usage.completion_tokens == len(whole.choices[0].logprobs.tokens) and whole.choices[0].finish_reason in ("stop", "length"), whole)
    pieces = list(client.completions.create(model="model", prompt="seven wizards", max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}))
    check("".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text and pieces[-1].usage.total_tokens == whole.usage.total_tokens, pieces)
    # As lm-evaluation-harness scores a prompt.
    scored = client.completions.create(model="model", prompt="one two three", max_tokens=0, temperature=0, logprobs=1, echo=True, seed=1)
    check(scored.choices[0].text == "one two three" and scored.choices[0].logprobs.token_logprobs[0] is None and scored.choices[0].logprobs.token_logprobs[1] < 0, scored)

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    whole = client.chat.completions.create(model="model", messages=messages, max_completion_tokens=12, temperature=0, logprobs=True, top_logprobs=2)
    check(whole.choices[0].message.role == "assistant" and len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens, whole)
    pieces = list(client.chat.completions.create(model="model", messages=messages, max_completion_tokens=12, temperature=0, stream=True))
    check("".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content and pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason, pieces)

    forced_call(openai, client, messages)
    for error, ask in [(openai.NotFoundError, lambda: client.completions.create(model="another", prompt="x")),
                       (openai.BadRequestError, lambda: client.completions.create(model="model", prompt="x", max_tokens=100000)),
                       (openai.NotFoundError, lambda: client.files.retrieve("file-none")),
                       (openai.ConflictError, lambda: client.batches.cancel(done_batch(client)))]:
        try:
            ask()
        except error as given:
            check(given.body["message"] and given.body["code"], given.body)
        else:
            check(False, f"{error} is not raised")


def forced_call(openai, client, messages):
    function = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "b"]}}, "required": ["x", "kind"]}}
    asked = {"model": "model", "messages": messages, "tools": [{"type": "function", "function": function}], "max_completion_tokens": 120, "temperature": 0, "parallel_tool_calls": False}
    try:
        whole = client.chat.completions.create(**asked, tool_choice="required").choices[0]
    except openai.BadRequestError as refused:
        check("no xgrammar" in refused.body["message"], refused.body)  # a build that has no grammars
        return
    call = whole.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    check(whole.finish_reason == "tool_calls" and call.function.name == "add" and list(arguments) == ["x", "kind"] and 0 <= arguments["x"] <= 99 and arguments["kind"] in "ab", whole)
    pieces = [piece.choices[0] for piece in client.chat.completions.create(**asked, tool_choice={"type": "function", "function": {"name": "add"}}, stream=True)]
    streamed = [piece.delta.tool_calls[0] for piece in pieces if piece.delta.tool_calls]
    check([one.function.arguments for one in streamed] == [call.function.arguments] and pieces[-1].finish_reason == "tool_calls", pieces)


def done_batch(client):
    file = client.files.create(file=("nothing.jsonl", b"nothing\n"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    return await_end(client, batch.id).id


def await_end(client, batch_id):
    until = time.monotonic() + LIMIT_S
    while (batch := client.batches.retrieve(batch_id)).status not in ("completed", "failed", "cancelled", "expired"):
        check(time.monotonic() < until, batch)
        time.sleep(0.1)
    return batch


def batch_example(openai, test):
    requests = [{"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions",
                 "body": {"model": "model", "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": f"Hello world {number}!"}],
                          "max_tokens": 100, "ignore_eos": True}} for number in range(40)]
    with open(test.path("batchinput.jsonl"), "w") as file:
        file.writelines(json.dumps(request) + "\n" for request in requests)
    state = ["--state", test.path("state"), "--api-key", "secret"]
    with Server(test.binary, test.model, *state, *SLOW) as server:
        client = client_of(openai, server)
        with open(test.path("batchinput.jsonl"), "rb") as file:
            batch_input_file = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(input_file_id=batch_input_file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"description": "nightly eval job"})
        until = time.monotonic() + LIMIT_S
        while client.batches.retrieve(batch.id).request_counts.completed < 2:
            check(time.monotonic() < until, "it makes no progress")
            time.sleep(0.02)
        server.process.kill()
    with Server(test.binary, test.model, *state) as server:
        client = client_of(openai, server)
        batch = await_end(client, batch.id)
        check(batch.status == "completed" and batch.request_counts.completed == len(requests) and batch.metadata == {"description": "nightly eval job"}, batch)
        records = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        check({record["custom_id"] for record in records} == {request["custom_id"] for request in requests}, records)
        check(all(record["response"]["body"]["choices"][0]["message"]["content"] is not None for record in records), records)
        check([one.id for one in client.batches.list(limit=10)] == [batch.id], "the list of batches")
        check({one.id for one in client.files.list()} == {batch_input_file.id, batch.output_file_id}, "the list of files")
        check(client.files.delete(batch_input_file.id).deleted, "it is not deleted")
        calls(openai, client)
        try:
            client_of(openai, server, "wrong").models.list()
        except openai.AuthenticationError:
            pass
        else:
            check(False, "any key will do")


def main():
    with tempfile.TemporaryDirectory() as work:
        folder = os.path.join(work, "pip")
        openai = pip_module("openai", folder)
        test = Test(sys.argv[1], sys.argv[2], work)
        for name in ("config.json", "generation_config.json"):
            path = os.path.join(test.model, name)
            if os.path.exists(path):
                with open(path) as file:
                    config = json.load(file)
                config["eos_token_id"] = 0  # no text, so that answers may be JSON
                with open(path, "w") as file:
                    json.dump(config, file)
        batch_example(openai, test)
    print("serve_openai.py: all holds")


if __name__ == "__main__":
    main()
