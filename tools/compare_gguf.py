#!/usr/bin/env python3
"""Compares a folder that tools/convert_gguf.py has written with --dtype f32 with what PyPI transformers makes of the same GGUF file by its own reader: each tensor, the token ids of a text, and the logits
of its first tokens must be equal. Needs PyPI torch, transformers 5, gguf and accelerate.

Usage: compare_gguf.py FILE.gguf DIRECTORY TEXT"""

import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MOST_BYTES, MOST_TOKENS = 20000, 256


def main():
    file, directory, text = sys.argv[1:]
    folder, name = os.path.split(os.path.abspath(file))
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    ours = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    expected, got = theirs.state_dict(), ours.state_dict()
    other = sorted(key for key in expected.keys() | got.keys() if key not in expected or key not in got or not torch.equal(expected[key], got[key]))
    print(f"{len(expected)} tensors, {len(other)} of them unequal {other[:5]}")
    with open(text, encoding="utf-8") as source:
        said = source.read(MOST_BYTES)
    ids = [AutoTokenizer.from_pretrained(*where, **how)(said, add_special_tokens=False).input_ids for where, how in [([folder], {"gguf_file": name}), ([directory], {})]]
    print(f"{len(ids[0])} tokens, {'equal' if ids[0] == ids[1] else 'unequal'}")
    tokens = torch.tensor([ids[0][:MOST_TOKENS]])
    with torch.no_grad():
        apart = (theirs(tokens).logits - ours(tokens).logits).abs().max().item()
    print(f"logits of {tokens.shape[1]} tokens: {apart} apart at most")
    sys.exit(bool(other) or ids[0] != ids[1] or apart != 0)


if __name__ == "__main__":
    main()
