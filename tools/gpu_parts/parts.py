"""The parts of a call. Each gives what is kept of it: status (passed, failed), why it failed, figures or the lines that it said."""
import dataclasses
import glob
import json
import os
import shutil
import subprocess
import sys
from typing import Callable

import tests

GIB = 1 << 30


@dataclasses.dataclass
class Part:
    run: Callable
    about: str
    needs_gpu: bool = True


def program(call, name, words, limit_s, shown=24, figures=None):
    """A part that is one command. `figures`: the JSON file that it writes, which is kept whole; else its lines are."""
    status, lines = call.run_program(name, words, limit_s)
    call.show(lines[-shown:])
    result = {"status": "passed" if status == 0 else "failed"}
    if status != 0:
        result["why"] = "stopped in time" if status == 124 else f"ended with status {status}"
    if figures and status == 0:
        with open(figures) as file:
            result["figures"] = json.load(file)
    else:
        result["says"] = lines[-60:]
    left_out = [line.split(":", 1)[1].strip() for line in lines if line.startswith("left out:")]
    if left_out:
        result["left_out"] = "; ".join(left_out)
    return result


def figures_file(call, name):
    path = os.path.join(call.work, f"{name}.json")
    if os.path.exists(path):
        os.remove(path)
    return path


def facts(call):
    script = ("grep PRETTY_NAME /etc/os-release; nvidia-smi; command -v nvcc compute-sanitizer ncu; lscpu | grep -E 'Model name|^CPU.s.:|NUMA node.s.'; "
              "grep -o -w -m1 -E avx512_bf16 /proc/cpuinfo; grep -o -w -m1 amx_bf16 /proc/cpuinfo; free -g | head -2; df -h . /tmp /dev/shm; ulimit -l; true")
    return program(call, "facts", ["bash", "-c", script], 60, 60)


def memory(call):
    """How fast RAM can be had: a job's arena is touched at its start."""
    script = """import mmap, time
begin = time.time()
for i in range(16):
    t = time.time()
    m = mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    m.madvise(14); m.madvise(23)  # huge pages; MADV_POPULATE_WRITE
    kept = globals().setdefault('kept', []); kept.append(m)
    print(f'{4 * (i + 1)} GiB: {4 / (time.time() - t):.2f} GiB/s', flush=True)
    if time.time() - begin > 25 or int(next(l for l in open('/proc/meminfo') if l.startswith('MemAvailable')).split()[1]) < 8 << 20: break
"""
    return program(call, "memory", [sys.executable, "-c", script], 60)


def doctor(call):
    result = program(call, "doctor", [call.kit["flexgen"], "doctor"], 60)
    if result["status"] == "passed" and not any(line.startswith("gpu 0") for line in result["says"]):
        result.update(status="failed", why="flexgen sees no GPU")
    return result


def sanitizer(tool, pattern, proof, limit_s):
    """`pattern`: TYPE in it is the type that weights in bf16 are computed in."""
    def run(call):
        words = ("compute-sanitizer", "--tool", tool, "--target-processes", "all", "--error-exitcode", "9", "--print-limit", "10")
        if not shutil.which(words[0], path=call.kit.environment.get("PATH")):
            return {"status": "failed", "why": "compute-sanitizer is not on the PATH"}
        result = tests.run_tests(call, "backend_test", pattern.replace("TYPE", "cuda_bf16" if call.multiplies_bf16 else "cuda_f16"), limit_s, words, proof)
        if "TYPE" in pattern and not call.multiplies_bf16:
            result["left_out"] = f"bf16, f16 in its place: {tests.CANNOT} 8.0, this card has {call.capability}"
        return result
    return run


def explain(call):
    """The first operations that failed, again under memcheck."""
    bad = [failure["test"] for failure in call.results["parts"].get("backend", {}).get("failures", [])][:2]
    if not bad:
        return {"status": "passed", "says": ["no operation failed"]}
    return sanitizer("memcheck", ":".join(bad), "ERROR SUMMARY: 0 errors", 150)(call)


def benchmark(name, limit_s):
    def run(call):
        out = figures_file(call, name)
        return program(call, name, [call.kit[name], "--benchmark_min_time=0.2", "--benchmark_out_format=json", f"--benchmark_out={out}"], limit_s, 34, out)
    return run


def counters(call):
    """Hardware counters of the kernels that matter."""
    metrics = ",".join(["gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed", "sm__inst_executed.avg.per_cycle_active",
                        "sm__warps_active.avg.pct_of_peak_sustained_active", "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
                        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"])
    attention = "bench_decode_attention/slots:64/past:2047/A:{}/bits:{}/percent:100"
    says, failed = [], 0
    for kernel, bench in [("attend", attention.format(32, 16)), ("attend", attention.format(32, 4)), ("attend", attention.format(8, 16)),
                          ("unpack", "bench_product/N:14336/K:4096/T:512/bits:4"), ("convert_elements", "bench_memory")]:
        words = ["ncu", "--clock-control", "none", "--kill", "yes", "-k", f"regex:{kernel}", "--launch-skip", "2", "-c", "1", "--metrics", metrics, call.kit["gpu_bench"],
                 f"--benchmark_filter={bench}"]
        status, lines = call.run_program(f"counters-{bench}", words, 60)
        kept = [bench, *(line.strip() for line in lines if "__" in line or "Context" in line or "ERROR" in line)]
        call.show(kept)
        says += kept
        failed += not any("dram__throughput" in line for line in lines)
    return {"status": "failed" if failed else "passed", **({"why": f"{failed} gave no counters"} if failed else {}), "says": says}


def texts_of(path):
    with open(path) as file:
        return {record["custom_id"]: [choice["text"] for choice in record["response"]["body"]["choices"]] for record in map(json.loads, file)}


def demo(call):
    """A trained model, whole, through the command line: 300 lines to JSON by four policies."""
    folder = os.path.join(call.kit.tree, "demo")
    hardware = os.path.join(call.kit.tree, "bench", "t4.json")
    policies = ["--weights 100:0:0 --kv-cache 100:0:0 --activations 100:0:0",
                "--weights 0:50:50 --kv-cache 0:50:50 --activations 0:100:0 --attention-on gpu --micro-batch-size 7 --num-micro-batches 3",
                "--weights 30:70:0 --kv-cache 0:100:0 --attention-on cpu", "--weight-dtype int4 --kv-cache-dtype int4"]
    says, answers, failed = [], [], 0
    for i, policy in enumerate(policies):
        out = os.path.join(call.work, f"answers{i}.jsonl")
        spill = os.path.join(call.work, "spill")
        os.makedirs(spill, exist_ok=True)
        if os.path.exists(out):
            os.remove(out)
        words = [call.kit["flexgen"], "run-batch", "--model", f"{folder}/model", "-i", f"{folder}/requests.jsonl", "-o", out, "--backend", "cuda", "--gpu-memory", "400MiB",
                 "--cpu-memory", "256MiB", "--disk-dir", spill, "--disk-space", "1GiB", "--hardware", hardware, *policy.split()]
        status, lines = call.run_program(f"demo-{i}", words, 90)
        score = subprocess.run([sys.executable, f"{folder}/score.py", out, f"{folder}/expected.jsonl"], capture_output=True, text=True)
        says.append(f"{policy}: status {status}; {(score.stdout.splitlines() or lines or ['nothing'])[-1]}")
        failed += status != 0 or score.returncode != 0
        answers.append(texts_of(out) if status == 0 and os.path.exists(out) else {})
    same = answers[0] == answers[1] != {}
    says.append("policies 1 and 2 (attention on the GPU) give " + ("the same answers" if same else f"OTHER answers in {sum(answers[0][k] != answers[1].get(k) for k in answers[0])}"))
    call.show(says)
    return {"status": "passed" if same and not failed else "failed", **({} if same and not failed else {"why": f"{failed} failed" if failed else says[-1]}), "says": says}


def dummy_folder(call, gib):
    """Where made-up weights go: what other jobs left is cleared if the disk has less than `gib` free."""
    folder = os.path.join(call.work, "dummy")
    os.makedirs(folder, exist_ok=True)
    if shutil.disk_usage(folder).free < gib * GIB:
        for old in glob.glob(os.path.join(folder, "*")):
            shutil.rmtree(old)
    return folder


def job(name, model, gib, limit_s, *flags):
    """A synthetic job of an opt or llama shape, whose weights take `gib` on disk."""
    def run(call):
        folder = dummy_folder(call, gib + 2)
        if shutil.disk_usage(folder).free < gib * GIB and not glob.glob(os.path.join(folder, f"*{model}*")):
            return {"status": "failed", "why": f"{folder} has less than {gib} GiB free"}
        out = figures_file(call, name)
        spill = os.environ.get("SPILL_DIR", os.path.join(call.work, "spill"))
        if "--disk-dir" not in flags and "int4" in flags:  # prepared weights are kept there
            os.makedirs(spill, exist_ok=True)
            extra = ("--disk-dir", spill)
        else:
            extra = ()
        words = [call.kit["flexgen"], "bench", "--model", model, "--backend", "cuda", "--dummy-dir", folder, "--json", out, *flags, *extra]
        return program(call, name, words, limit_s, 34, out)
    return run


def peers(model, gib, limit_s, policies, *flags):
    """The same job by Accelerate and FlexGen too, under the same memory. Their wheels, if they were carried, are in wheels/."""
    run_job = job(f"peers-{model}", model, gib, limit_s, "--peers", "accelerate,flexllmgen", "--peer-python", os.environ.get("PYTHON", "python3"), f"--peer-policy={policies}", *flags)

    def run(call):
        wheels = sorted(glob.glob(os.path.join(call.kit.folder, "wheels", "*.whl")))
        before = call.kit.environment
        call.kit.environment = dict(before, PYTHONPATH=":".join([*wheels, *filter(None, [before.get("PYTHONPATH")])]), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        try:
            return run_job(call)
        finally:
            call.kit.environment = before
    return run


SHAPE = ("--prompt-len", "512", "--gen-len", "32")
RAM = ("--cpu-memory", os.environ.get("CPU_MEMORY", "90GiB"))
# FlexGen's own settings for this shape on 16 GB first, then larger blocks: its fastest counts.
PEER_POLICIES = {
    "opt-1.3b": "--gpu-batch-size 32 --num-gpu-batches 1 --percent 100 0 100 0 100 0; --gpu-batch-size 32 --num-gpu-batches 4 --percent 100 0 0 100 0 100 --cpu-cache-compute",
    "opt-6.7b": "--gpu-batch-size 2 --num-gpu-batches 1 --percent 100 0 100 0 100 0; --gpu-batch-size 32 --num-gpu-batches 4 --percent 60 40 0 100 0 100; "
                "--gpu-batch-size 32 --num-gpu-batches 4 --percent 60 40 0 100 0 100 --cpu-cache-compute",
}

PARTS = {
    "facts": Part(facts, "the machine: processor, memory, disks, driver, tools"),
    "memory": Part(memory, "how fast RAM can be had", needs_gpu=False),
    "doctor": Part(doctor, "what flexgen itself sees"),
    "backend": Part(lambda call: tests.run_tests(call, "backend_test", "Gpu*", 200), "the table of operations and the kernels' other tests"),
    "model": Part(lambda call: tests.run_tests(call, "model_test", "Gpu*", 300, together=8), "the golden models"),
    "engine": Part(lambda call: tests.run_tests(call, "engine_test", "Gpu*", 240), "the crown test"),
    "explain": Part(explain, "the first operations that failed in backend, under memcheck"),
    "memcheck": Part(sanitizer("memcheck", "Gpu*AgreesWithReference*:Gpu*LongContexts*", "ERROR SUMMARY: 0 errors", 240), "compute-sanitizer on the table of operations"),
    "racecheck": Part(sanitizer("racecheck", "Gpu*AgreesWithReference*TYPE:Gpu*LongContexts*TYPE", "RACECHECK SUMMARY: 0 hazards", 240), "the same for races in shared memory"),
    "synccheck": Part(sanitizer("synccheck", "Gpu*LongContexts*TYPE", "ERROR SUMMARY: 0 errors", 150), "the same for barriers"),
    "demo": Part(demo, "demo/ by four policies"),
    "probe": Part(lambda call: program(call, "probe", [call.kit["gpu_probe"]], 60, 30), "copies, small copies beside large ones, launches, waits"),
    "shapes": Part(lambda call: program(call, "shapes", [call.kit["gpu_shapes"]], 150, 30), "matrix products of real shapes: same bits for any number of rows; times"),
    "kernels": Part(benchmark("gpu_bench", 150), "copy lanes, decode attention, products (gpu_bench)"),
    "blocks": Part(benchmark("gpu_block_bench", 120), "starting a block's kernels against what they take (gpu_block_bench)"),
    "counters": Part(counters, "hardware counters of decode attention and unpacking (ncu)"),
    "job-f16": Part(job("job-f16", "opt-1.3b", 3, 90, "--dtype", "f16", "--gpu-memory", "6GiB", "--cpu-memory", "8GiB", "--prompt-len", "128", "--gen-len", "8", "--num-prompts", "32",
                        "--no-efficiency"), "opt-1.3b in f16, a first run"),
    "job-1.3b": Part(job("job-1.3b", "opt-1.3b", 3, 120, "--gpu-memory", "1200MiB", "--cpu-memory", "12GiB", "--prompt-len", "128", "--gen-len", "16", "--num-prompts", "256",
                         "--attention-on", "gpu"), "opt-1.3b streamed from RAM"),
    "job-8b": Part(job("job-8b", "llama-3.1-8b", 16, 240, "--gpu-memory", "8GiB", "--cpu-memory", "40GiB", *SHAPE, "--num-prompts", "256"), "llama-3.1-8b, 8 GiB of the GPU"),
    "job-8b-int4": Part(job("job-8b-int4", "llama-3.1-8b", 16, 200, "--gpu-memory", "4GiB", "--cpu-memory", "40GiB", *SHAPE, "--num-prompts", "256", "--weight-dtype", "int4",
                            "--kv-cache-dtype", "int4"), "the same in int4, 4 GiB"),
    "job-13b": Part(job("job-13b", "opt-13b", 25, 400, "--gpu-memory", "8GiB", *RAM, *SHAPE, "--num-prompts", "144"), "opt-13b, 8 GiB"),
    "job-30b": Part(job("job-30b", "opt-30b", 56, 540, "--gpu-memory", "16GiB", *RAM, *SHAPE, "--num-prompts", "288", "--attention-on", "gpu"), "opt-30b, 16 GiB, FlexGen's own shape"),
    "job-30b-int4": Part(job("job-30b-int4", "opt-30b", 56, 540, "--gpu-memory", "16GiB", *RAM, *SHAPE, "--num-prompts", "576", "--weight-dtype", "int4", "--kv-cache-dtype", "int4"),
                         "the same in int4; SPILL_DIR: where its weights of 17 GB are kept"),
    "peers-1.3b": Part(peers("opt-1.3b", 3, 240, PEER_POLICIES["opt-1.3b"], "--dtype", "f16", "--gpu-memory", "4GiB", "--cpu-memory", "40GiB", *SHAPE, "--num-prompts", "128"),
                       "opt-1.3b under 4 GiB, by Accelerate and FlexGen too (PYTHON, default python3, has them; wheels that pack found come along)"),
    "peers-6.7b": Part(peers("opt-6.7b", 13, 480, PEER_POLICIES["opt-6.7b"], "--dtype", "f16", "--gpu-memory", "16GiB", *RAM, *SHAPE, "--num-prompts", "128"), "opt-6.7b under 16 GiB"),
}
GROUPS = {
    "check": ["facts", "doctor", "backend", "model", "engine", "memcheck", "racecheck", "synccheck", "demo"],
    "speed": ["probe", "shapes", "kernels", "blocks", "job-f16", "job-1.3b"],
    "jobs": ["job-8b", "job-8b-int4", "job-30b"],
}


def dry_run(kit):
    """Starts every program, lists every test that a part would run, and asks what needs a GPU whether it says so where there is none."""
    wrong = []
    for name in ("flexgen", "backend_test", "model_test", "engine_test", "gpu_probe", "gpu_shapes", "gpu_bench", "gpu_block_bench"):
        if not os.access(kit[name], os.X_OK):
            wrong.append(f"{kit[name]} is missing")
    if not wrong:
        for name in ("backend_test", "model_test", "engine_test"):
            count = len(tests.listed(kit, name, "Gpu*"))
            print(f"{name}: {count} tests need a GPU")
            if count == 0:
                wrong.append(f"{name} lists no test that needs a GPU")
        for name, words in {"flexgen": ["doctor"], "gpu_probe": [], "gpu_shapes": [], "gpu_bench": ["--benchmark_list_tests"], "gpu_block_bench": ["--benchmark_list_tests"]}.items():
            done = subprocess.run([kit[name], *words], capture_output=True, text=True, cwd=kit.tree, env=kit.environment)
            print(f"{name} {' '.join(words)}: status {done.returncode}; {(done.stdout.strip() or done.stderr.strip() or 'it says nothing').splitlines()[-1]}")
            if done.returncode not in (0, 1) or "error while loading" in done.stderr:
                wrong.append(f"{name}: {done.stderr.strip()[:300] or done.returncode}")
    for name in ("tests/fixtures/models", "demo/model", "bench/t4.json"):
        if not os.path.exists(os.path.join(kit.tree, name)):
            wrong.append(f"{kit.tree}/{name} is missing")
    print("\n".join(wrong) if wrong else f"commit {kit.commit or '?'}: what is left needs a GPU")
    return 1 if wrong else 0
