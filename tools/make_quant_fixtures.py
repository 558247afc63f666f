#!/usr/bin/env python3
"""Writes tests/fixtures/quant/*.json: rows and what group-wise quantization makes of them, stated in NumPy.

    python3 tools/make_quant_fixtures.py tests/fixtures/quant      # needs numpy

FlexGen's formula (Sheng et al., ICML 2023, section 5) with scale and minimum in bf16; the layout is that of src/tensor/group_quant.h.
"""
import json
import os
import sys

import numpy as np

GROUP = 64


def to_bf16(x):
    """Bits of float32 values rounded to nearest even bfloat16 (finite values and infinities)."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def quantize(x, bits):
    """(packed bytes, the values that come back)."""
    levels = np.float32(2**bits - 1)
    codes_out, parameters, back = b"", b"", []
    for first in range(0, len(x), GROUP):
        group = x[first:first + GROUP]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scale_bits = to_bf16(levels / (group.max() - group.min()))
        if not np.isfinite(from_bf16(scale_bits)):
            scale_bits = np.uint16(0)
        minimum_bits = to_bf16(group.min())
        scale, minimum = from_bf16(np.asarray(scale_bits)), from_bf16(np.asarray(minimum_bits))
        codes = np.rint(np.clip((group - minimum) * scale, np.float32(0), levels)).astype(np.uint8)
        if bits == 4:
            half = (len(codes) + 1) // 2
            high = np.zeros(half, np.uint8)
            high[:len(codes) - half] = codes[half:]
            codes_out += (codes[:half] | high << 4).tobytes()
        else:
            codes_out += codes.tobytes()
        parameters += np.uint16(scale_bits).tobytes() + np.uint16(minimum_bits).tobytes()
        step = np.float32(0) if scale == 0 else np.float32(1) / scale
        back.append(codes.astype(np.float32) * step + minimum)
    return codes_out + parameters, np.concatenate(back)


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    random = np.random.default_rng(5)
    rows = []
    for cols in (1, 2, 31, 32, 63, 64, 65, 80, 96, 127, 128, 129, 200, 256):
        rows.append(random.standard_normal(cols))
        rows.append(random.standard_normal(cols) * 10.0 ** random.integers(-6, 6) + random.standard_normal())
    rows += [np.full(64, 0.375), np.full(70, -3.0), np.zeros(64), np.concatenate([np.full(64, 1.0), random.standard_normal(64)]),
             np.linspace(0, 15, 64), np.linspace(-8, 7, 128), np.arange(64) * 1e-41, np.array([1e-39, 3e-39, 2e-39]),
             np.array([-1e38, 1e38, 0.0]), random.standard_t(2, 192), np.where(random.random(128) < 0.02, 40.0, random.standard_normal(128))]
    cases = []
    for row in rows:
        x = np.asarray(row, np.float32)
        for bits in (4, 8):
            packed, back = quantize(x, bits)
            cases.append({"bits": bits, "x": x.tobytes().hex(), "packed": packed.hex(), "back": back.astype(np.float32).tobytes().hex()})
    with open(os.path.join(out, "rows.json"), "w") as file:
        json.dump(cases, file, indent=0)
        file.write("\n")
    print(f"{len(cases)} cases")


main()
