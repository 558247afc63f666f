#!/usr/bin/env python3
"""How a job's time and memory go with the number of its lines: short lines on the demo model, one token each, with nothing in common or much of it.

    bench/scale_lines.py --flexgen build/release/flexgen --lines 1000,10000,100000 [--scan-only 1000000,4000000] [--json OUT.json]
    bench/scale_lines.py --flexgen build/release/flexgen --lines "" --scan-only 1000000 --common 128 --groups 1000

For each number: `plan`, which reads and checks every line, finds what they have in common, and no more, and (but for --scan-only) the whole job. Peak memory is the process's own
(ru_maxrss). With --common, lines of --groups groups come in turns, each group with so many tokens in common, and `plan` runs with --prefix-sharing off too: what the second takes less is the index.
Processor time says more than real time where other programs run.
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
seconds, used = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": ended.returncode, "seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "rss_mib": used.ru_maxrss / 1024, "stderr": ended.stderr[-2000:]}))
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
    parser.add_argument("--common", type=int, default=0, help="tokens that the prompts of a group have in common")
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--json")
    args = parser.parse_args()
    numbers = lambda text: [int(number) for number in text.split(",") if number]
    rows = []
    # A group's number in digits, then the same for all.
    common = ["".join(f"{5 + group // 90**digit % 90}," for digit in range(3)) + "".join(f"{5 + token % 90}," for token in range(3, args.common)) if args.common else "" for group in range(args.groups)]
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path, out = os.path.join(directory, "in.jsonl"), os.path.join(directory, "out.jsonl")
        limits = ["--cpu-memory", "64MiB", "--hardware", "generic"]

        def write(count):
            with open(path, "w") as file:
                for i in range(count):
                    file.write('{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":[%s%d,7,9],"max_tokens":1}}\n' % (i, common[i % args.groups], 5 + i % 90))

        def scan(*more):
            return measured(args.flexgen, "plan", "--model", args.model, "-i", path, *limits, *more)

        def job():
            for name in (out, out + ".job"):
                if os.path.exists(name):
                    os.remove(name)
            return measured(args.flexgen, "run-batch", "-m", args.model, "-i", path, "-o", out, *limits)

        write(1)
        scan_base, job_base = scan()["seconds"], job()["seconds"]
        print("| lines | scan (processor) | scan, lines/s | scan, peak MiB | sharing off | job, lines/s | job, peak MiB |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for count in sorted(set(numbers(args.lines) + numbers(args.scan_only))):
            write(count)
            row = {"lines": count, "scan": scan()}
            if args.common:
                row["unshared"] = scan("--prefix-sharing", "off")
            times = lambda of: f"{row[of]['seconds']:.1f} s ({row[of]['cpu_s']:.1f} s)" if of in row else ""
            cells = [f"{count:,}", times("scan"), f"{count / max(1e-3, row['scan']['seconds'] - scan_base):,.0f}", f"{row['scan']['rss_mib']:.0f}",
                     times("unshared"), "", ""]
            if count in numbers(args.lines):
                row["job"] = job()
                with open(out) as file:
                    assert sum(1 for _ in file) == count
                cells[5:] = [f"{count / max(1e-3, row['job']['seconds'] - job_base):,.0f}", f"{row['job']['rss_mib']:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
            rows.append(row)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"scan_base_s": scan_base, "job_base_s": job_base, "rows": rows}, file, indent=1)


main()
