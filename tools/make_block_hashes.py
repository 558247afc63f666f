#!/usr/bin/env python3
"""Prints what src/tensor/block_formats_test.cc expects of each type of GGUF's quantized weights: a hash of what PyPI gguf makes of 65536 blocks, in which every byte, every
scale and every minimum comes, NaN and infinities too.

    python3 -m venv venv && venv/bin/pip install numpy gguf==0.19.0 && venv/bin/python tools/make_block_hashes.py"""

import gguf
import numpy as np

# Of each type: where its blocks have halves that scale them.
TYPES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "MXFP4": [], "IQ4_XS": [0]}
BLOCKS = 65536


def mixed(count):
    z = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def main():
    for name, halves in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = (mixed(BLOCKS * size) & np.uint64(255)).astype(np.uint8).reshape(BLOCKS, size)
        number = np.arange(BLOCKS, dtype=np.uint64)
        for at, factor in zip(halves, (1, 40503)):
            blocks[:, at:at + 2] = ((number * np.uint64(factor)) & np.uint64(0xFFFF)).astype("<u2").view(np.uint8).reshape(BLOCKS, 2)
        if not halves:
            blocks[:, 0] = number & np.uint64(255)
        total = np.uint64(0)
        for part in range(0, BLOCKS, 4096):  # bounds the memory
            values = gguf.dequantize(blocks[part:part + 4096], kind).astype(np.float32).reshape(-1)
            words = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32)).astype(np.uint64)
            first = part * elements
            keys = mixed(first + words.size)[first:]
            total = total + ((words + np.uint64(1)) * keys).sum(dtype=np.uint64)
        print(f"{{DType::k{name}, {{{', '.join(map(str, halves))}}}, 0x{int(total):016x}}},", flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
