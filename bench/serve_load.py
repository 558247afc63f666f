#!/usr/bin/env python3
"""flexgen serve under load: many clients at a time, some of which hang up or read slowly. Says what came of all requests, the times of /health as a process of its own sees them, and the server's memory;
ends with 1 if an answer was lost or was another than before, /health took too long, or memory grew.

Usage: serve_load.py FLEXGEN_BINARY [--model DIR] [--clients 500] [--requests 10000] [--seconds 120] [--flags "..."]"""

import argparse
import asyncio
import collections
import json
import multiprocessing
import os
import random
import re
import shlex
import subprocess
import sys
import threading
import time
import urllib.request

HEALTH_P99_S = 0.05
PROBE_S = 0.02
LIMIT_S = 120  # for one answer
KINDS = [("whole", 0.75), ("stream", 0.1), ("hang up", 0.1), ("slow", 0.05)]


def start(binary, model, flags):
    server = subprocess.Popen([binary, "serve", "-m", model, "--port", "0", *flags], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    for line in server.stderr:
        if found := re.search(r"serving .* on http://[^ ]*:(\d+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, int(found.group(1))
    sys.exit("serve_load.py: the server does not begin")


def probe(port, ends, times):
    """Asks for /health on a connection of its own each time, until `ends`; what comes out: seconds of each, and errors."""
    taken, errors = [], 0
    while not ends.is_set():
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                answer.read()
            taken.append(time.monotonic() - begun)
        except OSError:
            errors += 1
        time.sleep(PROBE_S)
    times.put((taken, errors))


def memory_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


async def one(port, number, kind, counts, expected):
    prompt = f"count {number % 50} coins"
    body = json.dumps({"prompt": prompt, "max_tokens": 4 + number % 50 % 13, "temperature": 0, "stream": kind in ("stream", "slow")}).encode()
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            if kind == "hang up":
                await asyncio.sleep(random.random() * 0.2)
                counts["hung up"] += 1
                return
            answer = b""
            while piece := await asyncio.wait_for(reader.read(64 if kind == "slow" else 65536), LIMIT_S):
                answer += piece
                if kind == "slow":
                    await asyncio.sleep(0.02)
        finally:
            writer.close()
        status = int(answer[9:12] or 0)
        if status == 429:
            counts["429, asked again"] += 1
            await asyncio.sleep(int(re.search(rb"Retry-After: (\d+)", answer).group(1)) * (0.5 + random.random()))
            continue
        if status != 200:
            counts[f"status {status}"] += 1
            return
        if kind == "whole":
            text = json.loads(answer.split(b"\r\n\r\n", 1)[1])["choices"][0]["text"]
        else:
            events = re.findall(rb"data: (\{.*\})\n", answer)
            text = "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
            if b"data: [DONE]" not in answer:
                counts["cut off"] += 1
                return
        counts["right" if expected.setdefault(prompt, text) == text else "another text"] += 1
        return


async def client(port, mine, seconds, counts, expected, begun):
    for at, number in mine:
        await asyncio.sleep(max(0, begun + at * seconds - time.monotonic()))
        kind = random.choices([name for name, _ in KINDS], [share for _, share in KINDS])[0]
        try:
            await one(port, number, kind, counts, expected)
        except (OSError, asyncio.TimeoutError, ValueError) as error:
            counts[f"lost: {type(error).__name__}"] += 1


async def load(args, port, counts, pid, memory):
    expected, begun = {}, time.monotonic()
    share = [args.requests // args.clients + (i < args.requests % args.clients) for i in range(args.clients)]
    plans, number = [], 0
    for count in share:
        plans.append([(at, number + i) for i, at in enumerate(sorted(random.random() for _ in range(count)))])
        number += count

    async def watch():
        while True:
            memory.append(memory_of(pid))
            await asyncio.sleep(1)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(client(port, plan, args.seconds, counts, expected, begun) for plan in plans))
    watcher.cancel()
    return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--model", default=os.path.join(os.path.dirname(__file__), "../demo/model"))
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--flags", default="--cpu-memory 256MiB", help="more of the server's")
    args = parser.parse_args()
    random.seed(1)
    server, port = start(args.binary, args.model, shlex.split(args.flags))
    try:
        ends, times = multiprocessing.Event(), multiprocessing.Queue()
        prober = multiprocessing.Process(target=probe, args=(port, ends, times), daemon=True)
        prober.start()
        counts, memory = collections.Counter(), []
        took = asyncio.run(load(args, port, counts, server.pid, memory))
        ends.set()
        taken, errors = times.get(timeout=60)
        prober.join()
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            left = sum(float(value) for value in re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", answer.read().decode(), re.M))
    finally:
        server.terminate()
        code = server.wait(60)
    taken.sort()
    p50, p99 = (taken[int(len(taken) * part)] for part in (0.5, 0.99))
    quarters = [max(memory[len(memory) * i // 4:len(memory) * (i + 1) // 4] or memory) for i in range(4)]
    print(f"{args.requests} requests of {args.clients} clients in {took:.1f} s: {dict(counts)}; left under way: {left:.0f}; exit code {code}")
    print(f"/health: {len(taken)} calls, median {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {taken[-1] * 1000:.1f} ms, {errors} errors")
    print(f"memory (MiB, the most of each quarter): {', '.join(f'{mib:.0f}' for mib in quarters)}")
    wrong = [name for name in counts if name not in ("right", "hung up", "429, asked again")]
    grew = quarters[3] > 1.1 * quarters[1] + 8
    for fault, holds in [(f"answers are wrong or lost: {wrong}", not wrong), ("sequences stay under way", left == 0), ("/health takes too long", p99 <= HEALTH_P99_S and not errors), ("memory grows", not grew),
                         (f"exit code {code}", code == 0)]:
        if not holds:
            print(f"serve_load.py: {fault}")
    sys.exit(bool(wrong or left or p99 > HEALTH_P99_S or errors or grew or code))


if __name__ == "__main__":
    main()
