#!/usr/bin/env python3
"""flexgen serve over HTTP, with the standard library alone: the same requests by run-batch and by calls that come at random moments give the same texts and tokens; streams add up to the same;
errors have OpenAI's form; garbage, clients that hang up and slow readers cost nobody anything; signals end it in an orderly way.

Usage: serve.py FLEXGEN_BINARY SOURCE_DIR [--seed N]"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from kill_resume import make_model

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}{{ '' if tools }}{{ shown | tojson if shown }}{# calls are written as <tool_call> #}"
LIMIT_S = 120
ENGINE = ["--hardware", "generic", "--planner", "first-rule", "--threads", "1", "--cpu-memory", "96MiB"]


def fail(text):
    sys.exit(f"serve.py: {text}")


def beside(flags, usual=ENGINE):
    """What is usual, but for what `flags` say."""
    return [word for name, value in zip(usual[::2], usual[1::2]) if name not in flags for word in (name, value)]


def check(condition, text):
    if not condition:
        fail(text)


class Server:
    """A flexgen serve that runs until the block ends."""

    def __init__(self, binary, model, *flags):
        self.process = subprocess.Popen([binary, "serve", "-m", model, "--port", "0", *beside(flags), *flags], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.said = []
        self.port = None
        began = threading.Event()

        def listen():
            for line in self.process.stderr:
                self.said.append(line)
                if found := re.search(r"serving .* on http://[^ ]*:(\d+)", line):
                    self.port = int(found.group(1))
                    began.set()
            began.set()

        self.listener = threading.Thread(target=listen, daemon=True)
        self.listener.start()
        if not began.wait(LIMIT_S) or self.port is None:
            self.process.kill()
            fail("it does not begin; it said:\n" + "".join(self.said))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.terminate()
        self.ended()

    def ended(self):
        """The exit code."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail("it does not end; it said:\n" + "".join(self.said))
        self.listener.join(LIMIT_S)
        return code

    def call(self, method, path, body=None, headers=None, raw=None):
        """Status, headers and text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            data = raw if raw is not None else None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def ask(self, path, body, status=200, **how):
        got, _, text = self.call("POST", path, body, **how)
        check(got == status, f"{path} {body}: status {got} instead of {status}: {text}")
        return json.loads(text)

    def stream(self, path, body):
        """The chunks of a stream."""
        status, headers, text = self.call("POST", path, {**body, "stream": True})
        check(status == 200 and headers["Content-Type"].startswith("text/event-stream"), f"{path} {body}: {status} {headers} {text}")
        events = [event[len("data: "):] for event in text.split("\n\n") if event.startswith("data: ")]
        check(events and events[-1] == "[DONE]", text)
        return [json.loads(event) for event in events[:-1]]

    def metric(self, name):
        text = self.call("GET", "/metrics")[2]
        found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
        check(found, f"no {name} in {text}")
        return float(found.group(1))

    def settle(self):
        """Until nothing is under way."""
        until = time.monotonic() + LIMIT_S
        while self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") > 0:
            check(time.monotonic() < until, "sequences stay under way though nobody waits for them")
            time.sleep(0.05)


def address_bytes(server):
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def is_sanitized(server):
    """Whether the program is built with a sanitizer, which takes terabytes of addresses, and memory beside what the program takes."""
    return address_bytes(server) > 1 << 40


def bodies_of(rng, count):
    """Requests of all kinds; the same body is a call and a line. Each draws by a seed of its own, or not at all."""
    words = "the quick brown fox jumps over a lazy dog while seven wizards count 1234567890 coins, twice".split()
    common = " ".join(rng.choices(words, k=40))
    bodies = []
    for number in range(count):
        body = {"prompt": " ".join(rng.choices(words, k=rng.randint(1, 20))), "max_tokens": rng.randint(1, 20), "temperature": 0}
        if number % 3 == 0:
            body["prompt"] = common + " " + body["prompt"]
        if number % 4 == 1:
            body["prompt"] = [rng.randrange(3, 420) for _ in range(rng.randint(1, 60))]
        if number % 2:
            body.update(temperature=0.9, top_p=0.95, seed=number)
        if number % 5 == 2:
            body["logprobs"] = 2
        if number % 7 == 3:
            body["echo"] = True
        if number % 14 == 3:
            body.update(logprobs=1, max_tokens=rng.randint(0, 1))
        if number % 6 == 4:
            body["stop"] = ["e", " a"]
        if number % 10 == 6:
            body.update(n=2, prompt=["one", "two three"])
        if number % 10 == 9:
            body.update(n=2, best_of=3)
        if number % 11 == 5:
            body["prompt_logprobs"] = 1
        if number % 8 == 7:
            body["return_token_ids"] = True
        chat = number % 9 == 8
        if chat:
            body = {"messages": [{"role": "user", "content": f"say {number}"}], "max_completion_tokens": 7, "temperature": 0.5, "seed": number, "logprobs": True, "top_logprobs": 2, "n": 2}
        bodies.append(("/v1/chat/completions" if chat else "/v1/completions", body))
    return bodies


def without_names(body):
    """What an answer says, but for what names it, when it was, and what was in the cache."""
    body = {key: value for key, value in body.items() if key not in ("id", "created")}
    body["usage"] = {key: value for key, value in body["usage"].items() if key != "prompt_tokens_details"}
    return body


def crown(test, server, rng):
    bodies = bodies_of(rng, 80)
    path = test.path("crown.jsonl")
    with open(path, "w") as file:
        for number, (url, body) in enumerate(bodies):
            file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": url, "body": body}) + "\n")
    test.flexgen("run-batch", "-m", test.model, "-i", path, "-o", test.path("crown.out"), *ENGINE)
    expected = {}
    with open(test.path("crown.out")) as file:
        for record in map(json.loads, file):
            check(record["error"] is None, record)
            expected[int(record["custom_id"])] = without_names(record["response"]["body"])
    order = list(range(len(bodies)))
    rng.shuffle(order)
    pauses = [rng.random() * 0.05 if rng.random() < 0.3 else 0 for _ in order]
    got, failures = {}, []

    def client(mine):
        for number in mine:
            time.sleep(pauses[number])
            url, body = bodies[number]
            try:
                got[number] = without_names(server.ask(url, body))
            except BaseException as error:
                failures.append(f"{number}: {error}")

    clients = [threading.Thread(target=client, args=(order[i::16],)) for i in range(16)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    check(not failures, failures)
    for number, answer in expected.items():
        check(got[number] == answer, f"{bodies[number]}: the server says {got[number]}, run-batch {answer}")
    for number, (url, body) in enumerate(bodies):
        if "best_of" not in body:
            compare_stream(server, url, body, expected[number])


def compare_stream(server, url, body, expected):
    chunks = server.stream(url, {**body, "stream_options": {"include_usage": True}})
    usage = chunks.pop()
    check(usage["choices"] == [] and {**usage["usage"], "prompt_tokens_details": None} == {**expected["usage"], "prompt_tokens_details": None}, f"{usage} is not {expected['usage']}")
    choices = [{"text": "", "finish_reason": None, "logprobs": {}, "ids": []} for _ in expected["choices"]]
    for chunk in chunks:
        check(chunk["object"] == ("chat.completion.chunk" if "chat" in url else "text_completion") and chunk["usage"] is None and chunk["id"] == chunks[0]["id"], chunk)
        for piece in chunk["choices"]:
            choice = choices[piece["index"]]
            check(choice["finish_reason"] is None, f"{chunk} comes after the end")
            choice["finish_reason"] = piece["finish_reason"]
            for name, entries in (piece["logprobs"] or {}).items():
                choice["logprobs"][name] = None if entries is None else choice["logprobs"].get(name, []) + entries
            if "chat" in url:
                choice["text"] += piece["delta"].get("content", "")
            else:
                choice["text"] += piece["text"]
                choice["ids"] += piece.get("token_ids", [])
                choice["prompt_logprobs"] = choice.get("prompt_logprobs") or piece.get("prompt_logprobs")
    for choice, whole in zip(choices, expected["choices"]):
        text = whole["message"]["content"] if "chat" in url else whole["text"]
        check(choice["text"] == text and choice["finish_reason"] == whole["finish_reason"], f"{body}: the stream says {choice}, the answer {whole}")
        for name, entries in (whole["logprobs"] or {}).items():
            check(choice["logprobs"][name] == entries, f"{body}: {name} of the stream's logprobs are {choice['logprobs'][name]}, of the answer's {entries}")
        check("prompt_logprobs" not in whole or choice["prompt_logprobs"] == whole["prompt_logprobs"], f"{body}: {choice} {whole}")
        if "return_token_ids" in body:
            check(choice["ids"] == whole["token_ids"], f"{body}: {choice} {whole}")


def told_with_each_piece(server):
    """What clients of vLLM read of a stream's chunks beside the text."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 6, "temperature": 0, "n": 2, "return_token_ids": True, "prompt_logprobs": 0}
    whole = server.ask("/v1/chat/completions", body)
    check(len(whole["prompt_logprobs"]) == len(whole["prompt_token_ids"]) == whole["usage"]["prompt_tokens"], whole)
    chunks = server.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    last = chunks.pop()["usage"]
    counts = {0: 0, 1: 0}
    for chunk in chunks:
        (piece,) = chunk["choices"]
        first = "role" in piece["delta"]
        for name in ("prompt_token_ids", "prompt_logprobs"):
            check(chunk.get(name) == (whole[name] if first else None) and name not in piece, f"{name} of {chunk}")
        counts[piece["index"]] += len(piece["token_ids"])
        usage = {"prompt_tokens": last["prompt_tokens"], "completion_tokens": counts[piece["index"]], "total_tokens": last["prompt_tokens"] + counts[piece["index"]]}
        check(first or chunk["usage"] == usage, f"{chunk} is not {usage}")
    check(sum(counts.values()) == last["completion_tokens"], f"{counts}: {last}")


def streamed_logprobs(server, rng):
    """A stream's logprobs, and where their tokens begin in the text, are those of the whole answer: behind an echo, where tokens share a character, where a stop string cuts the text."""
    cut, shared = 0, 0
    for number in range(60):
        body = {"prompt": "abc", "max_tokens": 3, "temperature": 0, "logprobs": number % 3, "echo": number % 2 == 0}
        if number:
            body.update(max_tokens=rng.randint(1, 30), temperature=2, seed=number)
        if number % 3 == 1:
            body["stop"] = ["e", "a", "\u00e9", "th"]
        if number % 4 == 2:
            body["prompt"] = [rng.randrange(3, 420) for _ in range(20)]
        if number % 5 == 3:
            body.update(return_token_ids=True, prompt_logprobs=1)
        if number % 7 == 5:
            body["skip_special_tokens"] = False
        whole = server.ask("/v1/completions", body)
        compare_stream(server, "/v1/completions", body, whole)
        offsets = whole["choices"][0]["logprobs"]["text_offset"]
        cut += offsets[-1] == len(whole["choices"][0]["text"])
        shared += len(set(offsets[5:])) < len(offsets[5:]) - 1
    check(cut > 5 and shared > 5, f"{cut} texts that end before their last token, {shared} in which tokens share a character: too few to tell")


def small_calls(server, name):
    check(server.call("GET", "/health")[0] == 200, "no health")
    models = json.loads(server.call("GET", "/v1/models")[2])
    check(models["object"] == "list" and [model["id"] for model in models["data"]] == [name], models)
    check(json.loads(server.call("GET", f"/v1/models/{name}")[2])["max_model_len"] == 256, "another model")
    tokens = server.ask("/tokenize", {"model": name, "prompt": "seven wizards", "return_token_strs": True})
    check(tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) and tokens["max_model_len"] == 256, tokens)
    check(server.ask("/detokenize", {"tokens": tokens["tokens"]})["prompt"].endswith("seven wizards"), "other words")
    written = server.ask("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})["tokens"]
    check(server.ask("/detokenize", {"tokens": written})["prompt"] == "[user] Hi\n[assistant]", written)
    check(server.ask("/tokenize", {"prompt": ""})["tokens"] == [], "an empty text has tokens")
    # What a call is given: objects that a template writes out keep their order, integers their digits, and how long the answer may be is no matter.
    call = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"shown": {"zone": 1, "area": {"y": 2, "x": 1.5}, "far": 2**70}}, "max_completion_tokens": 9, "min_tokens": 5}
    written = server.ask("/tokenize", call)["tokens"]
    text = server.ask("/detokenize", {"tokens": written})["prompt"]
    check(text.endswith('{"zone": 1, "area": {"y": 2, "x": 1.5}, "far": 1180591620717411303424}'), text)
    given = server.ask("/v1/chat/completions", {**call, "return_token_ids": True})["prompt_token_ids"]
    check(given == written, f"/tokenize gives {written}, a call {given}")
    # Longer than an answer's prompt may be.
    check(server.ask("/tokenize", {"prompt": "one two " * 500})["count"] > 256, "it was cut")
    drawn = [server.ask("/v1/completions", {"prompt": "x", "max_tokens": 20, "temperature": 1})["choices"][0]["text"] for _ in range(4)]
    check(len(set(drawn)) > 1, f"calls without a seed all get the same: {drawn}")
    check(server.metric("vllm:generation_tokens_total") > 0 and server.metric("vllm:e2e_request_latency_seconds_count") > 0, "nothing is counted")


def refusals(server, name):
    ok = {"prompt": "x", "max_tokens": 2}
    for path, body, status, code, param in [
            ("/v1/completions", {**ok, "model": "another"}, 404, "model_not_found", "model"),
            ("/v1/completions", {**ok, "temprature": 1}, 400, "unsupported_parameter", "temprature"),
            ("/v1/completions", {**ok, "temperature": 9}, 400, "invalid_value", "temperature"),
            ("/v1/completions", {**ok, "max_tokens": 1000}, 400, "context_length_exceeded", "prompt"),
            ("/v1/completions", {"max_tokens": 2}, 400, "invalid_value", "prompt"),
            ("/v1/completions", {**ok, "stream": "yes"}, 400, "invalid_value", "stream"),
            ("/v1/completions", {**ok, "stream": True, "n": 1, "best_of": 2}, 400, "invalid_value", "best_of"),
            ("/v1/completions", {**ok, "stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
            ("/v1/completions", {**ok, "n": 100, "prompt": ["x"] * 50, "temperature": 1}, 413, "too_many_sequences", None),
            ("/v1/chat/completions", {"messages": []}, 400, "invalid_value", "messages"),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_parameter", "messages"),
            ("/detokenize", {"tokens": ["x"]}, 400, "invalid_value", "tokens"),
            ("/v1/nothing", ok, 404, "not_found", None)]:
        error = server.ask(path, body, status)["error"]
        check(error["code"] == code and error["param"] == param and error["message"] and error["type"], f"{path} {body}: {error}")
    server.stream("/v1/completions", {**ok, "stream_options": {"include_usage": None}})  # null says nothing
    error = json.loads(server.call("POST", "/v1/completions", raw=b"{")[2])["error"]
    check("of the body" in error["message"], error)
    for raw in [b"{", b"[]", b'{"prompt": "x"}, "url": {"a": 1}', b"\xff\xfe", b"", b'{"prompt": "x", "prompt": "y"}', b"[" * 100000]:
        status, _, text = server.call("POST", "/v1/completions", raw=raw)
        check(status == 400 and json.loads(text)["error"]["message"], f"{raw[:50]}: {status} {text}")
    for path, raw, word in [("/tokenize", b'{"prompt": "x", "prompt": "y"}', "'prompt' comes twice"), ("/detokenize", b'{"tokens": [1], "tokens": [2]}', "names 'tokens' twice"), ("/tokenize", b"{", "of the body"), ("/tokenize", b'{"prompt": ["x", "y"]}', "prompt must be one text"),
                            ("/v1/completions?temperature=0", json.dumps(ok).encode(), "the query has 'temperature'")]:
        status, _, text = server.call("POST", path, raw=raw)
        check(status == 400 and word in json.loads(text)["error"]["message"], f"{path} {raw}: {status} {text}")
    check(server.call("GET", "/v1/models?foo=1")[0] == 400, "a query that nothing comes of")
    for method, path, allowed, raw in (("GET", "/v1/completions", "POST", None), ("PUT", "/v1/models", "GET, HEAD", None), ("PUT", "/v1/completions", "POST", b"{}")):
        status, headers, text = server.call(method, path, raw=raw)
        check(status == 405 and headers.get("Allow") == allowed, f"{method} {path}: {status} {headers} {text}")
    check(server.call("GET", "/v1/models/")[0] == 404, "a model without a name")
    status, _, text = server.call("POST", "/v1/completions", raw=b'{"prompt": "' + b"x" * (9 << 20) + b'"}')
    check(status == 413 and json.loads(text)["error"]["code"] == "body_too_long", f"{status} {text}")
    check(server.ask("/v1/completions", {**ok, "model": name})["model"] == name, "another name")


def exchange(port, data, half_close=False):
    """What the server says to bytes that are no call."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer
        return b""


def garbage(server, rng):
    health = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for data, status in [
            (b"GET " + b"/" * 5000 + b" HTTP/1.1\r\nConnection: close\r\n\r\n", b"414"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}", b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n{}", b"501"),
            (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"400"),
            (b"DELETE /health HTTP/1.1\r\nConnection: close\r\n\r\n", b"405"),
            (b"GET /health HTTP/1.1\r\nRange: bytes=0-0,0-0\r\nConnection: close\r\n\r\n", b"200"),
            (b"nonsense\r\n\r\n", b"400"),
            (health, b"200")]:
        answer = exchange(server.port, data)
        check(answer.startswith(b"HTTP/1.1 " + status), f"{data[:80]} gets {answer[:200]}, not {status}")
    exchange(server.port, b"GET /health HTTP/1.1\r\n" + b"X-A: " + b"y" * 7000 + b"\r\n" + b"X-B: z\r\n" * 20000 + b"\r\n")  # more headers than are read
    body = json.dumps({"prompt": "x", "max_tokens": 3}).encode()
    good = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    for _ in range(150):
        spoilt = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(spoilt))
            spoilt[at:at + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
        exchange(server.port, bytes(spoilt[:rng.randint(1, len(spoilt))] if rng.random() < 0.3 else spoilt), half_close=True)
    check(server.call("GET", "/health")[0] == 200, "garbage has ended it")


def framing(server):
    """Bytes that are no request of their own are not taken for one, whatever came before them: each of these gets one answer, its connection's last."""
    hidden = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden
    form = b'--edge\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + hidden * 3 + b"\r\n--edge--\r\n"
    for data, status in [
            # A body that nobody wants, with a request in it.
            (b"POST /nothing HTTP/1.1\r\n" + length, b"404"),
            (b"POST /health HTTP/1.1\r\n" + length, b"405"),
            (b"PUT /v1/models HTTP/1.1\r\n" + length, b"405"),
            (b"PATCH /nothing HTTP/1.1\r\n" + length, b"404"),
            (b"GET /health HTTP/1.1\r\n" + length, b"400"),
            (b"DELETE /v1/files/x HTTP/1.1\r\n" + length, b"400"),
            (b"POST /v1/files HTTP/1.1\r\n" + length, b"404"),
            (b"POST /nothing HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(hidden) + hidden + b"\r\n0\r\n\r\n", b"404"),
            # A form where JSON is wanted.
            (b"POST /tokenize HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=edge\r\nContent-Length: %d\r\n\r\n" % len(form) + form, b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=edge\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(form) + form + b"\r\n0\r\n\r\n", b"400"),
            # A head that is none.
            (b"GET /health\r\n" + hidden, b"400"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden, b"400"),
            (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n" + hidden, b"400"),
            (b"POST /tokenize HTTP/1.1\r\nContent-Length : 2\r\n\r\n{}" + hidden, b"400"),
            (b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}" + hidden, b"400"),
            (b"GET /health HTTP/1.1\r\n: x\r\n\r\n" + hidden, b"400"),
            # A body whose chunks are framed wrong.
            (b'POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"prompt": "xy"}' + hidden, b"400"),
            (b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + hidden, b"400"),
            (b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100000 + b"\r\n{}\r\n0\r\n\r\n", b"400"),
            (b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + hidden, b"400"),
            # Fields behind it that are none.
            (b'POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{"prompt": "x"}\r\n0\r\n' + hidden, b"400"),
            (b'POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{"prompt": "x"}\r\n0\r\nA: ' + b"x" * 100000 + b"\r\n\r\n" + hidden, b"400"),
            # More than is read of a head.
            (b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n", b"431"),
            (b"GET /health HTTP/1.1\r\n" + b"X-A: %s\r\n" % (b"y" * 1000) * 100 + b"\r\n", b"431")]:
        answer = exchange(server.port, data)
        check(answer.startswith(b"HTTP/1.1 " + status) and answer.count(b"HTTP/1.1 ") == 1 and answer.count(b"Connection: close") == 1, f"{data[:80]} gets {answer[:600]}, not one {status}")
    # A proxy's form of the same.
    answer = exchange(server.port, b"GET http://127.0.0.1/health HTTP/1.1\r\nConnection: close\r\n\r\n")
    check(answer.startswith(b"HTTP/1.1 200"), answer)
    # After an answer that took its body the connection goes on.
    body = b'{"prompt": "x"}'
    asked = b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = exchange(server.port, asked * 2 + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    check(answer.count(b"HTTP/1.1 200") == 3, answer)
    # What clients and proxies may send: fields behind a body, sizes in any letters, extensions, a line end between two requests, an Expect in any letters.
    head = b"POST /tokenize HTTP/1.1\r\n"
    for asked in (head + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\nf\r\n%s\r\n0\r\nX-Sum: a: b\r\nContent-Length: 7\r\n\r\n" % body,
                  head + b"TRANSFER-ENCODING: Chunked\r\n\r\n000F;name=value;other=\"a; b\"\r\n%s\r\n000;last\r\n\r\n" % body,
                  head + b"transfer-encoding:chunked\r\n\r\n5 ; x\r\n%s\r\na\t\r\n%s\r\n0\r\n\r\n" % (body[:5], body[5:]),
                  b"\r\n" + head + b"Content-Length: %d\r\n\r\n%s\r\n" % (len(body), body)):
        answer = exchange(server.port, asked * 2 + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        check(answer.count(b"HTTP/1.1 200") == 3 == answer.count(b"HTTP/1.1 "), f"{asked} gets {answer}")
    for word in (b"100-continue", b"100-Continue"):
        answer = exchange(server.port, head + b"Expect: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (word, len(body), body))
        check(answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), f"Expect: {word} gets {answer}")


def hang_ups(server):
    server.settle()
    before = server.metric("vllm:generation_tokens_total")
    body = json.dumps({"prompt": "x", "max_tokens": 200, "ignore_eos": True, "n": 8, "temperature": 1, "stream": True}).encode()
    plain = body.replace(b'"stream": true', b'"stream": false')
    for each in (body, plain) * 6:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(each) + each)
        if each is body:
            connection.recv(100)
        connection.close()
    server.settle()
    aborted = re.search(r'request_success_total\{finished_reason="abort",[^}]*\} (\d+)', server.call("GET", "/metrics")[2])
    check(aborted and int(aborted.group(1)) >= 8, f"hang-ups are not noticed: {server.call('GET', '/metrics')[2]}")
    check(server.metric("vllm:generation_tokens_total") - before < 12 * 8 * 200, "they were answered all the same")
    # Who takes nothing holds nobody up.
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    for number in range(3):
        server.ask("/v1/completions", {"prompt": f"y {number}", "max_tokens": 5})
    slow.close()
    server.settle()


def keys(test):
    with Server(test.binary, test.model, "--api-key", "first", "--api-key", "second key") as server:
        for headers, status in [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer "}, 401), ({"Authorization": "first"}, 401), ({"Authorization": "Bearer first"}, 200), ({"Authorization": "bearer first"}, 200),
                                ({"Authorization": "Bearer second key"}, 200)]:
            got, said, text = server.call("GET", "/v1/models", headers=headers)
            check(got == status and (status == 200 or json.loads(text)["error"]["code"] == "invalid_api_key"), f"{headers}: {got} {text}")
        check(server.call("GET", "/health")[0] == 200, "health needs a key")
        check(server.call("POST", "/v1/completions", {"prompt": "x"})[0] == 401, "an answer needs none")


def crowds(test):
    """Where no more connections are taken, each that gets its turn is answered; who only holds one loses it."""
    with Server(test.binary, test.model, "--max-connections", "4") as server:
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) for _ in range(10)]
        check(server.call("GET", "/health")[0] == 200, "idle connections keep a call out")
        for one in held:
            one.close()
        statuses = []

        def client():
            for _ in range(4):
                try:
                    statuses.append(server.call("POST", "/v1/completions", {"prompt": "x", "max_tokens": 3})[0])
                except OSError as error:
                    statuses.append(error)

        clients = [threading.Thread(target=client) for _ in range(24)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        check(statuses == [200] * 96, f"{len(statuses)}: {[one for one in statuses if one != 200][:5]}")


def back_pressure(test):
    with Server(test.binary, test.model, "--max-queue", "4", "--max-num-seqs", "1", "--micro-batch-size", "1", "--num-micro-batches", "1") as server:
        statuses, retry = [], []

        def client():
            status, headers, _ = server.call("POST", "/v1/completions", {"prompt": "x", "max_tokens": 150, "ignore_eos": True})
            statuses.append(status)
            if status == 429:
                retry.append(headers.get("Retry-After"))

        clients = [threading.Thread(target=client) for _ in range(30)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        check(statuses.count(200) >= 4 and statuses.count(429) >= 1 and set(statuses) == {200, 429}, statuses)
        check(all(int(each) > 0 for each in retry), retry)


def bodies(test):
    """However many long bodies are begun, few are held; who sends them slowly keeps no small call out, and others for as long as they do."""

    def rss_mib(server):
        with open(f"/proc/{server.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024

    size = 2 << 20
    long = json.dumps({"prompt": "x", "max_tokens": 2}).encode().ljust(size)
    with Server(test.binary, test.model, "--max-body", "2MiB") as server:
        for _ in range(3):
            server.ask("/v1/completions", None, raw=long)
        before = rss_mib(server)
        held = []
        for _ in range(40):
            held.append(socket.create_connection(("127.0.0.1", server.port), timeout=0.2))
            with contextlib.suppress(TimeoutError):
                held[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + long[:-1])
        grown = rss_mib(server) - before
        # Of which the connections themselves have one each.
        check(grown < 70 or is_sanitized(server), f"40 bodies of 2 MiB, begun: {grown:.0f} MiB")
        server.ask("/v1/completions", {"prompt": "x", "max_tokens": 2})
        answers = []
        others = [threading.Thread(target=lambda raw=raw: answers.append(server.call("POST", "/v1/completions", raw=raw)[0])) for raw in (long, iter([long]))]
        for one in others:
            one.start()
        time.sleep(0.5)
        check(not answers, f"there was room for more: {answers}")
        for one in held:
            one.close()
        for one in others:
            one.join(LIMIT_S)
        check(answers == [200, 200], answers)
    # Whole arrays; each is many times as long once it is read.
    arrays = b'{"prompt":"x","max_tokens":2,"x":[' + b"[]," * ((size - 100) // 3) + b"1]}"
    with Server(test.binary, test.model, "--max-body", "2MiB") as server:
        server.ask("/v1/completions", None, 400, raw=arrays)
        before = rss_mib(server)
        clients = [threading.Thread(target=lambda: server.ask("/v1/completions", None, 400, raw=arrays)) for _ in range(12)]
        most = before
        for one in clients:
            one.start()
        while any(one.is_alive() for one in clients):
            most = max(most, rss_mib(server))
            time.sleep(0.01)
        check(most - before < 45 or is_sanitized(server), f"12 arrays: {most - before:.0f} MiB")


def ends(test):
    """A signal lets answers be finished, or not for long. Beside other programs they may take minutes."""
    for grace, wanted in (("3600", 200), ("0", 503)):
        with Server(test.binary, test.model, "--shutdown-grace", grace) as server:
            results = []
            body = {"prompt": "x", "max_tokens": 230, "ignore_eos": True, "n": 128, "temperature": 1}
            client = threading.Thread(target=lambda: results.append(server.call("POST", "/v1/completions", body)))
            client.start()
            until = time.monotonic() + LIMIT_S
            while server.metric("vllm:num_requests_running") == 0:
                check(time.monotonic() < until, "it does not begin")
            server.process.send_signal(signal.SIGTERM)
            client.join(LIMIT_S)
            code = server.ended()
            check(results and results[0][0] == wanted, f"--shutdown-grace {grace}: {results and results[0]}")
            check(code == 0, f"exit code {code}; it said:\n{''.join(server.said)}")
            check(any("no new calls are taken" in said for said in server.said), server.said)
            if wanted == 200:
                check(len(json.loads(results[0][2])["choices"]) == 128, results)
    with Server(test.binary, test.model) as server:
        taken = subprocess.run([test.binary, "serve", "-m", test.model, "--port", str(server.port), *ENGINE], stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        check(taken.returncode == 1 and "cannot listen on" in taken.stderr, taken.stderr)
        server.process.send_signal(signal.SIGINT)
        check(server.ended() == 0, "SIGINT")


def sleeps(server):
    """Without calls it takes no processor time."""
    server.settle()
    time.sleep(1)

    def used():
        with open(f"/proc/{server.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(2)
    check(used() - before < 0.2, f"idle for 2 s, it takes {used() - before} s of processor time")


class Test:
    def __init__(self, binary, source, work):
        self.binary, self.work, self.model = os.path.abspath(binary), work, os.path.join(work, "model")
        make_model(source, self.model)
        with open(os.path.join(self.model, "chat_template.jinja"), "w") as file:
            file.write(TEMPLATE)

    def path(self, name):
        return os.path.join(self.work, name)

    def flexgen(self, *args):
        done = subprocess.run([self.binary, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=300, text=True)
        check(done.returncode == 0, f"{' '.join(args)}: exit code {done.returncode}; it said:\n{done.stdout}{done.stderr}")


def no_threads(test):
    """Where the system has no thread for a connection it is closed, and the server goes on."""
    with Server(test.binary, test.model) as server:
        server.ask("/v1/completions", {"prompt": "x", "max_tokens": 2})
        if is_sanitized(server):
            return  # which needs more at any moment
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_AS)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (address_bytes(server) + (24 << 20), hard))  # a few threads' stacks
        connections = [socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) for _ in range(40)]
        readable = select.select(connections, [], [], 10)[0]
        check(any(connection.recv(1) == b"" for connection in readable), f"connections without a thread stay open: {server.said}")
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (hard, hard))
        for connection in connections:
            connection.close()
        server.ask("/v1/completions", {"prompt": "x", "max_tokens": 2})
        check(any("no thread for a connection" in said for said in server.said), server.said)


def unread_calls(test):
    """Who gives tools to a model whose calls stay in the text learns of it at the start."""
    for end, warned in (("", True), ("{# <tool_call> #}", False)):
        with open(test.path("tools.jinja"), "w") as file:
            file.write("{{ messages[0].content }}{% if tools %}tools{% endif %}" + end)
        with Server(test.binary, test.model, "--chat-template", test.path("tools.jinja")) as server:
            check(any("calls stay in the content" in said for said in server.said) == warned, server.said)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as work:
        test = Test(args.binary, args.source, work)
        unread_calls(test)
        with Server(test.binary, test.model, "--max-num-seqs", "24") as server:
            said = "".join(server.said)
            check("generated tokens/s with 24 sequences in flight" in said and "max_tokens" not in said, f"what is planned for: {said}")
            crown(test, server, rng)
            streamed_logprobs(server, rng)
            told_with_each_piece(server)
            small_calls(server, "model")
            refusals(server, "model")
            garbage(server, rng)
            framing(server)
            hang_ups(server)
            sleeps(server)
        keys(test)
        crowds(test)
        back_pressure(test)
        bodies(test)
        ends(test)
        no_threads(test)
    print("serve.py: all holds")


if __name__ == "__main__":
    main()
