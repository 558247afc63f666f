#!/usr/bin/env python3
"""Makes the golden fixtures of checkpoints that are shipped quantized (docs/formats.md): tiny random ones, and what Hugging Face transformers computes in float32 with their weights dequantized.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install torch transformers==5.24.0 compressed-tensors==0.20.0 accelerate safetensors numpy
    /tmp/golden/bin/python tools/make_format_fixtures.py [NAME ...]

Writes tests/fixtures/models/NAME/ as tools/make_golden_fixtures.py does. Weights are dequantized by transformers (fp8), by compressed-tensors, and for GPTQ and AWQ by their formulas as GPTQModel and
AutoAWQ state them. Where transformers loads the checkpoint itself, its logits are compared too."""

import argparse
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import make_golden_fixtures as golden

FP8 = torch.float8_e4m3fn
GROUP = 32
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def to_words(codes, bits, dim):
    """Codes [.., n, ..] as words of 32 bits along `dim`, the lowest bits first."""
    per_word = 32 // bits
    codes = codes.to(torch.int64).movedim(dim, -1)
    words = (codes.reshape(*codes.shape[:-1], -1, per_word) << (bits * torch.arange(per_word))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).movedim(-1, dim).contiguous()


def from_words(words, bits, dim):
    shifts = bits * torch.arange(32 // bits)
    codes = (words.to(torch.int64).movedim(dim, -1).unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.flatten(-2).movedim(-1, dim)


def groups_of(weight, size):
    return weight.reshape(weight.shape[0], -1, size)


# --- Each format: the tensors of a matrix by what stands in the place of "weight", and the matrix that its oracle makes of them, in float32.


def fp8_blocks(weight, block=(32, 64), scale_dtype=torch.float32):
    rows, cols = weight.shape[0] // block[0], weight.shape[1] // block[1]
    blocks = weight.reshape(rows, block[0], cols, block[1])
    scale = (blocks.abs().amax(dim=(1, 3)) / 448).to(scale_dtype)
    codes = (blocks / scale.float()[:, None, :, None]).reshape(weight.shape).to(FP8)
    return {"weight": codes, "weight_scale_inv": scale}, Fp8Dequantize(None)._dequantize_one(codes, scale, torch.float32)


def fp8_tensor(weight):
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(FP8)
    return {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.5)}, codes.float() * scale


def compressed(arguments, format_name, parameters):
    """Through compressed-tensors: parameters(weight, args) gives scale, zero point and what else there is."""
    args = QuantizationArgs(**arguments)
    activations = QuantizationArgs(num_bits=8, type=args.type, strategy="token", dynamic=True) if format_name in ("float-quantized", "int-quantized") else None
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=activations, format=format_name)
    compressor = BaseCompressor.get_value_from_registry(format_name)

    def make(weight):
        state = {"weight": weight, **parameters(weight)}
        stored = compressor.compress(state, scheme)
        exact = {name: tensor.float() if name in ("weight_scale", "weight_global_scale") and tensor.dtype in (torch.bfloat16, torch.float16) else tensor for name, tensor in stored.items()}
        if format_name == "nvfp4-pack-quantized":  # decompress() rounds to bfloat16
            codes = unpack_fp4_from_uint8(stored["weight_packed"], *weight.shape, dtype=torch.float32)
            return stored, dequantize(codes, scale=stored["weight_scale"].float(), global_scale=stored["weight_global_scale"].float(), args=args, dtype=torch.float32)
        return stored, compressor.decompress(exact, scheme)["weight"].float()

    make.scheme = scheme
    return make


def symmetric(levels, size=None, dtype=torch.bfloat16):
    def parameters(weight):
        grouped = groups_of(weight, size or weight.shape[1])
        return {"weight_scale": (grouped.abs().amax(-1) / levels).to(dtype)}
    return parameters


def asymmetric(bits, size, dtype=torch.bfloat16):
    def parameters(weight):
        grouped, levels, offset = groups_of(weight, size), 2**bits - 1, 2**(bits - 1)
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / levels).to(dtype)
        zero = (torch.round(-low / scale.float()).clamp(0, levels) - offset).to(torch.int8)
        return {"weight_scale": scale, "weight_zero_point": zero}
    return parameters


def nvfp4_scales(weight):
    globally = (448 * 6 / weight.abs().max()).reshape(1)
    scale = (groups_of(weight, 16).abs().amax(-1) / 6 * globally).to(FP8).float()
    return {"weight_scale": scale, "weight_global_scale": globally}


def mxfp4_scales(weight):
    return {"weight_scale": torch.exp2(torch.floor(torch.log2(groups_of(weight, 32).abs().amax(-1))) - 2)}


def with_order(make, generator):
    """The same with columns in groups by an order of their own, as compressed-tensors wrote it until 2026 (weight_g_idx)."""
    def ordered(weight):
        order = torch.argsort(torch.rand(weight.shape[1], generator=generator))
        group = torch.empty(weight.shape[1], dtype=torch.int32)
        group[order] = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        stored, dequantized = make(weight[:, order])
        bits = make.scheme.weights.num_bits
        codes = from_words(stored["weight_packed"], bits, 1)
        stored["weight_packed"] = to_words(codes[:, torch.argsort(order)], bits, 1)
        return {**stored, "weight_g_idx": group}, dequantized[:, torch.argsort(order)]
    ordered.scheme = make.scheme
    return ordered


def gptq(bits, generator, first_form=True, orders=True):
    """w = (q - z) * s, q [in, out]; the first form's zero points are less one."""
    def make(weight):
        turned = weight.T.contiguous()  # [in, out]
        columns = turned.shape[0]
        order = torch.argsort(torch.rand(columns, generator=generator)) if orders else torch.arange(columns)
        group = torch.empty(columns, dtype=torch.int64)
        group[order] = torch.arange(columns) // GROUP
        grouped, levels = turned[order].reshape(-1, GROUP, turned.shape[1]), 2**bits - 1
        low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
        scale = ((high - low) / levels).to(torch.float16)
        zero = torch.round(-low / scale.float()).clamp(1, levels).to(torch.int64)
        codes = (torch.round(turned / scale.float()[group]) + zero[group]).clamp(0, levels).to(torch.int64)
        stored = {"qweight": to_words(codes, bits, 0), "qzeros": to_words(zero - (1 if first_form else 0), bits, 1), "scales": scale, "g_idx": group.to(torch.int32)}
        one = 0x11111111 if bits == 4 else 0x01010101
        words = stored["qzeros"].to(torch.int64) + (one if first_form else 0)  # GPTQModel's convert_gptq_v1_to_v2_format_module()
        zeros = from_words(words & 0xFFFFFFFF, bits, 1)
        return stored, ((from_words(stored["qweight"], bits, 0) - zeros[group]) * scale.float()[group]).T.contiguous()
    return make


def awq(weight):
    """w = (q - z) * s, q [in, out]; of each eight outputs a word has the even ones first (AutoAWQ's AWQ_ORDER)."""
    turned = weight.T.contiguous()
    grouped = turned.reshape(-1, GROUP, turned.shape[1])
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scale = ((high - low) / 15).to(torch.float16)
    zero = torch.round(-low / scale.float()).clamp(0, 15).to(torch.int64)
    group = torch.arange(turned.shape[0]) // GROUP
    codes = (torch.round(turned / scale.float()[group]) + zero[group]).clamp(0, 15).to(torch.int64)

    def packed(values):
        return to_words(values.reshape(values.shape[0], -1, 8)[..., AWQ_ORDER].reshape(values.shape), 4, 1)

    def unpacked(words):
        reverse = torch.argsort(torch.tensor(AWQ_ORDER))
        return from_words(words, 4, 1).reshape(words.shape[0], -1, 8)[..., reverse].reshape(words.shape[0], -1)

    stored = {"qweight": packed(codes), "qzeros": packed(zero), "scales": scale}
    return stored, ((unpacked(stored["qweight"]) - unpacked(stored["qzeros"])[group]) * scale.float()[group]).T.contiguous()


def compressed_config(make, format_name):
    scheme = make.scheme.model_dump(mode="json")
    if hasattr(make, "ordered"):
        scheme["weights"]["actorder"] = "group"
    return {"quant_method": "compressed-tensors", "format": format_name, "quantization_status": "compressed", "ignore": ["lm_head", "re:.*mlp.gate$"], "config_groups": {"group_0": scheme}, "kv_cache_scheme": None}


SEEDS = {"packed4-experts": 3103}  # where the usual one leaves few clear choices
GENERATOR = torch.Generator()  # of the orders of columns
INT4 = dict(num_bits=4, type="int", strategy="group", group_size=GROUP)


def formats():
    """name -> (the base: family and its fields, the format, quantization_config, whether transformers loads it here)."""
    gptq_config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True, "sym": False, "damp_percent": 0.01, "true_sequential": True, "model_name_or_path": None}
    dense = ("llama", dict(rms_norm_eps=1e-5))
    sparse = ("qwen3_moe", dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True))
    table = {
        "fp8": (dense, fp8_blocks, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 64], "modules_to_not_convert": ["model.layers.1.mlp.up_proj", "lm_head"]}, True),
        "fp8-experts": (sparse, lambda weight: fp8_blocks(weight, scale_dtype=torch.bfloat16),
                        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 64], "modules_to_not_convert": ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "lm_head"]}, False),
        "fp8-modelopt": (dense, fp8_tensor, {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.33.0"}}, False),
    }
    for name, base, arguments, format_name, parameters, ordered in [
            ("fp8-channel", dense, dict(num_bits=8, type="float", strategy="channel"), "float-quantized", symmetric(448), False),
            ("int8-channel", dense, dict(num_bits=8, type="int", strategy="channel"), "int-quantized", symmetric(127), False),
            ("packed4", dense, INT4, "pack-quantized", symmetric(7, GROUP), False),
            ("packed4-zeros", dense, dict(INT4, symmetric=False), "pack-quantized", asymmetric(4, GROUP), True),
            ("packed4-experts", sparse, INT4, "pack-quantized", symmetric(7, GROUP, torch.float16), False),
            ("packed8", dense, dict(num_bits=8, type="int", strategy="channel", symmetric=False), "pack-quantized", lambda w: asymmetric(8, w.shape[1])(w), False),
            ("nvfp4", dense, dict(num_bits=4, type="float", strategy="tensor_group", group_size=16), "nvfp4-pack-quantized", nvfp4_scales, False),
            ("mxfp4", dense, dict(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype="torch.uint8"), "mxfp4-pack-quantized", mxfp4_scales, False)]:
        make = compressed(arguments, format_name, parameters)
        if ordered:
            make = with_order(make, GENERATOR)
            make.ordered = True
        # An order of columns is no longer read by compressed-tensors, zero points of channels not by transformers 5.24, and FP4 in bfloat16 alone.
        table[name] = (base, make, compressed_config(make, format_name), not ordered and name != "packed8" and "fp4" not in name)
    table["gptq"] = (dense, gptq(4, GENERATOR), gptq_config, False)
    table["gptq8-v2"] = (dense, gptq(8, GENERATOR, False, False), dict(gptq_config, bits=8, desc_act=False, checkpoint_format="gptq_v2"), False)
    table["awq"] = (dense, awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}, False)
    table["autoround"] = (dense, gptq(4, GENERATOR, True, False), {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": GROUP, "sym": True, "data_type": "int", "iters": 200,
                                                                   "autoround_version": "0.5.1", "extra_config": {"lm_head": {"bits": 16}}, "block_name_to_quantize": "model.layers"}, False)
    return table


def is_quantized(name, tensor, config):
    left = config.get("modules_to_not_convert") or []
    return tensor.dim() == 2 and name.endswith("_proj.weight") and name[:-len(".weight")] not in left


def logits_of(directory, prompts, **options):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", **options).eval()
    return torch.cat([model(torch.tensor([prompt])).logits[0] for prompt in prompts])


def check_loaded_by_transformers(name, directory, prompts, logits):
    """As it is, and where inputs of matrices would be rounded too, without that."""
    options = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if name == "fp8" else {}
    own = logits_of(directory, prompts, **options)
    print(f"  transformers' own loading: largest difference {(own - logits).abs().max():.2e}")
    config = json.loads((directory / "config.json").read_text())
    groups = config["quantization_config"].get("config_groups", {})
    if not any(group.get("input_activations") for group in groups.values()):
        return
    for group in groups.values():
        group["input_activations"] = None
    with tempfile.TemporaryDirectory() as plain:
        shutil.copy(directory / "model.safetensors", plain)
        (pathlib.Path(plain) / "config.json").write_text(json.dumps(config))
        print(f"  without rounded inputs: {(logits_of(plain, prompts) - logits).abs().max():.2e}")


def make(name, entry, seed):
    (family, fields), quantize, config, loads = entry
    sizes = dict(vocab_size=208, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, num_hidden_layers=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    model_config = transformers.AutoConfig.for_model(family, **{**sizes, **fields})
    if family.endswith("_moe"):
        seed = golden.clearest_seed(model_config, torch.bfloat16, seed)
    generator = torch.Generator().manual_seed(seed)
    GENERATOR.manual_seed(seed)
    directory = golden.FIXTURES / f"quantized-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(model_config)
    golden.randomize(model, generator)
    model.to(torch.bfloat16).save_pretrained(directory)
    tensors, dequantized = {}, {}
    for tensor_name, tensor in load_file(directory / "model.safetensors").items():
        if not is_quantized(tensor_name, tensor, config):
            tensors[tensor_name] = dequantized[tensor_name] = tensor
            continue
        stored, dequantized[tensor_name] = quantize(tensor.float())
        for part, value in stored.items():
            tensors[tensor_name[:-len("weight")] + part] = value.contiguous()
    with tempfile.TemporaryDirectory() as plain:
        shutil.copy(directory / "config.json", plain)
        save_file({key: value.float().contiguous() for key, value in dequantized.items()}, f"{plain}/model.safetensors", metadata={"format": "pt"})
        model = golden.load_float32(plain)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with_config = json.loads((directory / "config.json").read_text())
    with_config["quantization_config"] = config
    (directory / "config.json").write_text(json.dumps(with_config, indent=2) + "\n")
    prompts = golden.random_prompts(model_config, generator)
    logits = torch.cat([model(torch.tensor([prompt])).logits[0] for prompt in prompts])
    logits.numpy().astype("<f4").tofile(directory / "golden.bin")
    continuations = [golden.greedy(model, prompt, golden.CONTINUATION) for prompt in prompts]
    golden.write_json(directory / "golden.json", {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, seed {seed}", "prompts": prompts,
                                                  "continuations": [c[0] for c in continuations], "margins": [c[1] for c in continuations]})
    print(f"{name}: logits std {logits.std():.2f}, {sum(f.stat().st_size for f in directory.iterdir())} bytes", flush=True)
    if loads:
        check_loaded_by_transformers(name, directory, prompts, logits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for number, (name, entry) in enumerate(formats().items()):
            if not arguments.names or name in arguments.names:
                make(name, entry, SEEDS.get(name, 3000 + number))
