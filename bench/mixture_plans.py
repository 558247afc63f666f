#!/usr/bin/env python3
"""Plans for mixtures of experts on machines that are too small for them: tokens/s of gpt-oss-120b, qwen3-235b-a22b and glm-4.5-air as they are shipped, and MoE-Gen's published runs beside plans for its machine.

    bench/mixture_plans.py --flexgen build/release/flexgen --json OUT.json

Predictions of `flexgen plan`, not measurements: none of these machines was there. Their profiles are made here of data sheets and of what was measured on two cores of Zen 4 and on an H100 (what is which is said beside it);
--profiles DIR keeps them, for `flexgen plan --hardware`. Prompts of 512 tokens, 256 generated. The laptop computes on its processor, the others on their GPU."""
import argparse
import json
import os
import subprocess
import tempfile

# Measured on an AMD EPYC of Zen 4, per core: products of many rows in bf16 (`matmul_flops_per_s` of bench/results/2026-11-2*-zen4-2c-*.json, halved), in fp32, and weights that are unpacked for a single row, in FLOP/s
# (`flexgen doctor --measure`, 2026-11-28). Of Zen 3: in fp32, with AVX2 (bench/results/2026-11-24-zen3-2c-two-hosts.json).
ZEN4_BF16, ZEN4_F32, ZEN4_UNPACKED = 2.17e11, 0.9e11, 0.69e10
ZEN3_F32 = 0.344e11
# Attention of several query heads to the same keys, in FLOP/s a core: of Zen 4 as `flexgen doctor --measure` has it of two cores and four query heads a kv head (28 GB/s of keys and values, four FLOP a byte), of Zen 3 as
# `kernels_bench --benchmark_filter=bench_shared_attention` has it of two cores (docs/figures.md).
ZEN4_ATTENTION, ZEN3_ATTENTION = 0.57e11, 0.39e11
GB = 1e9

# flops: of many rows. ram, disk, bus: bytes a second. unpacked: FLOP/s of one row whose weights are quantized. gpu: FLOP/s and bytes a second of the data sheet. attending: FLOP/s of the processor's attention. prompts: a job's.
MACHINES = {
    # The paper's machine (docs/flexgen_t4.md): disk, bus, GPU and attention on the processor are its constants, as in bench/t4.json. It says 'Intel Xeon, 2.00 GHz' and 208 GB, which at Google is n1-highmem-32: 16 cores
    # with AVX-512 and no bf16 arithmetic. Taken for them: what Zen 4 reaches of its peak in fp32 (0.75 of 32 FLOP a cycle at 3.7 GHz) of theirs (64 a cycle at 2 GHz); RAM as in bench/t4.json.
    "T4 + 208 GB": dict(compute="f32", flops=16 * 0.75 * 64 * 2.0e9, unpacked=16 * ZEN4_UNPACKED, attending=16 * ZEN4_ATTENTION, ram=100 * GB, attention=12 * GB, disk=(2 * GB, 1 * GB), bus=12.89 * GB, gpu="t4", gpu_memory="16GB",
                        memory="208GB", disk_space="1500GB", prompts=2048),
    # Data sheets: GPU 1008 GB/s, 165.2 TFLOP/s dense bf16 with fp32 sums, PCIe 4.0 x16; SSD (990 PRO) 7.45 GB/s. Assumed: 16 cores of Zen 4 as measured each; three quarters of DDR5-5200's 83.2 GB/s; nine tenths of the SSD's
    # reads, and 1.5 GB/s of writes, once its fast cells are full; four fifths of the bus; 8 GB left to the system.
    "RTX 4090 + 64 GB": dict(compute="bf16", flops=16 * ZEN4_BF16, unpacked=16 * ZEN4_UNPACKED, attending=16 * ZEN4_ATTENTION, ram=62 * GB, disk=(6.7 * GB, 1.5 * GB), bus=25 * GB, gpu=(165.2e12, 1008 * GB), gpu_memory="23GB",
                             memory="56GB", disk_space="1000GB", prompts=1024),
    # Assumed: 8 cores of Zen 4, each at half of the measured speed, as 28 W allow; three quarters of 83.2 GB/s of RAM; an SSD of 5 GB/s reads and 1 GB/s writes; 4 GB left to the system.
    "laptop, 16 GB + NVMe": dict(compute="bf16", flops=8 * ZEN4_BF16 / 2, unpacked=8 * ZEN4_UNPACKED / 2, attending=8 * ZEN4_ATTENTION / 2, ram=62 * GB, disk=(5 * GB, 1 * GB), memory="12GB", disk_space="300GB", prompts=512),
}
# MoE-Gen's README names the GPU, RTX A5000 with 24 GB (data sheet: 768 GB/s, 111.1 TFLOP/s dense bf16, PCIe 4.0 x16), and that the model must fit the RAM. Assumed: 512 GB, 32 cores of Zen 3 as measured each, 120 GB/s of RAM,
# a disk of 3 GB/s.
MOE_GEN_MACHINE = dict(compute="f32", flops=32 * ZEN3_F32, unpacked=32 * ZEN4_UNPACKED / 2, attending=32 * ZEN3_ATTENTION, ram=120 * GB, disk=(3 * GB, 1.5 * GB), bus=25 * GB, gpu=(111.1e12, 768 * GB), gpu_memory="23GB", memory="480GB", disk_space="1000GB",
                       prompts=2048)
# Shares of a GPU's data sheet, as an H100 reached them (bench/results/2026-11-28-nvidia-h100-80gb-hbm3-gpu.json; 989 TFLOP/s, 3,350 GB/s): products of 512 rows with a matrix of 28672 x 7168 in 16 bits (0.57; 0.63 of
# 14336 x 4096); few rows with it, by its bytes (0.41); unpacking it from int4, by the bytes read and written (0.14, a kernel that has been replaced since; the new one was not measured); attention of generated rows (0.52).
GPU_PRODUCTS, GPU_FEW_ROWS, GPU_UNPACKING, GPU_ATTENTION = 0.6, 0.4, 0.14, 0.5
# Assumed: attention of prompts, as a share of products.
GPU_PROMPT_ATTENTION = 0.4
T4_MEMORY = 320 * GB  # data sheet
PANEL = 512  # rows that go through an expert's or a feed-forward part's matrices together

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


def attention(bytes_per_s, flops, chunk_flops):
    """Generated rows read the cache once for all query heads of a kv head, each of which takes a FLOP a byte of it: two for an element of two bytes."""
    return [{"cache": "bf16", "queries_per_kv_head": queries, "context_to_bytes_per_s": [[64, min(bytes_per_s, flops / queries)]], "chunk_flops_per_s": chunk_flops} for queries in (1, 4, 8, 16)]


def gpu_matmul(rates16, unpacked_bytes_per_s):
    """`rates16`: [rows, FLOP/s] of 16-bit weights. Codes are read and 16 bits written before each product of a panel."""
    def unpacked(n, flops, bits):
        unpacking_s = (bits / 8 + 2) / unpacked_bytes_per_s / (2 * min(n, PANEL))
        return [n, float(f"{1 / (1 / flops + unpacking_s):.3g}")]
    lists = {"bf16": rates16, **{weights: [unpacked(n, flops, bits) for n, flops in rates16] for weights, bits in (("int8", 8.5), ("int4", 4.25))}}
    return [{"compute": "bf16", "weights": weights, "rows_to_flops_per_s": points} for weights, points in lists.items()]


def gpu_profile(gpu):
    if gpu == "t4":
        with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "t4.json")) as file:
            profile = json.load(file)["gpu"]
        profile["matmul"] = gpu_matmul(profile["matmul"][0]["rows_to_flops_per_s"], T4_MEMORY * GPU_UNPACKING)
        return profile
    flops, memory = gpu[0] * GPU_PRODUCTS, gpu[1] * GPU_FEW_ROWS
    # Two FLOP a weight of two bytes; a panel reads them anew.
    rates16 = [[n, float(f"{min(flops, min(n, PANEL) * memory):.3g}")] for n in (1, 16, 64, 256, PANEL, 1024, 16384)]
    return {"visit_s": 1e-4, "logit_s": 0, "matmul": gpu_matmul(rates16, gpu[1] * GPU_UNPACKING), "attention": attention(gpu[1] * GPU_ATTENTION, flops, GPU_PROMPT_ATTENTION * flops)}


def profile(name, machine):
    rows = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
    # Two FLOP a weight of 16 bits, 8.5 and 4.25: what one row can do while its weights are read.
    read = {weights: machine["ram"] * 16 / bits for weights, bits in (("bf16", 16), ("int8", 8.5), ("int4", 4.25))}
    matmul = [{"compute": machine["compute"], "weights": weights, "rows_to_flops_per_s": rates(machine["flops"], first if weights == "bf16" else min(first, machine["unpacked"]), rows)} for weights, first in read.items()]
    # Beside a GPU the bus takes its part of the RAM's speed.
    cache_read = machine.get("attention", 0.9 * (machine["ram"] - machine.get("bus", 0)))
    result = {"format": 1, "name": name, "measured": "not measured: made by bench/mixture_plans.py",
              "cpu": {"visit_s": 2e-5, "logit_s": 1e-10, "matmul": matmul, "attention": attention(cache_read, machine["attending"], 0.6 * machine["flops"])}}
    if "gpu" in machine:
        result["gpu"] = gpu_profile(machine["gpu"])
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
        return json.loads(run.stdout) if run.returncode == 0 else {"error": run.stderr.strip().removeprefix("flexgen: ")}

    def on(self, name, machine, model, flags, generated):
        on_gpu = "gpu" in machine
        return {"processor": "GPU" if on_gpu else "CPU", **self.plan(name, machine, model, flags, generated, on_gpu)}


def seconds(plan):
    """Of the job, with the weights in place."""
    return plan["predicted"]["time_s"] - (plan["predicted"]["load_time_s"] or 0)


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
                      f"{policy['micro_batch_size']} x {policy['num_micro_batches']}, weights {policy['weights']}, cache {policy['kv_cache']}{', attention on the CPU' if policy.get('attention_on') == 'cpu' else ''} |", flush=True)
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


if __name__ == "__main__":
    main()
