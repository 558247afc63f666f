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


def parameters_of(low, high, levels):
    """Scale and minimum as bf16 bits, for a range."""
    with np.errstate(all="ignore"):
        scale_bits = to_bf16(levels / (high - low))
    if not np.isfinite(from_bf16(scale_bits)):
        scale_bits = np.uint16(0)
    return np.asarray(scale_bits), to_bf16(low)


def codes_of(group, scale_bits, minimum_bits, levels):
    """Codes (fp32), the values above the minimum, the step."""
    scale, above = from_bf16(scale_bits), group - from_bf16(minimum_bits)
    step = np.float32(0) if scale == 0 else np.float32(1) / scale
    return np.rint(np.clip(above * scale, np.float32(0), levels)), above, step


def squared_error(group, parameters, levels):
    """All operations in fp32; the squares summed in 16 lanes, these by halves."""
    codes, above, step = codes_of(group, *parameters, levels)
    errors = above - codes * step
    lanes = np.zeros(16, np.float32)
    for i, square in enumerate(errors * errors):
        lanes[i % 16] += square
    while len(lanes) > 1:
        lanes = lanes[:len(lanes) // 2] + lanes[len(lanes) // 2:]
    return lanes[0]


def least_error(group, levels):
    """The ends of the range that GroupRange::kMse chooses (src/tensor/group_quant.h)."""
    least, most = group.min(), group.max()
    best = (least, most)
    if from_bf16(parameters_of(*best, levels)[0]) == 0:
        return best
    error = squared_error(group, parameters_of(*best, levels), levels)
    unit = np.float32(0.04) * (most - least)
    rounds = [[(least + np.float32(i) * unit, most - np.float32(j) * unit) for i in range(5) for j in range(5)], None, None]
    for ends in rounds:
        if ends is None:
            unit = unit * np.float32(0.5)
            low, high = best
            ends = [(low + np.float32(a) * unit, high + np.float32(b) * unit) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        for low, high in ends:
            with np.errstate(all="ignore"):
                tried = squared_error(group, parameters_of(low, high, levels), levels)
            if tried < error:
                error, best = tried, (low, high)
    return best


def quantize(x, bits, search):
    """(packed bytes, the values that come back)."""
    levels = np.float32(2**bits - 1)
    codes_out, parameters, back = b"", b"", []
    for first in range(0, len(x), GROUP):
        group = x[first:first + GROUP]
        scale_bits, minimum_bits = parameters_of(*(least_error(group, levels) if search else (group.min(), group.max())), levels)
        codes, _, step = codes_of(group, scale_bits, minimum_bits, levels)
        codes = codes.astype(np.uint8)
        if bits == 4:
            half = (len(codes) + 1) // 2
            high = np.zeros(half, np.uint8)
            high[:len(codes) - half] = codes[half:]
            codes_out += (codes[:half] | high << 4).tobytes()
        else:
            codes_out += codes.tobytes()
        parameters += np.uint16(scale_bits).tobytes() + np.uint16(minimum_bits).tobytes()
        back.append(codes.astype(np.float32) * step + from_bf16(minimum_bits))
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
        for bits, search in ((4, False), (8, False), (4, True), (8, True)):
            packed, back = quantize(x, bits, search)
            cases.append({"bits": bits, "range": "mse" if search else "minmax", "x": x.tobytes().hex(), "packed": packed.hex(), "back": back.astype(np.float32).tobytes().hex()})
    with open(os.path.join(out, "rows.json"), "w") as file:
        json.dump(cases, file, indent=0)
        file.write("\n")
    print(f"{len(cases)} cases")


main()
