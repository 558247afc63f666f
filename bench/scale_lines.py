#!/usr/bin/env python3
"""How a job's time and memory go with the number of its lines: short lines on the demo model, one token each.

    bench/scale_lines.py --flexgen build/release/flexgen --lines 1000,10000,100000 [--scan-only 1000000,4000000] [--json OUT.json]

For each number: `plan`, which reads and checks every line and no more, and (but for --scan-only) the whole job. Peak memory is the process's own (ru_maxrss).
A base is taken off the rates: the time of one line, which is that of starting, loading and planning."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

CHILD = """
import json, resource, subprocess, sys, time
start = time.time()
ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
print(json.dumps({"code": ended.returncode, "seconds": time.time() - start, "rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, "stderr": ended.stderr[-2000:]}))
"""


def measured(*command):
    out = json.loads(subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=True).stdout)
    if out["code"] != 0:
        sys.exit(f"{' '.join(command)}\n{out['stderr']}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--model", default=os.path.join(os.path.dirname(__file__), "../demo/model"))
    parser.add_argument("--lines", default="1000,10000,100000")
    parser.add_argument("--scan-only", default="")
    parser.add_argument("--directory", default=None)
    parser.add_argument("--json")
    args = parser.parse_args()
    numbers = lambda text: [int(number) for number in text.split(",") if number]
    rows = []
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path, out = os.path.join(directory, "in.jsonl"), os.path.join(directory, "out.jsonl")
        limits = ["--cpu-memory", "64MiB", "--hardware", "generic"]

        def write(count):
            with open(path, "w") as file:
                for i in range(count):
                    file.write('{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":[%d,7,9],"max_tokens":1}}\n' % (i, 5 + i % 90))

        def scan():
            return measured(args.flexgen, "plan", "--model", args.model, "-i", path, *limits)

        def job():
            for name in (out, out + ".job"):
                if os.path.exists(name):
                    os.remove(name)
            return measured(args.flexgen, "run-batch", "-m", args.model, "-i", path, "-o", out, *limits)

        write(1)
        scan_base, job_base = scan()["seconds"], job()["seconds"]
        print("| lines | scan, lines/s | scan, peak MiB | job, lines/s | job, peak MiB |\n| --- | --- | --- | --- | --- |", flush=True)
        for count in sorted(set(numbers(args.lines) + numbers(args.scan_only))):
            write(count)
            row = {"lines": count, "scan": scan()}
            cells = [f"{count:,}", f"{count / max(1e-3, row['scan']['seconds'] - scan_base):,.0f}", f"{row['scan']['rss_mib']:.0f}", "", ""]
            if count in numbers(args.lines):
                row["job"] = job()
                with open(out) as file:
                    assert sum(1 for _ in file) == count
                cells[3:] = [f"{count / max(1e-3, row['job']['seconds'] - job_base):,.0f}", f"{row['job']['rss_mib']:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
            rows.append(row)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"scan_base_s": scan_base, "job_base_s": job_base, "rows": rows}, file, indent=1)


main()
