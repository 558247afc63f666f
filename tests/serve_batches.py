#!/usr/bin/env python3
"""/v1/files and /v1/batches of flexgen serve, with the standard library alone: a batch that is killed with its server ends with every answer, the same as run-batch's; it is cancelled, fails and is refused
as it should; calls are answered meanwhile.

Usage: serve_batches.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

from serve import ENGINE, LIMIT_S, Server, Test, bodies_of, check

SLOW = ["--max-num-seqs", "4", "--micro-batch-size", "2", "--num-micro-batches", "2", "--weights", "0:0:100"]  # so that it can be killed half-way


def upload(server, content, purpose="batch", status=200):
    if isinstance(content, str):
        content = content.encode()
    edge = "edge-of-a-part"
    form = (f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\nContent-Type: application/octet-stream\r\n\r\n').encode() + content + f"\r\n--{edge}--\r\n".encode()
    got, _, text = server.call("POST", "/v1/files", raw=form, headers={"Content-Type": f"multipart/form-data; boundary={edge}"})
    check(got == status, f"an upload gets {got}: {text}")
    return json.loads(text)


def get(server, path, status=200, method="GET"):
    got, _, text = server.call(method, path)
    check(got == status, f"{method} {path}: {got} {text}")
    return json.loads(text)


def content(server, file_id):
    status, _, text = server.call("GET", f"/v1/files/{file_id}/content")
    check(status == 200, f"{file_id}: {status} {text}")
    return [json.loads(line) for line in text.splitlines()]


def create(server, file_id, endpoint="/v1/completions", status=200, **more):
    return server.ask("/v1/batches", {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}, status)


def until(server, batch_id, when, what):
    limit = time.monotonic() + LIMIT_S
    while not when(batch := get(server, f"/v1/batches/{batch_id}")):
        check(time.monotonic() < limit, f"{what}: {batch}")
        time.sleep(0.05)
    return batch


def over(batch):
    return batch["status"] in ("completed", "failed", "cancelled")


def lines_of(bodies):
    return "".join(json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": body}) + "\n" for number, (url, body) in enumerate(bodies))


def without_time(records):
    for record in records:
        if record["response"]:
            del record["response"]["body"]["created"]
        record.pop("checksum")
    return {record["custom_id"]: record for record in records}


def killed_and_resumed(test, rng):
    bodies = [(url, body) for url, body in bodies_of(rng, 200) if url == "/v1/completions"]
    text = lines_of(bodies) + json.dumps({"custom_id": "bad", "method": "POST", "url": "/v1/completions", "body": {"prompt": 7}}) + "\n"
    text += json.dumps({"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}]}}) + "\n"
    with open(test.path("in.jsonl"), "w") as file:
        file.write(text)
    test.flexgen("run-batch", "-m", test.model, "-i", test.path("in.jsonl"), "-o", test.path("expected.jsonl"), *ENGINE)
    with open(test.path("expected.jsonl")) as file:
        expected = without_time([json.loads(line) for line in file])
    state = test.path("state")
    with Server(test.binary, test.model, "--state", state, *SLOW) as server:
        file = upload(server, text)
        check(file["bytes"] == len(text) and file["object"] == "file" and get(server, f"/v1/files/{file['id']}") == file, file)
        batch = create(server, file["id"], metadata={"who": "me"})
        check(batch["object"] == "batch" and batch["status"] == "validating" and batch["metadata"] == {"who": "me"}, batch)
        begun = until(server, batch["id"], lambda now: now["request_counts"]["completed"] >= 5, "it makes no progress")
        check(begun["status"] == "in_progress" and begun["request_counts"]["total"] == len(bodies) + 2, begun)
        server.ask("/v1/completions", {"prompt": "meanwhile", "max_tokens": 3})
        get(server, f"/v1/files/{file['id']}", 409, "DELETE")
        server.process.kill()
    done_before = 0
    with Server(test.binary, test.model, "--state", state, *SLOW) as server:  # ended in an orderly way
        done_before = until(server, batch["id"], lambda now: now["request_counts"]["completed"] >= 10, "it does not go on")["request_counts"]["completed"]
        server.process.terminate()
        check(server.ended() == 0, "".join(server.said))
    with Server(test.binary, test.model, "--state", state) as server:
        batch = until(server, batch["id"], over, "it does not end")
        check(batch["status"] == "completed" and batch["request_counts"] == {"total": len(bodies) + 2, "completed": len(bodies), "failed": 2}, f"{batch}; {done_before} were done before")
        answers = without_time(content(server, batch["output_file_id"]))
        errors = without_time(content(server, batch["error_file_id"]))
        check(set(errors) == {"bad", "chat"} and errors["chat"]["error"]["code"] == "unsupported_endpoint", errors)
        for name, record in answers.items():
            check(record == expected[name], f"{record} is not {expected[name]}")
        check(len(answers) == len(bodies), f"{len(answers)} of {len(bodies)} answers")
        listed = get(server, "/v1/batches?limit=1")
        check([one["id"] for one in listed["data"]] == [batch["id"]] and not listed["has_more"], listed)
        names = {one["id"] for one in get(server, "/v1/files")["data"]}
        check(names == {file["id"], batch["output_file_id"], batch["error_file_id"]}, names)
        check(get(server, f"/v1/files/{file['id']}", method="DELETE")["deleted"], "it stays")
        get(server, f"/v1/files/{file['id']}", 404)
        trace = test.path("trace.json")
        with open(trace, "w") as out:
            out.write("mine")
        second = subprocess.run([test.binary, "serve", "-m", test.model, "--port", "0", "--state", state, "--trace", trace, *ENGINE], stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        with open(trace) as kept:
            check(second.returncode == 1 and "another server uses it" in second.stderr and kept.read() == "mine", second.stderr)


def ends_of_batches(test, rng):
    state = test.path("ends")
    long = lines_of([("/v1/chat/completions", {"messages": [{"role": "user", "content": f"count {number}"}], "max_completion_tokens": 150, "ignore_eos": True, "seed": number}) for number in range(60)])
    with Server(test.binary, test.model, "--state", state, *SLOW) as server:
        first, second = (create(server, upload(server, long)["id"], "/v1/chat/completions") for _ in range(2))
        until(server, first["id"], lambda now: now["request_counts"]["completed"] >= 1, "it makes no progress")
        check(server.ask(f"/v1/batches/{second['id']}/cancel", {})["status"] == "cancelled", "one that waits")
        status, _, text = server.call("POST", f"/v1/batches/{first['id']}/cancel")  # without a body
        check(status == 200 and json.loads(text)["status"] == "cancelling", text)
        batch = until(server, first["id"], over, "it is not cancelled")
        check(batch["status"] == "cancelled" and batch["cancelled_at"], batch)
        check(len(content(server, batch["output_file_id"])) == batch["request_counts"]["completed"] < 60, batch)
        server.ask(f"/v1/batches/{first['id']}/cancel", {}, 409)
        server.settle()
        for text in ("", "nonsense\n", long[:200]):
            batch = until(server, create(server, upload(server, text)["id"])["id"], over, "it does not end")
            check(batch["status"] == "failed" and batch["errors"]["data"][0]["message"], batch)
        # Errors know files by their ids, and nothing of the server's folders.
        packed = upload(server, b"PK\x03\x04")["id"]
        batch = until(server, create(server, packed)["id"], over, "it does not end")
        check(f"the input {packed} is no file of requests" in batch["errors"]["data"][0]["message"] and state not in json.dumps(batch), batch)
        good = upload(server, long)["id"]
        create(server, "file-none", status=404)
        create(server, good, "/v1/embeddings", 400)
        create(server, good, status=400, completion_window="1h")
        create(server, good, status=400, metadata={"a": 1})
        create(server, good, status=400, surprise=1)
        upload(server, "x", "fine-tune", 400)
        for path in ("/v1/files/file-none", "/v1/files/..%2f..%2flock", "/v1/batches/batch_none", f"/v1/files/{good}/other"):
            get(server, path, 404)
        for path in ("/v1/files?limit=0", "/v1/files?foo=1", "/v1/files?limit=1&limit=2", "/v1/batches?order=asc"):
            get(server, path, 400)
        get(server, "/v1/files", 405, "DELETE")
        page = get(server, "/v1/batches?limit=2")
        rest = get(server, f"/v1/batches?limit=100&after={page['last_id']}")
        check(page["has_more"] and len(page["data"]) == 2 and len(rest["data"]) == 4, f"{page} {rest}")
        named = lines_of([("/v1/completions", {"prompt": "x", "max_tokens": 2, "model": name}) for name in ("model", "another")])
        batch = until(server, create(server, upload(server, named)["id"])["id"], over, "it does not end")
        check(batch["model"] == "model" and batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}, batch)
        error = content(server, batch["error_file_id"])[0]["error"]
        check(error["code"] == "model_not_found" and error["param"] == "body.model" and "'another'" in error["message"], error)


def other_length(test):
    """How long a sequence may be is kept with a batch: with another --max-model-len its other lines would have other answers."""
    state = test.path("length")
    text = lines_of([("/v1/chat/completions", {"messages": [{"role": "user", "content": f"count {number}"}], "ignore_eos": True, "seed": number}) for number in range(60)])
    batches = []
    with Server(test.binary, test.model, "--state", state, "--max-model-len", "200", *SLOW) as server:
        for _ in range(2):
            batches.append(create(server, upload(server, text)["id"], "/v1/chat/completions")["id"])
        until(server, batches[0], lambda now: now["request_counts"]["completed"] >= 1, "it makes no progress")
        server.process.kill()
    job = os.path.join(state, "batches", batches[0], "output.jsonl.job")
    with open(job) as file:
        manifest = json.load(file)
    check(manifest["options"]["max model len"] == "200", manifest)
    with Server(test.binary, test.model, "--state", state, "--max-model-len", "220", *SLOW) as server:
        batch = until(server, batches[0], over, "it does not end")
        check(batch["status"] == "failed" and "another max model len (200 instead of 220)" in batch["errors"]["data"][0]["message"], batch)
        # One that had not begun is answered as the server is now; then it is killed, and its manifest is one of before.
        until(server, batches[1], lambda now: now["request_counts"]["completed"] >= 1, "it makes no progress")
        server.process.kill()
    job = os.path.join(state, "batches", batches[1], "output.jsonl.job")
    with open(job) as file:
        manifest = json.load(file)
    del manifest["options"]["max model len"], manifest["checksum"]
    with open(job, "w") as file:
        json.dump(manifest, file)
    with Server(test.binary, test.model, "--state", state, "--max-model-len", "220") as server:
        check(until(server, batches[1], over, "it does not end")["status"] == "completed", "a batch that was begun before does not go on")


def spoilt_state(test):
    """Records that somebody has spoilt are left out, and told; the server begins, with what is whole."""
    state = test.path("spoilt")
    with Server(test.binary, test.model, "--state", state) as server:
        files = [upload(server, lines_of([("/v1/completions", {"prompt": f"x {number}", "max_tokens": 2})]))["id"] for number in range(4)]
        batches = [create(server, file)["id"] for file in files]
        for batch in batches:
            until(server, batch, over, "it does not end")

    def spoil(path, **changes):
        with open(os.path.join(state, path)) as file:
            record = json.load(file)
        with open(os.path.join(state, path), "w") as file:
            json.dump({**record, **changes}, file)

    for number, changes in enumerate(({"filename": 7}, {"purpose": None}, {"created_at": "today"})):
        spoil(f"files/{files[number]}.json", **changes)
    for number, changes in enumerate(({"created_at": "today"}, {"endpoint": None, "status": "in_progress"}, {"id": 7})):
        spoil(f"batches/{batches[number]}/batch.json", **changes)
    foreign = [os.path.join(state, "files", name) for name in ("mine.data", "mine.new", "file-mine.data")]
    torn = os.path.join(state, "files", f"file-{'0' * 24}.data")
    for path in [*foreign, torn]:
        with open(path, "w") as file:
            file.write("x")
    with Server(test.binary, test.model, "--state", state) as server:
        check(all(map(os.path.exists, foreign)) and not os.path.exists(torn), "what is not the server's was removed, or an upload that was not finished stays")
        check([one["id"] for one in get(server, "/v1/batches")["data"]] == batches[3:], "another batch is there")
        check([one["id"] for one in get(server, "/v1/files")["data"] if one["purpose"] == "batch"] == files[3:], "another file is there")
        check(all(os.path.exists(os.path.join(state, "files", f"{file}.data")) for file in files), "the content of a file was removed")
        check(sum("that is whole; it is left out" in said for said in server.said) == 6, server.said)


def limits(test):
    with Server(test.binary, test.model) as server:
        get(server, "/v1/batches", 404)
    with Server(test.binary, test.model, "--state", test.path("small"), "--max-file", "2KiB") as server:
        # However little of it comes at a time.
        form = b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--edge--\r\n'
        head = b"POST /v1/files HTTP/1.1\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=edge\r\nContent-Length: %d\r\n\r\n" % len(form)
        for pieces in ([head, form[:3], form[3:]], [head + form[:1], form[1:20], form[20:]], [head] + [form[i:i + 1] for i in range(len(form))]):
            with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.02 if len(pieces) < 9 else 0.001)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            check(answer.startswith(b"HTTP/1.1 200"), f"{pieces[1]}: {answer}")
            file = json.loads(answer.partition(b"\r\n\r\n")[2])
            get(server, f"/v1/files/{file['id']}", method="DELETE")
        # In chunks shorter than the boundary's line, with names as programs write them, and more parameters of the type.
        form = b'--edge\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--edge\r\nContent-Disposition: form-data; filename=a.jsonl; name=file\r\n\r\n{}\r\n--edge--\r\n'
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(form[at:at + 3]), form[at:at + 3]) for at in range(0, len(form), 3)) + b"0\r\n\r\n"
        head = b"POST /v1/files HTTP/1.1\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=edge; charset=UTF-8\r\n"
        for body in (b"Content-Length: %d\r\n\r\n" % len(form) + form, b"Transfer-Encoding: chunked\r\n\r\n" + chunks):
            with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as connection:
                connection.sendall(head + body)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            check(answer.startswith(b"HTTP/1.1 200"), answer)
            file = json.loads(answer.partition(b"\r\n\r\n")[2])
            check(file["filename"] == "a.jsonl" and file["bytes"] == 2, file)
            get(server, f"/v1/files/{file['id']}", method="DELETE")
        status, _, text = server.call("POST", "/v1/files", raw=form.replace(b"; name=file", b""), headers={"Content-Type": "multipart/form-data; boundary=edge"})
        check(status == 400 and "Content-Disposition" in text, text)
        upload(server, "x" * 3000, status=413)
        check(get(server, "/v1/files")["data"] == [] and os.listdir(test.path("small/files")) == [], "something is left of it")


def main():
    with tempfile.TemporaryDirectory() as work:
        test = Test(sys.argv[1], sys.argv[2], work)
        rng = random.Random(3)
        killed_and_resumed(test, rng)
        ends_of_batches(test, rng)
        other_length(test)
        spoilt_state(test)
        limits(test)
    print("serve_batches.py: all holds")


if __name__ == "__main__":
    main()
