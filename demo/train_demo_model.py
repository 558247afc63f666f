#!/usr/bin/env python3
"""Trains the shipped demo model: a small OPT that turns messy invoice lines into JSON fields.

    python3 demo/train_demo_model.py --out demo/model --minutes 25

Needs torch, tokenizers and safetensors from PyPI. The records come from invoice_records.py with seeds below 1,000,000;
the demo's lines are made with seeds above. Every line of training is new: the model never sees a record twice.
"""
import argparse
import json
import math
import os
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import invoice_records

HIDDEN, LAYERS, HEADS, FFN, POSITIONS = 160, 4, 5, 640, 192
BOS = EOS = 2
SCAFFOLD = ['{"vendor":"', '","invoice":"', '","date":"', '","currency":"', '","total":"', '"}']


VOCAB = 768


def build_tokenizer():
    """Byte-level BPE learned from records. Digits, spaces and signs are tokens of their own, so that a word or a number is cut the same
    way in the line and in the answer; each piece of the JSON scaffold is one token."""
    rng = random.Random(12345)
    texts = []
    for _ in range(20000):
        line, fields = invoice_records.record(rng)
        texts += [line, fields["vendor"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|[A-Za-z]+|[^\dA-Za-z]"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SCAFFOLD), special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in SCAFFOLD])
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", pair="$A $B", special_tokens=[("</s>", EOS)])
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.token_to_id("</s>") == EOS
    return tokenizer


def linear_names(i):
    layer = f"model.decoder.layers.{i}."
    return {name: layer + name for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")}


def make_parameters(generator):
    parameters = {}

    def add(name, *shape, scale=0.02):
        parameters[name] = torch.nn.Parameter(torch.randn(*shape, generator=generator) * scale)

    def norm(name):
        parameters[name + ".weight"] = torch.nn.Parameter(torch.ones(HIDDEN))
        parameters[name + ".bias"] = torch.nn.Parameter(torch.zeros(HIDDEN))

    add("model.decoder.embed_tokens.weight", VOCAB, HIDDEN, scale=0.05)
    add("model.decoder.embed_positions.weight", POSITIONS + 2, HIDDEN, scale=0.05)
    for i in range(LAYERS):
        for key, name in linear_names(i).items():
            out = FFN if key == "fc1" else HIDDEN
            inner = FFN if key == "fc2" else HIDDEN
            last = key in ("self_attn.out_proj", "fc2")
            add(name + ".weight", out, inner, scale=1 / math.sqrt(inner) * (0.5 if last else 1))
            parameters[name + ".bias"] = torch.nn.Parameter(torch.zeros(out))
        norm(f"model.decoder.layers.{i}.self_attn_layer_norm")
        norm(f"model.decoder.layers.{i}.final_layer_norm")
    norm("model.decoder.final_layer_norm")
    return parameters


def forward(p, tokens, mask):
    batch, length = tokens.shape
    embed = p["model.decoder.embed_tokens.weight"]
    x = F.embedding(tokens, embed) + p["model.decoder.embed_positions.weight"][2:2 + length]
    for i in range(LAYERS):
        n = linear_names(i)
        norm = f"model.decoder.layers.{i}.self_attn_layer_norm"
        h = F.layer_norm(x, (HIDDEN,), p[norm + ".weight"], p[norm + ".bias"])
        q, k, v = (F.linear(h, p[n[f"self_attn.{c}_proj"] + ".weight"], p[n[f"self_attn.{c}_proj"] + ".bias"])
                   .view(batch, length, HEADS, -1).transpose(1, 2) for c in "qkv")
        scores = q @ k.transpose(2, 3) / math.sqrt(HIDDEN // HEADS) + mask[:length, :length]
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, HIDDEN)
        x = x + F.linear(mixed, p[n["self_attn.out_proj"] + ".weight"], p[n["self_attn.out_proj"] + ".bias"])
        norm = f"model.decoder.layers.{i}.final_layer_norm"
        h = F.layer_norm(x, (HIDDEN,), p[norm + ".weight"], p[norm + ".bias"])
        h = F.relu(F.linear(h, p[n["fc1"] + ".weight"], p[n["fc1"] + ".bias"]))
        x = x + F.linear(h, p[n["fc2"] + ".weight"], p[n["fc2"] + ".bias"])
    x = F.layer_norm(x, (HIDDEN,), p["model.decoder.final_layer_norm.weight"], p["model.decoder.final_layer_norm.bias"])
    return x


def encode_ids(tokenizer, texts):
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def make_batch(tokenizer, rng, size):
    """tokens [B, L], targets [B, L] (-100 where nothing is learned: the prompt and the padding)."""
    records = [invoice_records.record(rng) for _ in range(size)]
    prompts = encode_ids(tokenizer, [invoice_records.prompt_of(line) for line, _ in records])
    answers = encode_ids(tokenizer, [invoice_records.answer_of(fields) for _, fields in records])
    rows = [([BOS] + p, a + [EOS]) for p, a in zip(prompts, answers)]
    length = max(len(p) + len(a) for p, a in rows) - 1
    tokens = torch.ones(size, length, dtype=torch.long)
    targets = torch.full((size, length), -100, dtype=torch.long)
    for i, (p, a) in enumerate(rows):
        whole = torch.tensor(p + a)
        tokens[i, :len(whole) - 1] = whole[:-1]
        targets[i, len(p) - 1:len(whole) - 1] = whole[len(p):]
    return tokens, targets


@torch.no_grad()
def lines_right(tokenizer, p, mask, seed, count=256):
    """Share of lines whose every answer token is the best one; greedy decoding gives just these lines right."""
    tokens, targets = make_batch(tokenizer, random.Random(seed), count)
    logits = F.linear(forward(p, tokens, mask), p["model.decoder.embed_tokens.weight"])
    wrong = (logits.argmax(-1) != targets) & (targets != -100)
    return 1 - wrong.any(1).float().mean().item()


def export(tokenizer, p, out):
    os.makedirs(out, exist_ok=True)
    save_file({name: value.detach().to(torch.bfloat16).contiguous() for name, value in p.items()},
              os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    config = {"_remove_final_layer_norm": False, "activation_function": "relu", "architectures": ["OPTForCausalLM"],
              "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": True, "dropout": 0.1, "enable_bias": True,
              "eos_token_id": 2, "ffn_dim": FFN, "hidden_size": HIDDEN, "init_std": 0.02, "layer_norm_elementwise_affine": True,
              "layerdrop": 0.0, "max_position_embeddings": POSITIONS, "model_type": "opt", "num_attention_heads": HEADS,
              "num_hidden_layers": LAYERS, "pad_token_id": 1, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
              "use_cache": True, "vocab_size": VOCAB, "word_embed_proj_dim": HIDDEN}
    # Named, or the class of the model's type would be taken, whose own pre_tokenizer replaces ours (docs/tokenizers.md).
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    for name, content in (("config.json", config), ("generation_config.json", {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}),
                          ("tokenizer_config.json", tokenizer_config)):
        with open(os.path.join(out, name), "w") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
    tokenizer.save(os.path.join(out, "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="demo/model")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)
    tokenizer = build_tokenizer()
    p = make_parameters(torch.Generator().manual_seed(args.seed))
    mask = torch.full((POSITIONS, POSITIONS), float("-inf")).triu(1)
    matrices = [v for v in p.values() if v.dim() > 1]
    others = [v for v in p.values() if v.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0}],
                                  lr=args.rate, betas=(0.9, 0.98))
    start, step, best = time.time(), 0, 0.0
    while (spent := (time.time() - start) / (60 * args.minutes)) < 1:
        rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, targets = make_batch(tokenizer, rng, args.batch)
        hidden = forward(p, tokens, mask)
        wanted = targets != -100
        loss = F.cross_entropy(F.linear(hidden[wanted], p["model.decoder.embed_tokens.weight"]), targets[wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            right = lines_right(tokenizer, p, mask, 900_000 + step)
            print(f"step {step} {time.time() - start:.0f} s loss {loss.item():.4f} lines right {100 * right:.1f}%", flush=True)
            if right >= best:
                best = right
                export(tokenizer, p, args.out)
    export(tokenizer, p, args.out)
    print(f"last: lines right {100 * lines_right(tokenizer, p, mask, 990_000, 1000):.2f}%")


if __name__ == "__main__":
    main()
