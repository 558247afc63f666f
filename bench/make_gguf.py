#!/usr/bin/env python3
"""Writes a Llama, Qwen3 or gpt-oss checkpoint (bf16 safetensors; experts in MXFP4) as a GGUF file for llama.cpp, without a tokenizer: for benchmarks of dummy weights.

    python3 bench/make_gguf.py CHECKPOINT_DIR OUT.gguf       # needs PyPI gguf, numpy
    python3 bench/make_gguf.py CHECKPOINT_DIR OUT.gguf --random   # a Qwen3 MoE's: a folder with config.json is enough; its matrices are Q4_0 of any bytes

With --vocabulary the file has made-up pieces as many as the model has tokens: llama-server starts with no less, and takes token ids. With --q8 matrices in bf16 become Q8_0, as the gpt-oss files
that people download have them.
"""
import argparse
import json
import os
import struct

import gguf
import numpy as np

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.router": "ffn_gate_inp"}
ARCHITECTURES = {"gpt_oss": "gpt-oss", "qwen3_moe": "qwen3moe"}
MXFP4_BLOCK = 17  # bytes of 32 weights: a scale, then codes


def add_vocabulary(writer, size):
    """As SentencePiece has it: unknown, beginning, end, the bytes, and then pieces that no text has."""
    special = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    tokens = special + [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    tokens += [(f"t{i}", gguf.TokenType.NORMAL) for i in range(len(tokens), size)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def add_fields(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if experts := config.get("num_local_experts", config.get("num_experts")):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config.get("moe_intermediate_size", config["intermediate_size"]))
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if (config.get("rope_scaling") or {}).get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
        writer.add_rope_scaling_orig_ctx_len(config["rope_scaling"]["original_max_position_embeddings"])


def wide(bf16):
    return (bf16.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def mxfp4(blocks, scales):
    """GGUF's blocks of 32 weights from codes [..., blocks, 16], two neighbours a byte, and scales [..., blocks]: in GGUF a byte has a weight of the first half and one of the second."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    packed = np.empty((*scales.shape, MXFP4_BLOCK), np.uint8)
    packed[..., 0] = scales
    packed[..., 1:] = codes[..., :16] | codes[..., 16:] << 4
    return packed.reshape(*scales.shape[:-1], -1)


class Checkpoint:
    def __init__(self, directory):
        path = os.path.join(directory, "model.safetensors")
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            self.tensors = json.loads(file.read(length))
        self.tensors.pop("__metadata__", None)
        self.data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)

    def bytes(self, name):
        """A tensor's bytes in its shape; bf16 as two bytes each."""
        begin, end = self.tensors[name]["data_offsets"]
        width = {"BF16": 2, "U8": 1}[self.tensors[name]["dtype"]]
        *outer, inner = self.tensors[name]["shape"]
        return self.data[begin:end].reshape(*outer, inner * width)


def add_experts(writer, checkpoint, layer):
    """gpt-oss's: rows of gate and up take turns in the checkpoint."""
    experts = f"model.layers.{layer}.mlp.experts."
    read = lambda name: checkpoint.bytes(experts + name)
    both = slice(None)
    for name, source, rows in (("gate", "gate_up_proj", slice(0, None, 2)), ("up", "gate_up_proj", slice(1, None, 2)), ("down", "down_proj", both)):
        target = f"blk.{layer}.ffn_{name}_exps"
        writer.add_tensor(target + ".weight", mxfp4(read(source + "_blocks")[:, rows], read(source + "_scales")[:, rows]), raw_dtype=gguf.GGMLQuantizationType.MXFP4)
        writer.add_tensor(target + ".bias", np.ascontiguousarray(wide(read(source + "_bias"))[:, rows]))


def add_random(writer, config):
    """A Qwen3 MoE of any numbers: the codes of Q4_0 at random, all scales alike; embeddings and head in Q8_0, as llama.cpp keeps them wider too."""
    width, vocabulary, experts, inner = config["hidden_size"], config["vocab_size"], config["num_experts"], config["moe_intermediate_size"]
    heads, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    random = np.random.default_rng(1)

    def add_blocks(name, kind, *shape):
        elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (int(np.prod(shape)) // elements, block_bytes), np.uint8)
        blocks[:, :2] = np.frombuffer(np.float16(0.02 if kind == gguf.GGMLQuantizationType.Q4_0 else 0.001).tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(*shape[:-1], -1), raw_dtype=kind)

    four, eight = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
    add_blocks("token_embd.weight", eight, vocabulary, width)
    add_blocks("output.weight", eight, vocabulary, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(config["num_hidden_layers"]):
        at = f"blk.{layer}."
        for norm, size in (("attn_norm", width), ("ffn_norm", width), ("attn_q_norm", config["head_dim"]), ("attn_k_norm", config["head_dim"])):
            writer.add_tensor(f"{at}{norm}.weight", np.ones(size, np.float32))
        for name, rows, columns in (("attn_q", heads, width), ("attn_k", kv, width), ("attn_v", kv, width), ("attn_output", width, heads)):
            add_blocks(f"{at}{name}.weight", four, rows, columns)
        writer.add_tensor(f"{at}ffn_gate_inp.weight", random.normal(0, 0.05, (experts, width)).astype(np.float32))
        for name, rows, columns in (("gate", inner, width), ("up", inner, width), ("down", width, inner)):
            add_blocks(f"{at}ffn_{name}_exps.weight", four, experts, rows, columns)


def target_name(name, config):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    layer, rest = name[len("model.layers."):].split(".", 1)
    if rest == "self_attn.sinks":
        return f"blk.{layer}.attn_sinks.weight"
    part, kind = rest.rsplit(".", 1)
    stem = "post_attention_norm" if config["model_type"] == "gpt_oss" and part == "post_attention_layernorm" else NAMES[part]
    return f"blk.{layer}.{stem}.{kind}"


def add_checkpoint(writer, checkpoint, config, q8):
    for name, entry in checkpoint.tensors.items():
        if ".experts." in name:
            continue
        raw, target = checkpoint.bytes(name), target_name(name, config)
        if len(entry["shape"]) == 1 or target.endswith("ffn_gate_inp.weight"):  # norms, biases and routers are fp32 in GGUF
            writer.add_tensor(target, wide(raw))
        elif q8:
            writer.add_tensor(target, gguf.quants.quantize(wide(raw), gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    if config["model_type"] == "gpt_oss":
        for layer in range(config["num_hidden_layers"]):
            add_experts(writer, checkpoint, layer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("out")
    parser.add_argument("--vocabulary", action="store_true")
    parser.add_argument("--q8", action="store_true")
    parser.add_argument("--random", action="store_true")
    args = parser.parse_args()
    with open(os.path.join(args.directory, "config.json")) as file:
        config = json.load(file)
    writer = gguf.GGUFWriter(args.out, ARCHITECTURES.get(config["model_type"], config["model_type"]), use_temp_file=False)
    add_fields(writer, config)
    kinds = gguf.LlamaFileType
    writer.add_file_type(kinds.MOSTLY_Q4_0 if args.random else kinds.MOSTLY_MXFP4_MOE if config["model_type"] == "gpt_oss" else kinds.MOSTLY_BF16)
    if args.vocabulary:
        add_vocabulary(writer, config["vocab_size"])
    else:
        writer.add_tokenizer_model("no_vocab")
    if args.random:
        add_random(writer, config)
    else:
        add_checkpoint(writer, Checkpoint(args.directory), config, args.q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


if __name__ == "__main__":
    main()
