#!/usr/bin/env python3
"""Prints what src/tensor/code_format_test.cc expects of each type of weights whose scales are tensors of their own: a hash of what its oracle makes of matrices in which every code and every scale comes (of
float32 65536), NaN and infinities too. Oracles: PyTorch's float8 types, compressed-tensors, and for GPTQ, AWQ and orders of columns their formulas.

    python3 -m venv venv && venv/bin/pip install torch compressed-tensors==0.20.0 numpy && venv/bin/python tools/make_code_hashes.py"""

import numpy as np
import torch
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize

ROWS = 65536
TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn, "e8m0": torch.float8_e8m0fnu}


def mixed(count, first=0):
    """As src/tensor/block_formats_test.cc mixes."""
    z = (np.arange(first + 1, first + count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def words(count, first=0):
    """Random words of 32 bits."""
    return torch.from_numpy((mixed(count, first) & np.uint64(0xFFFFFFFF)).astype("<u4").view("<i4").copy())


def show(name, values):
    flat, total = values.to(torch.float32).numpy().reshape(-1), np.uint64(0)
    for first in range(0, flat.size, 1 << 22):
        part = flat[first:first + (1 << 22)]
        bits = np.where(np.isnan(part), np.uint32(0x7FC00000), part.view(np.uint32)).astype(np.uint64)
        total = total + ((bits + np.uint64(1)) * mixed(part.size, first)).sum(dtype=np.uint64)
    print(f'{{"{name}", 0x{int(total):016x}}},', flush=True)


def all_scales(name):
    """Every scale of a type, of float32 as many as there are rows; as float32."""
    if name == "f32":
        return words(ROWS).view(torch.float32)
    if name in ("f16", "bf16"):
        return torch.arange(ROWS, dtype=torch.int32).to(torch.int16).view(TYPES[name]).float()
    return torch.arange(256, dtype=torch.int32).to(torch.uint8).view(TYPES[name]).float()


def group_args(bits, size, kind="int", symmetric=True):
    return QuantizationArgs(num_bits=bits, type=kind, strategy="group", group_size=size, symmetric=symmetric)


def of_words(values, bits, dim):
    shifts = bits * torch.arange(32 // bits)
    codes = (values.to(torch.int64).movedim(dim, -1).unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.flatten(-2).movedim(-1, dim)


def by_columns(qweight, qzeros, scales, group, bits, first_form):
    if first_form:
        qzeros = qzeros.to(torch.int64) + (0x11111111 if bits == 4 else 0x01010101)
    return ((of_words(qweight, bits, 0) - of_words(qzeros, bits, 1)[group]).float() * scales[group]).T


def awq_columns(values):
    return of_words(values, 4, 1).reshape(values.shape[0], -1, 8)[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(values.shape[0], -1)


def main():
    every_byte = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    for name in ("f32", "f16", "bf16", "e4m3", "e8m0"):
        show(f"fp8 {name}", every_byte.view(torch.float8_e4m3fn).float()[None, :] * all_scales(name)[:, None])
    show("codes8 bf16", every_byte.view(torch.int8).float()[None, :] * all_scales("bf16")[:, None])

    every_pair = every_byte[None, :].expand(256, -1).contiguous()  # each row has each byte: 512 codes
    codes = unpack_fp4_from_uint8(every_pair, 256, 512, dtype=torch.float32)
    args = group_args(4, 512, "float")
    for index in range(3):
        factor = torch.tensor([[1.0], [448 * 6 / 3.7], [1e-3]][index], dtype=torch.float32)
        show(f"fp4 e4m3 {index}", dequantize(codes, scale=all_scales("e4m3")[:, None], global_scale=factor, args=args, dtype=torch.float32))
    show("fp4 e8m0", dequantize(codes, scale=all_scales("e8m0")[:, None], args=args, dtype=torch.float32))

    for bits, count in ((4, 2), (8, 64)):  # each row has each code
        packed = torch.arange(2**bits).reshape(-1, 32 // bits).to(torch.int64)
        packed = (packed << (bits * torch.arange(32 // bits))).sum(1)
        packed = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)[None, :].expand(ROWS, -1).contiguous()
        assert packed.shape[1] == count
        unpacked = unpack_from_int32(packed, bits, torch.Size([ROWS, 2**bits]))
        scales = all_scales("bf16")[:, None]
        show(f"packed{bits}", dequantize(unpacked, scale=scales, args=group_args(bits, 2**bits), dtype=torch.float32))
        zeros = unpack_from_int32(words(ROWS * bits // 32)[:, None], bits, torch.Size([ROWS, 1]), packed_dim=0)
        show(f"packed{bits} zeros", dequantize(unpacked, scale=scales, zero_point=zeros, args=group_args(bits, 2**bits, symmetric=False), dtype=torch.float32))
        # Four groups, columns in an order of their own, of which one is in a group that is not there.
        order = (words(2**bits).to(torch.int64) & 3)
        grouped = all_scales("bf16").reshape(-1, 4)
        few = unpacked[:grouped.shape[0]].float()
        values = few * grouped[:, order]
        values[:, 5] = float("nan")
        show(f"packed{bits} order", values)

        group = torch.zeros(2**bits, dtype=torch.int64)
        qweight = packed[0][:, None].expand(-1, ROWS).contiguous()
        qzeros = words(ROWS * bits // 32)[None, :]
        scales = all_scales("f16")[None, :]
        show(f"gptq{bits} first", by_columns(qweight, qzeros, scales, group, bits, True))
        show(f"gptq{bits} second", by_columns(qweight, qzeros, scales, group, bits, False))
        two = torch.cat([scales, scales.flip(1)])
        qzeros = words(2 * ROWS * bits // 32).reshape(2, -1)
        show(f"gptq{bits} order", by_columns(qweight, qzeros, two, words(2**bits).to(torch.int64) & 1, bits, True))

    scales = torch.cat([all_scales("f16")[None, :], all_scales("f16").flip(0)[None, :]])
    qweight, qzeros = words(16 * ROWS // 8).reshape(16, -1), words(2 * ROWS // 8, 12345).reshape(2, -1)
    group = torch.arange(16) // 8
    show("awq4", ((awq_columns(qweight) - awq_columns(qzeros)[group]).float() * scales[group]).T)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with np.errstate(all="ignore"):
        main()
