#!/usr/bin/env python3
"""The profile that a machine keeps of itself, end to end: measured beside busy loops it is marked and measured anew; no place to keep it, or a damaged
one, stops no job; another --threads is not "never measured"; two first runs at once leave one whole profile.

Usage: own_profile.py FLEXGEN_BINARY SOURCE_DIR"""

import json
import os
import subprocess
import sys
import tempfile

BINARY, SOURCE = sys.argv[1], sys.argv[2]
MODEL = os.path.join(SOURCE, "demo/model")


def fail(text):
    sys.exit(f"own_profile.py: {text}")


def start(variables, *flags):
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "FLEXGEN_CACHE_DIR")}
    return subprocess.Popen([BINARY, "generate", "--model", MODEL, "Invoice", "--max-tokens", "4", "--cpu-memory", "64MiB", *flags], env=environment | variables,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process, what, *wanted, never=()):
    out, said = process.communicate(timeout=300)
    if process.returncode != 0:
        fail(f"{what}: ended with {process.returncode}; it said:\n{said}")
    for text in wanted:
        if text not in said:
            fail(f"{what}: does not say '{text}', but:\n{said}")
    for text in never:
        if text in said:
            fail(f"{what}: says '{text}':\n{said}")
    return said


def profiles(directory):
    found = {}
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        with open(os.path.join(directory, name)) as file:
            found[name] = json.load(file)
    return found


def rate(profile):
    return profile["cpu"]["matmul"][0]["rows_to_flops_per_s"][-1][1]


def places(work):
    end(start({}, "--threads", "1"), "without HOME", "no place to keep", "FLEXGEN_CACHE_DIR")
    end(start({"HOME": "/proc"}, "--threads", "1"), "a HOME that cannot be written", "cannot be kept in /proc/.cache/flexgen", "FLEXGEN_CACHE_DIR")
    xdg = os.path.join(work, "xdg")
    end(start({"HOME": "/proc", "XDG_CACHE_HOME": xdg}, "--threads", "1"), "XDG_CACHE_HOME", never=["cannot be kept"])
    if len(profiles(os.path.join(xdg, "flexgen"))) != 1:
        fail("XDG_CACHE_HOME is not used")
    own = os.path.join(work, "own")
    # Two at once: one measures, the other waits and takes what it finds; both are right.
    both = [start({"FLEXGEN_CACHE_DIR": own, "XDG_CACHE_HOME": xdg}, "--threads", "1") for _ in range(2)]
    for process in both:
        end(process, "two first runs at once")
    if len(profiles(own)) != 1:
        fail(f"two first runs at once left {os.listdir(own)}")
    return own


def threads_and_damage(own):
    path = os.path.join(own, next(iter(profiles(own))))
    with open(path) as file:
        profile = json.load(file)
    profile.pop("doubt", None)  # a busy machine may have left one
    with open(path, "w") as file:
        json.dump(profile, file)
    end(start({"FLEXGEN_CACHE_DIR": own}, "--threads", "1"), "a second run", never=["measuring"])
    end(start({"FLEXGEN_CACHE_DIR": own}, "--threads", "2"), "another number of threads", "measured with 1 thread", never=["never measured"])
    for text in ("", "[" * 100000, json.dumps(profile)[:-40]):
        with open(path, "w") as file:
            file.write(text)
        end(start({"FLEXGEN_CACHE_DIR": own}, "--threads", "1"), "a damaged profile", "cannot be used")
        with open(path) as file:
            json.load(file)


def load(work):
    """Beside more busy loops than cores."""
    place = {"FLEXGEN_CACHE_DIR": os.path.join(work, "busy")}
    cores = len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores)]
    try:
        end(start(place), "beside busy loops", "in doubt", "next one measures anew")
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    (busy,) = profiles(place["FLEXGEN_CACHE_DIR"]).values()
    if "doubt" not in busy:
        fail("a profile measured beside busy loops is not marked")
    end(start(place), "after the busy loops", "is in doubt", "measuring anew", never=["never measured"])
    (quiet,) = profiles(place["FLEXGEN_CACHE_DIR"]).values()
    print(f"beside {2 * cores} busy loops {rate(busy) / 1e9:.1f} GFLOP/s ({busy['doubt']}), afterwards {rate(quiet) / 1e9:.1f} ({quiet.get('doubt', 'no doubt')})")


def main():
    with tempfile.TemporaryDirectory(prefix="flexgen_profile_") as work:
        own = places(work)
        threads_and_damage(own)
        with open("/proc/stat") as file:
            if not file.read().startswith("cpu"):
                print("/proc/stat says nothing here, so the load is not tried")
                return
        load(work)


if __name__ == "__main__":
    main()
