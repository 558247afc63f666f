#!/usr/bin/env python3
"""Plans for mixtures of experts on machines that are too small for them: tokens/s of gpt-oss-120b, qwen3-235b-a22b and glm-4.5-air as they are shipped, and MoE-Gen's published runs beside plans for its machine.

    bench/mixture_plans.py --flexgen build/release/flexgen --json OUT.json

Predictions of `flexgen plan`, not measurements: none of these machines was there. Their profiles are made here of data sheets and of what was measured on two cores of Zen 4 (MACHINES says which is which); --profiles DIR keeps
them, for `flexgen plan --hardware`. Prompts of 512 tokens, 256 generated. A machine's GPU is planned with where flexgen takes the model on one, else its processor alone."""
import argparse
import json
import os
import subprocess
import tempfile

# Measured on an AMD EPYC of Zen 4, per core: products of many rows in bf16 (`matmul_flops_per_s` of bench/results/2026-11-2*-zen4-2c-*.json, halved), in fp32, and weights that are unpacked for a single row, in FLOP/s
# (`flexgen doctor --measure`, 2026-11-28). Of Zen 3: in fp32, with AVX2 (bench/results/2026-11-24-zen3-2c-two-hosts.json).
ZEN4_BF16, ZEN4_F32, ZEN4_UNPACKED = 2.17e11, 0.9e11, 0.69e10
ZEN3_F32 = 0.344e11
GB = 1e9

# flops: of many rows. ram, disk, bus: bytes a second. unpacked: FLOP/s of one row whose weights are quantized. prompts: a job's.
MACHINES = {
    # The paper's machine (docs/flexgen_t4.md): disk, bus, GPU and attention on the processor are its constants, as in bench/t4.json. It says 'Intel Xeon, 2.00 GHz' and 208 GB, which at Google is n1-highmem-32: 16 cores
    # with AVX-512 and no bf16 arithmetic. Taken for them: what Zen 4 reaches of its peak in fp32 (0.75 of 32 FLOP a cycle at 3.7 GHz) of theirs (64 a cycle at 2 GHz); RAM as in bench/t4.json.
    "T4 + 208 GB": dict(compute="f32", flops=16 * 0.75 * 64 * 2.0e9, unpacked=16 * ZEN4_UNPACKED, ram=100 * GB, attention=12 * GB, disk=(2 * GB, 1 * GB), bus=12.89 * GB, gpu="t4", gpu_memory="16GB",
                        memory="208GB", disk_space="1500GB", prompts=2048),
    # Data sheets: GPU 1008 GB/s, 165.2 TFLOP/s dense bf16 with fp32 sums, PCIe 4.0 x16; SSD (990 PRO) 7.45 GB/s. Assumed: 16 cores of Zen 4 as measured each; three quarters of DDR5-5200's 83.2 GB/s; nine tenths of the SSD's
    # reads, and 1.5 GB/s of writes, once its fast cells are full; four fifths of the bus; 8 GB left to the system.
    "RTX 4090 + 64 GB": dict(compute="bf16", flops=16 * ZEN4_BF16, unpacked=16 * ZEN4_UNPACKED, ram=62 * GB, disk=(6.7 * GB, 1.5 * GB), bus=25 * GB, gpu=(165.2e12, 1008 * GB), gpu_memory="23GB",
                             memory="56GB", disk_space="1000GB", prompts=1024),
    # Assumed: 8 cores of Zen 4, each at half of the measured speed, as 28 W allow; three quarters of 83.2 GB/s of RAM; an SSD of 5 GB/s reads and 1 GB/s writes; 4 GB left to the system.
    "laptop, 16 GB + NVMe": dict(compute="bf16", flops=8 * ZEN4_BF16 / 2, unpacked=8 * ZEN4_UNPACKED / 2, ram=62 * GB, disk=(5 * GB, 1 * GB), memory="12GB", disk_space="300GB", prompts=512),
}
# MoE-Gen's README names the GPU, RTX A5000 with 24 GB (data sheet: 768 GB/s, 111.1 TFLOP/s dense bf16, PCIe 4.0 x16), and that the model must fit the RAM. Assumed: 512 GB, 32 cores of Zen 3 as measured each, 120 GB/s of RAM,
# a disk of 3 GB/s.
MOE_GEN_MACHINE = dict(compute="f32", flops=32 * ZEN3_F32, unpacked=32 * ZEN4_UNPACKED / 2, ram=120 * GB, disk=(3 * GB, 1.5 * GB), bus=25 * GB, gpu=(111.1e12, 768 * GB), gpu_memory="23GB", memory="480GB", disk_space="1000GB",
                       prompts=2048)
# Share of a data sheet's peak that GPU products of many rows are taken to reach, and of its memory's speed; our kernels have been measured on none of these.
GPU_PRODUCTS, GPU_MEMORY = 0.6, 0.8

# (model, format, flags)
MODELS = [
    ("gpt-oss-120b", "MXFP4, as shipped", []),
    ("qwen3-235b-a22b", "BF16, as shipped", []),
    ("qwen3-235b-a22b", "FP8, as shipped (planned as int8)", ["--weight-dtype", "int8"]),
    ("glm-4.5-air", "BF16, as shipped", []),
    ("glm-4.5-air", "FP8, as shipped (planned as int8)", ["--weight-dtype", "int8"]),
]
# (model, published tokens/s of prompts and of answers): MoE-Gen's README, github.com/EfficientMoE/MoE-Gen, and arXiv 2503.09716.
MOE_GEN = [("mixtral-8x7b", 2790, 469), ("mixtral-8x22b", 907, 91)]
PROMPT, GENERATED = 512, 256


def rates(flops, first, rows):
    """FLOP/s at n rows a visit: reading (or unpacking) the weights and multiplying take their times one after the other. That fits rows measured on Zen 4 to within a sixth, but for 17 rows in bf16 (0.78 of it)."""
    return [[n, float(f"{1 / (1 / flops + 1 / (n * first)):.3g}")] for n in rows]


def profile(name, machine):
    rows = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
    # Two FLOP a weight of 16 bits, 8.5 and 4.25: what one row can do while its weights are read.
    read = {weights: machine["ram"] * 16 / bits for weights, bits in (("bf16", 16), ("int8", 8.5), ("int4", 4.25))}
    matmul = [{"compute": machine["compute"], "weights": weights, "rows_to_flops_per_s": rates(machine["flops"], first if weights == "bf16" else min(first, machine["unpacked"]), rows)} for weights, first in read.items()]
    attention = [{"cache": "bf16", "queries_per_kv_head": 1, "context_to_bytes_per_s": [[64, machine.get("attention", 0.9 * machine["ram"])]], "chunk_flops_per_s": 0.6 * machine["flops"]}]
    result = {"format": 1, "name": name, "measured": "not measured: made by bench/mixture_plans.py", "cpu": {"visit_s": 2e-5, "logit_s": 1e-10, "matmul": matmul, "attention": attention}}
    if machine.get("gpu") == "t4":
        result["gpu"] = json.load(open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "t4.json")))["gpu"]
    elif "gpu" in machine:
        flops, memory = machine["gpu"][0] * GPU_PRODUCTS, machine["gpu"][1] * GPU_MEMORY
        rows = [1, 16, 64, 256, 1024, 4096, 16384]
        result["gpu"] = {"visit_s": 1e-4, "logit_s": 0, "matmul": [{"compute": "bf16", "weights": weights, "rows_to_flops_per_s": rates(flops, memory * 16 / bits, rows)} for weights, bits in (("bf16", 16), ("int8", 8.5), ("int4", 4.25))],
                         "attention": [{"cache": "bf16", "queries_per_kv_head": 1, "context_to_bytes_per_s": [[64, memory]], "chunk_flops_per_s": 0.4 * flops}]}
    result["ram_read_bytes_per_s"] = machine["ram"]
    result["disk"] = {"read_bytes_per_s": machine["disk"][0], "write_bytes_per_s": machine["disk"][1], "request_s": 1e-4, "lookup_s": 1e-5, "write_share_of_read": 0.5, "compute_slowdown": 0.05}
    if "bus" in machine:
        result.update({"h2d_bytes_per_s": machine["bus"], "d2h_bytes_per_s": machine["bus"], "copy_s": 2e-5})
    return result


class Planner:
    def __init__(self, flexgen, profiles, spill):
        self.flexgen, self.profiles, self.spill = flexgen, profiles, spill

    def plan(self, name, machine, model, flags, generated, on_gpu):
        path = os.path.join(self.profiles, "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") + ".json")
        with open(path, "w") as out:
            json.dump(profile(name, machine), out, indent=1)
        command = [self.flexgen, "plan", "--json", "--model", model, "--hardware", path, "--cpu-memory", machine["memory"], "--disk-dir", self.spill, "--disk-space", machine["disk_space"],
                   "--prompt-len", str(PROMPT), "--gen-len", str(generated), "--num-prompts", str(machine["prompts"]), "--kv-cache-dtype", "bf16", "--compute-dtype", "bf16" if on_gpu else machine["compute"]] + flags
        if on_gpu:
            command += ["--gpu-memory", machine["gpu_memory"]]
        run = subprocess.run(command, capture_output=True, text=True)
        return json.loads(run.stdout) if run.returncode == 0 else {"error": run.stderr.strip().removeprefix("error: ")}

    def on(self, name, machine, model, flags, generated):
        """On the machine's GPU, or, where flexgen takes the model on none, on its processor."""
        result = {"processor": "GPU", **self.plan(name, machine, model, flags, generated, True)} if "gpu" in machine else {"error": "no GPU"}
        if "error" not in result:
            return result
        return {"processor": "CPU", "not_on_gpu": result["error"], **self.plan(name, machine, model, flags, generated, False)}


def seconds(plan):
    """Of the job, with the weights in place."""
    return plan["predicted"]["time_s"] - plan["predicted"]["load_time_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flexgen", required=True)
    parser.add_argument("--json", default="", help="all plans, whole")
    parser.add_argument("--profiles", default="", help="where the machines' profiles are kept")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        if args.profiles:
            os.makedirs(args.profiles, exist_ok=True)
        planner = Planner(args.flexgen, args.profiles or temporary, temporary)
        print("| machine | model | weights | planned on | job | tokens/s (prompts and answers) | generated tokens/s | bottleneck | policy |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, machine in MACHINES.items():
            for model, weights, flags in MODELS:
                plan = planner.on(name, machine, model, flags, GENERATED)
                results.append({"machine": name, "model": model, "weights": weights, **plan})
                if "error" in plan:
                    print(f"| {name} | {model} | {weights} | {plan['processor']} | | | | refused: {plan['error']} | |", flush=True)
                    continue
                job, policy, count = seconds(plan), plan["policy"], machine["prompts"]
                print(f"| {name} | {model} | {weights} | {plan['processor']} | {count} prompts, {job / 3600:.1f} h | {count * (PROMPT + GENERATED) / job:.1f} | {count * GENERATED / job:.2f} | {plan['binding'].split(';')[0]} | "
                      f"{policy['micro_batch_size']} x {policy['num_micro_batches']}, weights {policy['weights']}, cache {policy['kv_cache']} |", flush=True)
        print("\n| model | planned on | prompt tokens/s | generated tokens/s | MoE-Gen, published |\n| --- | --- | --- | --- | --- |")
        for model, prefill, decode in MOE_GEN:
            name = "RTX A5000"
            short, whole = (planner.on(name, MOE_GEN_MACHINE, model, [], generated) for generated in (1, GENERATED))
            results.append({"machine": name, "model": model, "published": [prefill, decode], "prompts": short, "whole": whole})
            if "error" in short or "error" in whole:
                print(f"| {model} | {whole['processor']} | refused: {short.get('error') or whole['error']} | | {prefill}, {decode} |")
                continue
            count = MOE_GEN_MACHINE["prompts"]
            # Answers alone: what all but the first of their tokens add to the job.
            print(f"| {model} | {whole['processor']} | {count * PROMPT / seconds(short):.0f} | {count * (GENERATED - 1) / (seconds(whole) - seconds(short)):.0f} | {prefill}, {decode} |", flush=True)
    if args.json:
        json.dump(results, open(args.json, "w"), indent=1)


main()
