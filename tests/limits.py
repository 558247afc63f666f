#!/usr/bin/env python3
"""Runs the demo's job under limits that are too small, over a range of them: address space (ulimit -v), processes (-u), open files (-n), the size of files (-f) and the stack (-s). Each run must end with
success, as those with a small stack must, or with exit status 1 and one sentence that names what ran out, never by a signal and never without an end; and the output it leaves must be gone on with by
a run without limits, to the same answers.

Usage: limits.py FLEXGEN_BINARY SOURCE_DIR [--long]"""

import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile

MIB = 1 << 20
LINES = 12
RUN_LIMIT_S = 120
NAMES = ("memory", "address space", "thread", "processes", "Too many open files", "File too large")


def run(command, limits=(), user=None):
    """Exit status and what it wrote to stderr."""
    def lower():
        for which, soft, *hard in limits:
            resource.setrlimit(which, (soft, *(hard or (soft,))))
        if user:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
    done = subprocess.run(command, preexec_fn=lower, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=RUN_LIMIT_S)
    return done.returncode, done.stderr


def command_of(binary, model, requests, work, output, threads):
    return [binary, "run-batch", "--model", model, "-i", requests, "-o", output, "--cpu-memory", "16MiB", "--disk-dir", work, "--disk-space", "64MiB",
            "--planner", "first-rule", "--threads", str(threads), "--overwrite"]


def fits(status, errors):
    """Whether a run under a limit ended as it should."""
    if status == 0:
        return True
    lines = [line for line in errors.splitlines() if line.startswith("flexgen: ")]
    return status == 1 and len(lines) == 1 and any(name in lines[0] for name in NAMES) and "This is a bug" not in errors


def main():
    binary, source, long_form = os.path.realpath(sys.argv[1]), sys.argv[2], "--long" in sys.argv
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o777)
        model = shutil.copytree(os.path.join(source, "demo/model"), os.path.join(work, "model"))
        requests = os.path.join(work, "requests.jsonl")
        with open(os.path.join(source, "demo/requests.jsonl")) as lines, open(requests, "w") as out:
            out.writelines(line for line, _ in zip(lines, range(LINES)))
        reference = os.path.join(work, "reference.jsonl")
        status, errors = run(command_of(binary, model, requests, work, reference, 2))
        if status != 0:
            sys.exit(f"without limits: exit status {status}\n{errors}")
        expected = sorted(open(reference))

        def check(name, limits, threads, user=None):
            nonlocal failed
            output = os.path.join(work, f"out-{name.replace(' ', '-')}.jsonl")
            try:
                status, errors = run(command_of(binary, model, requests, work, output, threads), limits, user)
            except subprocess.TimeoutExpired:
                status, errors = "none: it hangs", ""
            good = fits(status, errors)
            if good and status != 0:  # what it left is gone on with
                after, more = run(command_of(binary, model, requests, work, output, 2))
                good = after == 0 and sorted(open(output)) == expected
                errors += more if not good else ""
            print(f"{'ok    ' if good else 'FAILED'} {name}: exit status {status}{'' if status == 0 else '; ' + (errors.strip().splitlines() or [''])[-1]}", flush=True)
            if not good:
                failed += 1
                print(errors)

        # From what the loader itself takes (below that there is no flexgen to say anything) to where the job fits.
        step = 8 if long_form else 16
        low = next(mib for mib in range(8, 4096, 8) if run([binary, "--version"], [(resource.RLIMIT_AS, mib * MIB)])[0] == 0)
        for mib in list(range(low, low + (512 if long_form else 176), step)) + [low + 640, low + 1024, low + 2048]:
            for threads in (1, 2, 16) if long_form else (2, 16):
                check(f"{mib} MiB of address space, {threads} threads", [(resource.RLIMIT_AS, mib * MIB)], threads)
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            for processes in range(1, 24, 1 if long_form else 3):
                check(f"{processes} processes, 12 threads", [(resource.RLIMIT_NPROC, processes)], 12, user)
        else:
            print("without root: limits of processes are not tried")
        for files in range(4, 32, 1 if long_form else 4):  # with three the loader itself fails
            check(f"{files} open files", [(resource.RLIMIT_NOFILE, files)], 2)
        # A soft limit alone is raised.
        status, errors = run(command_of(binary, model, requests, work, reference + ".files", 2), [(resource.RLIMIT_NOFILE, 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1])])
        print(f"{'ok    ' if status == 0 else 'FAILED'} 8 open files as the soft limit: exit status {status}", flush=True)
        if status != 0:
            failed += 1
            print(errors)
        for size in (0, 100, 1000, 4096, 1 << 14, 1 << 20):
            check(f"files of {size} bytes", [(resource.RLIMIT_FSIZE, size)], 2)
        # What is told goes to files too.
        for command in (["inspect", model, "--json=" + os.path.join(work, "told.json")], [*command_of(binary, model, requests, work, os.path.join(work, "none"), 1)[1:], "--json=" + os.path.join(work, "told.json")],
                        ["plan", "--model", model, "-i", requests, "--hardware", "generic", "--plot", os.path.join(work, "plan.html")]):
            status, errors = run([binary, *command], [(resource.RLIMIT_FSIZE, 64)])
            if status != 1 or "File too large" not in errors:
                failed += 1
                print(f"FAILED {command[0]} where files have 64 bytes: exit status {status}\n{errors}")
        # Of a stack of less than 32 KiB the loader itself takes all.
        for kib in (32, 64, 128, 256, 1024):
            status, errors = run(command_of(binary, model, requests, work, reference + ".stack", 2), [(resource.RLIMIT_STACK, kib << 10)])
            good = status == 0 and sorted(open(reference + ".stack")) == expected
            print(f"{'ok    ' if good else 'FAILED'} {kib} KiB of stack: exit status {status}", flush=True)
            if not good:
                failed += 1
                print(errors)
    sys.exit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
