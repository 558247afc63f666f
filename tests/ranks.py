#!/usr/bin/env python3
"""Several processes under mpirun give the answers of one, and a rank that dies (SIGKILL) or hangs (SIGSTOP) at the start or at a random moment ends the job soon,
by name, with all finished answers kept; another number of ranks goes on where it ended.

Usage: ranks.py FLEXGEN_BINARY SOURCE_DIR [--kills N] [--timeout S] [--seed N] [--lines N]"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# What a set of ranks may look like: processes, and flags. The demo's model has 4 blocks.
TEAMS = [
    (2, "--stages 1:3"),
    (2, "--pipeline-stages 1"),
    (3, "--stages 2:1:1"),
    (4, ""),
    (4, "--pipeline-stages 2 --stages 3:1"),
]
# Open MPI leaves memory at its end, of modules that are unloaded by then: a leak check could not be told to leave those out by name.
# Its hooks into the freeing of memory run at the end of threads that ThreadSanitizer has let go of.
MPI_VARIABLES = {"ASAN_OPTIONS": "detect_leaks=0", "OMPI_MCA_memory": "^patcher", "UCX_MEM_EVENTS": "n", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Slow enough to be killed half-way; none may change an answer.
PLACEMENTS = [
    "--weights 0:0:100 --kv-cache 0:0:100 --activations 0:0:100 --micro-batch-size 3 --num-micro-batches 4",
    "--weights 0:50:50 --kv-cache 0:30:70 --micro-batch-size 2 --num-micro-batches 5 --buffers 2 --weight-buffers 5",
]
DTYPES = ["", "--kv-cache-dtype int4", "--weight-dtype int8 --kv-cache-dtype int8", "--compute-dtype f32"]


def fail(text):
    sys.exit(f"ranks.py: {text}")


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Test:
    def __init__(self, arguments, work, rng):
        self.work, self.rng, self.timeout_s = work, rng, arguments.timeout
        self.binary = shutil.copy(arguments.binary, work)
        self.model = os.path.join(arguments.source, "demo/model")
        self.input = os.path.join(work, "in.jsonl")
        self.spill = os.path.join(work, "spill")
        os.mkdir(self.spill)
        with open(os.path.join(arguments.source, "demo/requests.jsonl")) as file, open(self.input, "w") as out:
            for number, line in enumerate(list(file)[:arguments.lines]):
                request = json.loads(line)
                if number % 3 == 1:
                    request["body"].update(temperature=0.7, seed=number)
                if number % 10 == 2:
                    request["body"].update(n=2, logprobs=1)
                out.write("no json\n" if number % 25 == 7 else json.dumps(request) + "\n")
        self.slowest_end_s = 0
        self.launcher_hangs = 0

    def command(self, ranks, output, flags):
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
        return [*launch, self.binary, "run-batch", "--model", self.model, "-i", self.input, "-o", output, "--hardware", "generic", "--cpu-memory", "24MiB", "--disk-dir", self.spill,
                "--disk-space", "256MiB", "--threads", "1", *flags.split()] + (["--rank-timeout", str(self.timeout_s)] if ranks > 1 else [])

    def start(self, ranks, output, flags):
        environment = os.environ | MPI_VARIABLES
        with open(os.path.join(self.work, "log"), "wb") as log:
            return subprocess.Popen(self.command(ranks, output, flags), stdout=log, stderr=log, env=environment)

    def log(self):
        return read(os.path.join(self.work, "log")).decode(errors="replace")

    def run(self, ranks, output, flags):
        process = self.start(ranks, output, flags)
        try:
            code = process.wait(300)  # a machine that builds beside it may take long
        except subprocess.TimeoutExpired:
            process.kill()
            fail(f"{ranks} ranks with '{flags}' hang; they said:\n{self.log()}")
        if code != 0:
            fail(f"{ranks} ranks with '{flags}' ended with {code}; they said:\n{self.log()}")
        return sorted(read(output).splitlines(True))

    def same_answers(self):
        self.references = {}
        for dtype in DTYPES:
            reference = self.run(1, os.path.join(self.work, f"one{DTYPES.index(dtype)}.jsonl"), f"{PLACEMENTS[0]} {dtype}")
            teams = TEAMS if dtype == "" else [self.rng.choice(TEAMS)]
            for number, (ranks, team) in enumerate(teams):
                output = os.path.join(self.work, f"ranks{DTYPES.index(dtype)}-{number}.jsonl")
                if self.run(ranks, output, f"{PLACEMENTS[number % 2]} {dtype} {team}") != reference:
                    fail(f"{ranks} ranks with '{team} {dtype}' give other answers than one process")
            self.references[dtype] = reference

    def refused(self, ranks, flags, other_flags, sentence, other_input=None):
        """All ranks end with a sentence, which the user is told once; `other_flags`: what the last rank has in the place of `flags`."""
        log, output = os.path.join(self.work, "log"), os.path.join(self.work, "refused.jsonl")
        with contextlib.suppress(FileNotFoundError):
            os.remove(output)
        command = self.command(ranks, output, flags)
        if other_flags is not None:
            command[command.index("-n") + 1] = str(ranks - 1)
            other = self.command(1, output, other_flags)
            if other_input:
                other[other.index("-i") + 1] = other_input
            command += [":", "-n", "1", *other]
        with open(log, "wb") as file:
            ended = subprocess.run(command, stdout=file, stderr=file, env=os.environ | MPI_VARIABLES, timeout=120)
        if ended.returncode == 0 or self.log().count(sentence) != 1:
            fail(f"{ranks} ranks with '{flags}' and '{other_flags}' ended with {ended.returncode}, and '{sentence}' is to be told once; they said:\n{self.log()}")

    def failures_are_told_once(self):
        self.refused(4, "--pipeline-stages 3", None, "--pipeline-stages 3 with 4 processes")
        self.refused(4, "--pipeline-stages 3 --log-level error", None, "--pipeline-stages 3 with 4 processes")
        self.refused(3, "--shard 0/2", None, "--shard 0/2: shards are for processes")  # all ranks have it
        self.refused(2, "--pipeline-stages 1", "--pipeline-stages 1 --prefix-sharing off", "has another --prefix-sharing than")
        other = os.path.join(self.work, "other.jsonl")
        with open(other, "w") as file:
            file.write("no json\n")
        self.refused(2, "--pipeline-stages 1", "--pipeline-stages 1", "differs from that of rank 0", other)  # rank 1 alone has it

    def pids(self, process):
        """Rank -> process id, of a started mpirun."""
        found = {}
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            children = file.read().split()
        for pid in children:
            try:
                variables = read(f"/proc/{pid}/environ").split(b"\0")
                if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(self.binary):
                    continue
            except OSError:
                continue
            for variable in variables:
                if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(variable.split(b"=")[1])] = int(pid)
        return found

    def kill_one(self, number, how, at_start=False):
        output = os.path.join(self.work, f"killed{number}.jsonl")
        dtype = self.rng.choice(DTYPES)
        reference = self.references[dtype]
        size = sum(map(len, reference))
        ranks, team = self.rng.choice(TEAMS)
        flags = f"{self.rng.choice(PLACEMENTS)} {dtype} {team}"
        process = self.start(ranks, output, flags)
        # Now and then before anything is answered, else at some amount of answers.
        wanted = 0 if at_start else self.rng.choice([0, self.rng.randint(1, int(0.8 * size)), self.rng.randint(1, int(0.8 * size))])
        limit = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < limit:
            if len(self.pids(process)) == ranks and (wanted == 0 or os.path.exists(output) and os.path.getsize(output) >= wanted):
                break
            time.sleep(0.002)
        if wanted == 0 and not at_start:
            time.sleep(self.rng.uniform(0, 0.4))
        pids = self.pids(process) if process.poll() is None else {}
        if len(pids) < ranks:
            return False  # it was over already
        victim = self.rng.choice(sorted(pids))
        os.kill(pids[victim], how)
        begin = time.monotonic()
        bound_s = 10 if how == signal.SIGKILL else self.timeout_s + 10
        try:
            code = process.wait(bound_s)
        except subprocess.TimeoutExpired:
            running = [pid for pid in pids.values() if is_running(pid)]
            for pid in pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            code = process.wait()
            # Ranks that died in MPI_Init leave PMIx 4.2 an object that it frees twice; now and then mpirun then waits for ever in PMIx_server_finalize().
            if not running:
                self.launcher_hangs += 1
                print(f"  the ranks ended, mpirun did not ({self.launcher_hangs} so far)", flush=True)
            else:
                fail(f"{ranks} ranks ({flags}): not over {bound_s} s after rank {victim} got {how.name}; they said:\n{self.log()}")
        # mpirun may be over before the last rank is: ranks give rank 0 two seconds to say what is wrong before they end the job themselves.
        left, gone_by = list(pids.values()), time.monotonic() + 10
        while left and time.monotonic() < gone_by:
            time.sleep(0.05)
            left = [pid for pid in left if os.path.exists(f"/proc/{pid}")]
        self.slowest_end_s = max(self.slowest_end_s, time.monotonic() - begin)
        if left:
            fail(f"processes {left} of the job are still there after it ended")
        if code == 0:
            if sorted(read(output).splitlines(True)) != reference:
                fail(f"{ranks} ranks ended well although rank {victim} got {how.name}, and answers are missing")
            return False
        if f"rank {victim} " not in self.log():
            fail(f"{ranks} ranks ({flags}): nobody names rank {victim}, which got {how.name}; they said:\n{self.log()}")
        kept = [line for line in read(output).splitlines(True) if line.endswith(b"\n")] if os.path.exists(output) else []
        if len(set(kept)) != len(kept) or not set(kept) <= set(reference):
            fail(f"{how.name} of rank {victim} left records that the reference does not have")
        others = [(1, "")] + [other for other in TEAMS if other[0] != ranks]
        next_ranks, next_team = self.rng.choice(others)
        if self.run(next_ranks, output, f"{self.rng.choice(PLACEMENTS)} {dtype} {next_team}") != reference:
            fail(f"resumed by {next_ranks} ranks after {how.name} of rank {victim} of {ranks}, other answers came out")
        print(f"  {how.name} of rank {victim} of {ranks} {'at the start' if at_start else ''} after {len(kept)} answers, over in {time.monotonic() - begin:.1f} s with {next_ranks} ranks resumed", flush=True)
        return True


def is_running(pid):
    """Not when it has ended and nobody has asked how."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=5, help="--rank-timeout of the runs")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--lines", type=int, default=50)
    arguments = parser.parse_args()
    if not shutil.which("mpirun"):
        print("skipped: there is no mpirun (openmpi-bin)")
        sys.exit(77)
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="flexgen_ranks_") as work:
        test = Test(arguments, work, random.Random(arguments.seed))
        begin = time.monotonic()
        test.failures_are_told_once()
        test.same_answers()
        print(f"1 to 4 ranks, stages and replicas, {len(DTYPES)} sets of types: the same answers ({time.monotonic() - begin:.0f} s)", flush=True)
        killed = tries = 0
        while killed < arguments.kills:
            how = [signal.SIGKILL, signal.SIGSTOP][killed % 2]
            killed += test.kill_one(tries, how, at_start=killed == 1)
            tries += 1
            if tries > 5 * arguments.kills + 5:
                fail("too few kills hit a job half-way; is it too fast? Give it more --lines")
        if test.launcher_hangs > 1 + killed // 10:
            fail(f"mpirun did not end after {test.launcher_hangs} of {killed}: that is more than a rare fault of its own")
        print(f"ranks: {killed} killed or stopped, the slowest job ended {test.slowest_end_s:.1f} s later; all resumed to the same answers; {time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
