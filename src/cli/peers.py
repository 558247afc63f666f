"""Runs a job with another program and prints what it took as one line of JSON: `flexgen bench --peers` carries this text and starts it.

    python3 peers.py check NAME        does nothing if the program is installed, else says what is missing (exit status 3)
    python3 peers.py run NAME JOB.json

A job is run in batches of equal size, its sequences sorted by length, as somebody would who knows these programs: they pad a batch to its longest.
`rounds` batches, evenly spread over them, are run as they are (0: all of them), and the others are counted at the same time a batch.
"""
import argparse
import importlib.metadata
import importlib.util
import json
import shlex
import sys
import time

GIB = 1 << 30


def installed(*names):
    return next((name for name in names if importlib.util.find_spec(name)), None)


def version_of(*names):
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return "?"


def batches_of(job, size):
    order = sorted(range(len(job["prompts"])), key=lambda i: (len(job["prompts"][i]), job["max_tokens"][i]))
    return [order[first:first + size] for first in range(0, len(order), size)]


def padded(job, batch, pad):
    """The prompts of a batch, padded on the left, and how many tokens each gets."""
    longest = max(len(job["prompts"][i]) for i in batch)
    rows = [[pad] * (longest - len(job["prompts"][i])) + job["prompts"][i] for i in batch]
    return rows, max(job["max_tokens"][i] for i in batch)


def run_job(job, size, run_batch):
    """Seconds of the whole job, and how many of its batches were run."""
    batches = batches_of(job, size)
    rounds = min(len(batches), job["rounds"] or len(batches))
    chosen = [batches[(2 * i + 1) * len(batches) // (2 * rounds)] for i in range(rounds)]
    start = time.monotonic()
    for batch in chosen:
        run_batch(batch)
    seconds = time.monotonic() - start
    return {"batch": size, "batches": len(batches), "batches_run": rounds, "run_s": seconds, "time_s": seconds * len(job["prompts"]) / sum(map(len, chosen))}


def run_accelerate(job):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(job["checkpoint"])
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[job["dtype"]]
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = max(len(prompt) + tokens for prompt, tokens in zip(job["prompts"], job["max_tokens"]))
    gpu = job["gpu_memory_bytes"]
    if gpu:
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu / torch.cuda.get_device_properties(0).total_memory))
    results = []
    for size in job["batch_sizes"]:
        # What the weights leave: the cache, which is copied a layer at a time as it grows, the activations of a prompt, and the program itself.
        cache = 2 * config.num_hidden_layers * kv_heads * head_size * dtype.itemsize * size * longest
        beside = int(1.1 * cache) + 8 * size * longest * config.hidden_size * dtype.itemsize + (GIB if gpu else GIB // 2)
        memory = {0: gpu - beside, "cpu": job["cpu_memory_bytes"]} if gpu else {"cpu": job["cpu_memory_bytes"] - beside}
        if min(memory.values()) <= 0:
            print(f"accelerate: batches of {size} leave no memory for weights", file=sys.stderr)
            continue
        try:
            model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=dtype, device_map="auto", max_memory=memory, offload_folder=job["offload_directory"])
            device = "cuda" if gpu else "cpu"

            def run_batch(batch):
                rows, tokens = padded(job, batch, 0)
                ids = torch.tensor(rows, device=device)
                mask = torch.tensor([[0] * (len(rows[0]) - len(job["prompts"][i])) + [1] * len(job["prompts"][i]) for i in batch], device=device)
                with torch.inference_mode():
                    out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
                assert out.shape[1] == len(rows[0]) + tokens, out.shape

            places = list(getattr(model, "hf_device_map", {"": device}).values())
            shares = ", ".join(f"{sum(str(p) == place for p in places)} parts on {place}" for place in dict.fromkeys(map(str, places)))
            results.append(dict(run_job(job, size, run_batch), settings=shares))
            del model
        except torch.cuda.OutOfMemoryError:
            print(f"accelerate: batches of {size} do not fit the GPU", file=sys.stderr)
    return results


# FlexGen's own settings of its published runs, by model: on 16 GB of GPU memory and 208 GB of RAM.
FLEXGEN_POLICIES = {
    "opt-6.7b": "--gpu-batch-size 2 --num-gpu-batches 1 --percent 100 0 100 0 100 0",
    "opt-30b": "--gpu-batch-size 48 --num-gpu-batches 3 --percent 20 80 0 100 0 100 --cpu-cache-compute",
    "opt-175b": "--gpu-batch-size 32 --num-gpu-batches 8 --percent 0 50 0 0 0 100 --cpu-cache-compute",
}


def random_weights(np, tensor_class):
    """Its dummy weights are ones, on which sums overflow: normal numbers instead, which the processor and the GPU work on as they do on real ones."""
    load = tensor_class.load_from_np
    pool = (0.02 * np.random.default_rng(0).standard_normal((1 << 20) + 7)).astype(np.float16)
    tensor_class.load_from_np = lambda self, array: load(self, np.resize(pool, array.shape) if array.dtype == np.float16 and array.ndim > 1 else array)


def run_flexllmgen(job):
    import gc

    import numpy as np

    package = installed("flexllmgen", "flexgen")
    module = lambda name: importlib.import_module(f"{package}.{name}")
    if not job["model"].startswith("opt-"):
        raise SystemExit(f"flexllmgen: it runs OPT alone, not {job['model']}")
    texts = job["policy"] or FLEXGEN_POLICIES.get(job["model"])
    if not texts:
        raise SystemExit(f"flexllmgen: no published settings for {job['model']}; give --peer-policy '--gpu-batch-size N --num-gpu-batches N --percent ...'")
    parser = argparse.ArgumentParser(prog="--peer-policy")
    module("flex_opt").add_parser_arguments(parser)
    policies = [(text.strip(), parser.parse_args(shlex.split(text))) for text in texts.split(";") if text.strip()]
    import torch

    torch.cuda.set_per_process_memory_fraction(min(1.0, job["gpu_memory_bytes"] / torch.cuda.get_device_properties(0).total_memory))
    backend, utils, flex_opt = module("pytorch_backend"), module("utils"), module("flex_opt")
    random_weights(np, backend.TorchTensor)
    groups = lambda dim: module("compression").CompressionConfig(num_bits=4, group_size=64, group_dim=dim, symmetric=False)
    config = module("opt_config").get_opt_config(job["model"])

    def run_policy(text, flags):
        policy = flex_opt.Policy(flags.gpu_batch_size, flags.num_gpu_batches, *flags.percent, flags.overlap, flags.sep_layer, flags.pin_weight, flags.cpu_cache_compute,
                                 flags.attn_sparsity, flags.compress_weight, groups(0), flags.compress_cache, groups(2))
        if hasattr(utils, "ExecutionEnv"):
            env = utils.ExecutionEnv.create(job["offload_directory"])
        else:
            gpu, cpu, disk = backend.TorchDevice("cuda:0"), backend.TorchDevice("cpu"), backend.TorchDisk(job["offload_directory"])
            env = utils.Env(gpu=gpu, cpu=cpu, disk=disk, mixed=backend.TorchMixedDevice([gpu, cpu, disk]))
        try:
            model = flex_opt.OptLM(config, env, "_DUMMY_", policy)
            if not hasattr(utils, "ExecutionEnv"):
                model.init_all_weights()
            size = flags.gpu_batch_size * flags.num_gpu_batches

            def run_batch(batch):
                rows, tokens = padded(job, (batch * size)[:size], config.pad_token_id)  # the block is always full
                model.generate(np.array(rows), max_new_tokens=tokens, verbose=0)

            model.generate(np.full((size, 32), 7), max_new_tokens=1, verbose=0)  # as its own benchmark warms up
            return dict(run_job(job, size, run_batch), settings=text)
        finally:
            env.disk.close_copy_threads()

    results = []
    for text, flags in policies:
        try:
            results.append(run_policy(text, flags))
            print(f"flexllmgen: {text}: {results[-1]['time_s']:.1f} s", file=sys.stderr)
        except torch.cuda.OutOfMemoryError:
            print(f"flexllmgen: {text} does not fit the GPU", file=sys.stderr)
        gc.collect()
        torch.cuda.empty_cache()
    return results


PEERS = {
    "accelerate": (run_accelerate, ["accelerate", "transformers", "torch"], [("accelerate",), ("transformers",), ("torch",)]),
    "flexllmgen": (run_flexllmgen, ["flexllmgen", "flexgen"], [("flexllmgen", "flexgen"), ("torch",)]),
}


def main():
    what, name = sys.argv[1:3]
    run, packages, needed = PEERS[name]
    missing = [alternatives for alternatives in needed if not installed(*alternatives)]
    if missing:
        print(f"{sys.executable} has no {', '.join(' or '.join(names) for names in missing)}; install with: {sys.executable} -m pip install {' '.join(names[0] for names in missing)}")
        sys.exit(3)
    if what == "check":
        return
    with open(sys.argv[3]) as file:
        job = json.load(file)
    results = run(job)
    if not results:
        raise SystemExit(f"{name}: nothing of what was tried fits ({job['policy'] if name == 'flexllmgen' else 'batches of ' + str(job['batch_sizes'])})")
    best = min(results, key=lambda result: result["time_s"])
    print("RESULT " + json.dumps(dict(best, name=name, version=version_of(*packages[:1] if name == "accelerate" else packages))))


main()
