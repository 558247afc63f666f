#!/usr/bin/env python3
"""Writes a Llama, Qwen3 or gpt-oss checkpoint (bf16 safetensors; experts in MXFP4) as a GGUF file for llama.cpp, without a tokenizer: for benchmarks of dummy weights.

    python3 bench/make_gguf.py CHECKPOINT_DIR OUT.gguf       # needs PyPI gguf, numpy

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
ARCHITECTURES = {"gpt_oss": "gpt-oss"}
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
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("out")
    parser.add_argument("--vocabulary", action="store_true")
    parser.add_argument("--q8", action="store_true")
    args = parser.parse_args()
    with open(os.path.join(args.directory, "config.json")) as file:
        config = json.load(file)
    checkpoint = Checkpoint(args.directory)
    writer = gguf.GGUFWriter(args.out, ARCHITECTURES.get(config["model_type"], config["model_type"]), use_temp_file=False)
    add_fields(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE if config["model_type"] == "gpt_oss" else gguf.LlamaFileType.MOSTLY_BF16)
    if args.vocabulary:
        add_vocabulary(writer, config["vocab_size"])
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, entry in checkpoint.tensors.items():
        if ".experts." in name:
            continue
        raw, target = checkpoint.bytes(name), target_name(name, config)
        if len(entry["shape"]) == 1 or target.endswith("ffn_gate_inp.weight"):  # norms, biases and routers are fp32 in GGUF
            writer.add_tensor(target, wide(raw))
        elif args.q8:
            writer.add_tensor(target, gguf.quants.quantize(wide(raw), gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    if config["model_type"] == "gpt_oss":
        for layer in range(config["num_hidden_layers"]):
            add_experts(writer, checkpoint, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


if __name__ == "__main__":
    main()
