#!/usr/bin/env python3
"""Compares tokenizers with PyPI transformers 5: makes folders whose files say things in many ways, and asks both for ids and texts.

    python3 tools/compare_tokenizers.py --out DIR [--count 300] [--texts 60] [--seed 1]
    FLEXGEN_TOKENIZER_FOLDERS=DIR build/release/src/text_test --gtest_filter='*FoldersFromOutside'

Each folder of DIR is one of the fixtures with fields of its configuration set, or pieces moved from one file to another. Its cases.json
holds what transformers made of it, or the error that it ended with. The test fails where flexgen loads the folder and gives anything
else; a folder that flexgen refuses is counted. Needs PyPI transformers 5, sentencepiece and protobuf, and no torch. --pieces: folders with
SentencePiece's tokenizer.model alone.
"""
import argparse
import copy
import json
import os
import random
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_tokenizer_fixtures import PIECES, pieces, random_text  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.set_verbosity_error()
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures", "tokenizers")
CLASSES = ["PreTrainedTokenizerFast", "PreTrainedTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast",
           "LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GPTNeoXTokenizerFast", "CohereTokenizerFast", "CodeGenTokenizer",
           "CodeLlamaTokenizer", "Qwen3_5Tokenizer", "NoSuchTokenizer", "TokenizersBackend", None]
PIECE_CLASSES = ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer", None]
TYPES = ["llama", "mistral", "qwen2", "qwen3", "opt"]
CONTENTS = ["<|im_start|>", "<|im_end|>", "<extra>", "the", "he", " x", "<|end|>", "</s>", "hello", "1", "[MASK]", "é", "<s>"]


def flags(rng, content):
    special = rng.random() < 0.6
    return {"content": content, "lstrip": rng.random() < 0.2, "rstrip": rng.random() < 0.2, "single_word": rng.random() < 0.2,
            "normalized": rng.random() < 0.4, "special": special}


def token_value(rng, content):
    """A token as tokenizer_config.json may give it."""
    kind = rng.random()
    if kind < 0.6:
        return content
    value = flags(rng, content)
    if kind < 0.8:
        del value["special"]
    return {"__type": "AddedToken", **value}


def mutate(rng, tokenizer, model=None):
    """Returns {file name: content} for one folder. `model`: a tokenizer.model instead of the tokenizer's own files."""
    tokenizer = copy.deepcopy(tokenizer)
    config, extra_files = {}, {}
    name = rng.choice(PIECE_CLASSES if model else CLASSES)
    if name:
        config["tokenizer_class"] = name
    size = max([*tokenizer["model"]["vocab"].values()] + [token["id"] for token in tokenizer["added_tokens"]]) + 1
    fresh = rng.sample(CONTENTS, rng.randint(0, 4))
    if rng.random() < 0.5:
        decoder = {}
        for token in tokenizer["added_tokens"]:
            if rng.random() < 0.8:
                decoder[str(token["id"])] = {key: value for key, value in token.items() if key != "id"}
        for content in fresh:
            decoder[str(size + rng.randint(0, 3) if rng.random() < 0.2 else size)] = flags(rng, content)
            size += 1
        config["added_tokens_decoder"] = decoder
    elif rng.random() < 0.5:
        extra_files["added_tokens.json"] = {content: size + i for i, content in enumerate(fresh)}
    for key in ["bos_token", "eos_token", "unk_token", "pad_token"]:
        if rng.random() < 0.35:
            config[key] = None if rng.random() < 0.2 else token_value(rng, rng.choice(CONTENTS))
    if rng.random() < 0.2:
        config[rng.choice(["additional_special_tokens", "extra_special_tokens"])] = [token_value(rng, c) for c in rng.sample(CONTENTS, 2)]
    if rng.random() < 0.1:
        config["image_token"] = rng.choice(CONTENTS)
    if rng.random() < 0.2:
        values = {}
        for key in ["bos_token", "eos_token", "pad_token"]:
            if rng.random() < 0.6:
                value = token_value(rng, rng.choice(CONTENTS))
                if isinstance(value, dict):
                    value.pop("__type")
                values[key] = value
        if rng.random() < 0.4:
            values["additional_special_tokens"] = rng.sample(CONTENTS, 2)
        extra_files["special_tokens_map.json"] = values
    for key in ["add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "split_special_tokens", "clean_up_tokenization_spaces"]:
        if rng.random() < 0.2:
            config[key] = rng.random() < 0.5
    if rng.random() < 0.1:
        tokenizer["post_processor"] = None
    if rng.random() < 0.1:
        tokenizer["added_tokens"] = tokenizer["added_tokens"][:1]
    if rng.random() < 0.1:
        tokenizer["added_tokens"].append({"id": size + 7, **flags(rng, rng.choice(CONTENTS))})
    files = {"tokenizer_config.json": config, "config.json": {"model_type": rng.choice(TYPES)}, **extra_files}
    without_config = rng.random() < 0.1
    parts = rng.random() < 0.3 and not model
    opt = files["config.json"]["model_type"] == "opt" and tokenizer["model"]["vocab"].get("</s>") == 2
    if without_config and not (parts and opt):  # flexgen takes that for OPT's own, see docs/tokenizers.md
        del files["tokenizer_config.json"]
    if model:
        files["tokenizer.model"] = model
    elif parts:
        files["vocab.json"] = tokenizer["model"]["vocab"]
        files["merges.txt"] = "#version: 0.2\n" + "".join(" ".join(merge) + "\n" for merge in tokenizer["model"]["merges"])
    else:
        files["tokenizer.json"] = tokenizer
    return files


def texts_for(rng, count):
    result = ["", " ", "Hello world", "It's 12345 a", "<|im_start|>user hi<|im_end|>", "<s> </s>hello hello<extra>the he", "  x  <extra>  y"]
    while len(result) < count:
        text = random_text(rng)
        if rng.random() < 0.4:
            for _ in range(rng.randint(1, 3)):
                at = rng.randint(0, len(text))
                text = text[:at] + rng.choice(CONTENTS) + text[at:]
        result.append(text)
    return result


def write_folder(folder, files):
    os.makedirs(folder)
    for name, content in files.items():
        if isinstance(content, bytes):
            with open(os.path.join(folder, name), "wb") as out:
                out.write(content)
            continue
        with open(os.path.join(folder, name), "w") as out:
            out.write(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))


def expected(folder, files, texts):
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        cases = []
        # transformers shows a special token whose normalized form is another; flexgen leaves it out, see docs/tokenizers.md
        special = {token["content"] for token in files.get("tokenizer.json", {}).get("added_tokens", []) if token["special"]}
        shown = tokenizer.backend_tokenizer.normalizer is not None and any(
            token.normalized and (token.special or token.content in special) for token in tokenizer.added_tokens_decoder.values())
        for text in texts:
            ids = tokenizer(text).input_ids
            cases.append({"text": text, "ids": ids, "decoded": None if shown else tokenizer.decode(ids, skip_special_tokens=True),
                          "plain": tokenizer(text, add_special_tokens=False).input_ids})
        return {"class": type(tokenizer).__name__, "cases": cases}
    except BaseException as error:  # noqa: BLE001 (a Rust panic is no Exception)
        return {"error": f"{type(error).__name__}: {str(error)[:200]}", "cases": []}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pieces", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    fixtures = []
    for name in ["gpt2-like", "llama3-like", "qwen2-like", "sentencepiece-like"]:
        with open(os.path.join(ROOT, name, "tokenizer.json")) as file:
            fixtures.append(json.load(file))
    models = []
    if args.pieces:
        others = [{"add_dummy_prefix": False}, {"normalization_rule_name": "nmt_nfkc"}, {"model_type": "unigram", "vocab_size": 400}, {"remove_extra_whitespaces": True},
                  {"treat_whitespace_as_suffix": True}, {"byte_fallback": False, "vocab_size": 220}, {"unk_id": 5, "bos_id": -1, "eos_id": 0, "unk_piece": "<other>"}]
        models = [pieces(**options) for options in [*PIECES.values(), *others]]
        fixtures = [{"model": {"vocab": {f"t{i}": i for i in range(480)}}, "added_tokens": [
            {"id": i, "content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True} for i, content in enumerate(["<unk>", "<s>", "</s>"])]}]
    shutil.rmtree(args.out, ignore_errors=True)
    errors = 0
    for i in range(args.count):
        folder = os.path.join(args.out, f"{i:05}")
        files = mutate(rng, rng.choice(fixtures), rng.choice(models) if models else None)
        write_folder(folder, files)
        result = expected(folder, files, texts_for(rng, args.texts))
        errors += "error" in result
        with open(os.path.join(folder, "cases.json"), "w") as out:
            json.dump(result, out, ensure_ascii=False)
    print(f"{args.count} folders; transformers refuses {errors}")


if __name__ == "__main__":
    main()
