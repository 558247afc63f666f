"""A call: parts one after another within a time limit, and what is kept of them."""
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import tarfile
import time
import traceback

import parts
import programs

SPARE_S = 10  # what a call keeps for writing results


def gpus():
    """Name, driver, memory and bus of every GPU that the driver sees."""
    fields = "name,driver_version,memory.total,pcie.link.gen.current,pcie.link.width.current"
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [dict(zip(("card", "driver", "memory", "pcie_generation", "pcie_lanes"), row)) for row in rows if len(row) == 5]


def capability():
    """Compute capability of the first GPU, as 7.5; 0 where the driver does not say."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, timeout=60)
        return float(done.stdout.split()[0]) if done.returncode == 0 else 0.0
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return 0.0


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    except OSError:
        return platform.machine()


class Call:
    def __init__(self, kit, out, limit_s, jobs):
        self.kit, self.jobs = kit, jobs
        self.begin, self.limit_s = time.monotonic(), limit_s
        self.out = os.path.abspath(out or os.path.join(programs.ROOT, "bench", "results"))
        self.alone = out is not None  # the folder is ours: logs go there too
        self.work = os.path.join(os.environ.get("GPU_CHECK_WORK", programs.STATE), "work")
        self.logs = os.path.join(self.work, "logs")
        for folder in (self.out, self.logs):
            os.makedirs(folder, exist_ok=True)
        seen = gpus()
        self.has_gpu = bool(seen)
        self.capability = capability() if seen else 0.0
        self.machine = dict(seen[0] if seen else {"card": "none", "driver": "none"}, gpus=len(seen), capability=self.capability or None, processor=processor(), cores=os.cpu_count(),
                            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1), kernel=platform.release(), c_library=" ".join(platform.libc_ver()))
        card = re.sub(r"[^a-z0-9]+", "-", self.machine["card"].lower()).strip("-")
        self.date = datetime.date.today().isoformat()
        self.file = os.path.join(self.out, f"{self.date}-{card}-gpu.json")
        self.results = {"date": self.date, "commit": kit.commit, **self.machine, "parts": {}}
        try:
            with open(self.file) as file:
                before = json.load(file)
            if before.get("commit") == kit.commit:
                self.results["parts"] = before["parts"]
        except (OSError, ValueError, KeyError):
            pass

    @property
    def multiplies_bf16(self):
        return not 0 < self.capability < 8

    def left_s(self):
        return self.limit_s - SPARE_S - (time.monotonic() - self.begin)

    def say(self, text):
        line = f"== {time.monotonic() - self.begin:4.0f} s  {text}"
        print(line, flush=True)
        with open(os.path.join(self.logs, "log.txt"), "a") as log:
            log.write(line + "\n")

    def show(self, lines):
        for line in lines:
            print("   " + line[:220], flush=True)
        with open(os.path.join(self.logs, "log.txt"), "a") as log:
            log.writelines("   " + line[:220] + "\n" for line in lines)

    def run_program(self, name, words, limit_s):
        """Runs a command from the kit's tree, its output in the logs. Returns its status (124: it was stopped in time) and its lines."""
        path = os.path.join(self.logs, re.sub(r"[^A-Za-z0-9._-]+", "-", name) + ".txt")
        limit_s = min(limit_s, self.left_s())
        if limit_s < 3:
            return 124, ["no time is left"]
        with open(path, "w") as log:
            try:
                child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, cwd=self.kit.tree, env=self.kit.environment, start_new_session=True)
            except OSError as error:
                return 127, [str(error)]
            try:
                status = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGTERM)
                try:
                    child.wait(5)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
                status = 124
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
        with open(path, errors="replace") as log:
            return status, log.read().splitlines()

    def keep(self):
        """The results as far as they are known."""
        text = json.dumps(self.results, indent=1) + "\n"
        with open(self.file + ".new", "w") as file:
            file.write(text)
        os.replace(self.file + ".new", self.file)
        if not self.alone:
            return
        log = os.path.join(self.logs, "log.txt")
        if os.path.exists(log):
            shutil.copy(log, os.path.join(self.out, "log.txt"))
        with tarfile.open(os.path.join(self.out, "logs.tar.gz"), "w:gz", compresslevel=3) as tar:
            tar.add(self.logs, "logs")

    def run_part(self, part):
        if part.needs_gpu and not self.has_gpu:
            return {"status": "failed", "why": "no GPU is seen"}
        try:
            return part.run(self)
        except Exception as error:  # what a program left is not what was expected: the other parts go on
            return {"status": "failed", "why": f"{type(error).__name__}: {error}", "says": traceback.format_exc().splitlines()[-6:]}

    def run(self, names, again):
        shutil.rmtree(self.logs, ignore_errors=True)
        os.makedirs(self.logs)
        self.say(f"{' '.join(names)}; {datetime.datetime.now():%F %T}; {self.machine['card']}, driver {self.machine['driver']}; commit {self.kit.commit or '?'}; results: {self.file}")
        if not self.has_gpu:
            self.say("no GPU is seen (nvidia-smi): whatever needs one fails")
        failed = []
        for name in names:
            if not again and self.results["parts"].get(name, {}).get("status") == "passed":
                self.say(f"{name}: passed before; name it to run it again")
                continue
            if self.left_s() < 5:
                self.say(f"no time is left for {' '.join(names[names.index(name):])}")
                failed += names[names.index(name):]
                break
            start = time.monotonic()
            result = self.run_part(parts.PARTS[name])
            result = {"status": result.pop("status"), "at": f"{datetime.datetime.now():%F %T}", "seconds": round(time.monotonic() - start, 1), **result}
            self.results["parts"][name] = result
            self.say(f"{name}: {result['status']} in {result['seconds']} s" + (f": {result['why']}" if "why" in result else ""))
            if "left_out" in result:
                self.say(f"{name}: LEFT OUT {result['left_out']}")
            if result["status"] != "passed":
                failed.append(name)
            self.keep()
        partly = [name for name in names if "left_out" in self.results["parts"].get(name, {})]
        self.say((f"failed: {' '.join(failed)}" if failed else "all passed") + (f"; not whole on this card: {' '.join(partly)}" if partly else ""))
        self.keep()
        return 1 if failed else 0
