#!/usr/bin/env python3
"""Makes the tokenizer fixtures in tests/fixtures/tokenizers and tests/fixtures/tokenizer_folders.json, and larger sets of cases for a
check on the spot.

    python3 tools/make_tokenizer_fixtures.py                                    # the committed fixtures
    python3 tools/make_tokenizer_fixtures.py --folders                          # tokenizer_folders.json alone
    python3 tools/make_tokenizer_fixtures.py --check DIR --count 10000 --out cases.json
    FLEXGEN_TOKENIZER_DIR=DIR FLEXGEN_TOKENIZER_CASES=cases.json build/release/src/text_test --gtest_filter='*FromOutside'

Needs PyPI `tokenizers`, the oracle, and for tokenizer_folders.json `transformers` 5 (no torch), `sentencepiece` and `protobuf`. tools/compare_tokenizers.py makes many more
folders and compares them on the spot.
"""
import argparse
import base64
import io
import json
import os
import random
import shutil
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# gpt-oss's and MiniMax's: words are cut by case too.
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXT = """It's a truth we'll know: they've said you're late, I'd say. The quick brown fox jumps over the lazy dog 1234567890 times!
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Le cœur déçu mais l'âme plutôt naïve.
В чащах юга жил бы цитрус? Да, но фальшивый экземпляр! 我能吞下玻璃而不伤身体。 いろはにほへと 한국어 Ξεσκεπάζω τὴν
def main(argc, argv):\n\treturn {"key": [1, 2.5, None]}  # comment\r\n    x += 1;\n\n\nprint('done')  😀👩‍👩‍👧 ﷺ ½ Ⅷ"""

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "     ", "\n\r\t", ".,;:!?'\"()[]{}<>-_=+*/\\|@#$%^&~`",
    "äöüßéèêñçåøÆŒ", "ΑΩαωίςЖжЯяЩ", "中文字符漢日本語テスト", "한국어", "العربيةשלום", "हिन्दीไทย", "\u0301\u0308\u0327\u200d\ufe0f\u00a0\u3000\u2003\u200b\u0085",
    "😀🦙👩‍👧🇩🇪", "½²Ⅷ٣५", "\x00\x01\x1f\x7f", "ﬁﷺＡｂ１"]
PHRASES = ["'s", "'LL", "don't", " the", "  ", "\n\n", "\r\n", "1234", " I'm", "<|end|>", "</s>", "<s>", "[MASK]", "hello", "Hello world", "é", "e\u0301", "▁", "Ġ"]


def random_text(rng):
    parts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 13])):
        if rng.random() < 0.3:
            parts.append(rng.choice(PHRASES))
        elif rng.random() < 0.05:
            parts.append(chr(rng.choice([rng.randint(0x20, 0xD7FF), rng.randint(0xE000, 0xFFFD), rng.randint(0x10000, 0x10FFFF)])))
        else:
            alphabet = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 6))))
    return "".join(parts)


def cases(tokenizer, rng, count):
    result = []
    while len(result) < count:
        text = random_text(rng)
        ids = tokenizer.encode(text).ids
        result.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    return result


def byte_level(pattern, normalizer=None, ignore_merges=False, bos=True):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                           pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_tokens([AddedToken("[MASK]", lstrip=True, normalized=False), AddedToken("hello", single_word=True)])
    if bos:
        template = processors.TemplateProcessing(single="<|end|> $A", pair="$A $B", special_tokens=[("<|end|>", 0)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def sentencepiece_like():
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, limit_alphabet=120, show_progress=False)
    tokenizer.train_from_iterator([line for line in TEXT.replace(" ", "▁").split("\n")] * 3, trainer)
    # The byte tokens were specials for the trainer only.
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram_like():
    """As llm-jp and others that come from SentencePiece's unigram: bytes for what no piece covers."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([line for line in TEXT.split("\n")] * 3, trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    known = {piece for piece, _ in vocab}
    vocab = vocab[:3] + [(f"<0x{byte:02X}>", -1.0) for byte in range(256)] + vocab[3:] + [("  ", -5.0), ("▁▁▁▁", -4.5), ("<unk>x", -3.0)]
    assert "▁" in known
    tokenizer.model = models.Unigram([tuple(piece) for piece in vocab], unk_id=0, byte_fallback=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False, right=True)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram_words():
    """No bytes: characters that no piece covers are one unknown token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Metaspace(prepend_scheme="always")])
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([TEXT[:400]] * 3, trainer)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_level(cut):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip(left=True, right=False)])
    tokenizer.pre_tokenizer = cut
    tokenizer.train_from_iterator([TEXT.lower()] * 2 + [" ".join("abcdefghijklmnopqrstuvwxyz0123456789中äж.,!?")], trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"], show_progress=False))
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def pieces(**options):
    """A tokenizer.model of PyPI sentencepiece, trained on TEXT."""
    import sentencepiece
    model = io.BytesIO()
    rules = options.pop("rules", None)
    if rules:
        with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as out:
            out.write("".join(f"{before}\t{after}\n" for before, after in rules))
        options["normalization_rule_tsv"] = out.name
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in TEXT.split("\n") if line] * 3), model_writer=model, minloglevel=2,
        **{"vocab_size": 480, "model_type": "bpe", "byte_fallback": True, "character_coverage": 0.98, "normalization_rule_name": "identity",
           "remove_extra_whitespaces": False, "split_digits": True, "user_defined_symbols": ["<sep>", "[/x]"], "control_symbols": ["<ctrl>"], **options})
    return model.getvalue()


# What the smallest table of characters replaces: one by two, a cluster by one, a cluster of which only the first character is known, one by nothing.
RULES = [("FB01", "66 69"), ("65 301", "E9"), ("D", "20"), ("200B", ""), ("FF21", "41"), ("3000", "20"), ("9", "20")]
# The models of SentencePiece that folders are made with, in tests/fixtures/pieces.
PIECES = {"llama": {}, "gemma": {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>", "add_dummy_prefix": False},
          "no-bytes": {"byte_fallback": False, "vocab_size": 200, "user_defined_symbols": [], "control_symbols": []},
          "unigram": {"model_type": "unigram", "vocab_size": 430, "rules": RULES, "remove_extra_whitespaces": True},
          "unigram-no-bytes": {"model_type": "unigram", "vocab_size": 170, "byte_fallback": False, "add_dummy_prefix": False, "user_defined_symbols": [], "control_symbols": []}}


def tekken():
    """A small tekken.json, as Mistral writes them."""
    tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in ["he", "ll", "hell", " w", "hello", "or", " wor", "ld", " world", "ö", "12", "<s>", "ord"]]
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    pattern = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
               r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    return {"config": {"pattern": pattern, "num_vocab_tokens": len(tokens), "default_vocab_size": len(tokens) + 7, "default_num_special_tokens": 8, "version": "v3"},
            "vocab": [{"rank": rank, "token_bytes": base64.b64encode(text).decode(), "token_str": None} for rank, text in enumerate(tokens)],
            "special_tokens": [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(specials)]}


def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True, **flags}


IM = {"422": token("<|im_start|>"), "423": token("<|im_end|>")}
END = {"bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>", "pad_token": "<|end|>"}
# name, base fixture, "whole" (tokenizer.json) or "parts" (vocab.json, merges.txt), merge patch for tokenizer.json, the other files
PADDING = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "<extra>"}
FOLDERS = [
    ("added_tokens_decoder", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": IM}}),
    ("added_tokens_decoder with flags", "llama3-like", "whole", {}, {"tokenizer_config.json": {"added_tokens_decoder": {
        "422": token("<|im_start|>", lstrip=True), "423": token("<extra>", rstrip=True), "424": token("he", single_word=True, special=False),
        "425": token("Wörd", normalized=True, special=False)}}}),
    ("added_tokens_decoder changes flags", "llama3-like", "whole", {}, {"tokenizer_config.json": {"added_tokens_decoder": {"420": token("[MASK]")}}}),
    ("ids of the decoder don't count", "llama3-like", "whole", {}, {"tokenizer_config.json": {"added_tokens_decoder": {"430": token("<|im_start|>"), "500": token("<|im_end|>")}}}),
    ("ids of tokenizer.json don't count", "llama3-like", "whole", {"added_tokens": [{"id": 500, **token("<|im_start|>")}]}, {}),
    ("added_tokens.json", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}, "added_tokens.json": {"<|im_start|>": 422, "<|im_end|>": 423}}),
    ("added_tokens.json, special by name", "llama3-like", "whole", {}, {"tokenizer_config.json": {"eos_token": "<|im_end|>"}, "added_tokens.json": {"<|im_start|>": 422, "<|im_end|>": 423}}),
    ("added_tokens.json, not special by a name with flags", "llama3-like", "whole", {}, {"tokenizer_config.json": {
        "pad_token": {"__type": "AddedToken", **token("he", lstrip=True)}}, "added_tokens.json": {"he": 422, "<|im_start|>": 423}}),
    ("special_tokens_map.json", "llama3-like", "whole", {}, {"special_tokens_map.json": {
        "eos_token": {"content": "<|im_end|>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False},
        "additional_special_tokens": ["<|im_start|>"]}}),
    ("special_tokens_map.json beside a decoder", "llama3-like", "whole", {}, {"tokenizer_config.json": {"added_tokens_decoder": {}}, "special_tokens_map.json": {"eos_token": "<|im_end|>"}}),
    ("additional_special_tokens", "llama3-like", "whole", {}, {"tokenizer_config.json": {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}}),
    ("extra_special_tokens", "llama3-like", "whole", {}, {"tokenizer_config.json": {"extra_special_tokens": {"start": "<|im_start|>"}}}),
    ("image_token", "llama3-like", "whole", {}, {"tokenizer_config.json": {"image_token": "<|im_start|>"}}),
    ("bos_token: null", "llama3-like", "whole", {}, {"tokenizer_config.json": {"bos_token": None, "eos_token": "<|end|>"}}),
    ("add_bos_token against the template", "llama3-like", "whole", {}, {"tokenizer_config.json": {"bos_token": "<|end|>", "add_bos_token": False}}),
    ("add_bos_token without a template", "qwen2-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", **END, "add_bos_token": True}}),
    ("split_special_tokens", "llama3-like", "whole", {}, {"tokenizer_config.json": {"split_special_tokens": True}}),
    ("clean_up_tokenization_spaces", "llama3-like", "whole", {}, {"tokenizer_config.json": {"clean_up_tokenization_spaces": True}}),
    ("ignore_merges off", "llama3-like", "whole", {"model": {"ignore_merges": False}}, {}),
    ("a merge twice", "llama3-like", "whole", {"model": {"merges": [["h", "e"], ["e", "r"], ["h", "e"]], "ignore_merges": False}}, {}),
    ("a cut at empty matches", "llama3-like", "whole", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?=\\d)"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}}, {}),
    ("Qwen2 parts", "qwen2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"420": token("<|im_start|>")}}}),
    ("Qwen2 parts by config.json", "qwen2-like", "parts", {}, {"config.json": {"model_type": "qwen2"}}),
    ("GPT-2 parts", "qwen2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", **END, "add_bos_token": True}}),
    ("GPT-2 parts with a prefix space", "gpt2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}}),
    ("CodeGen parts", "gpt2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "CodeGenTokenizer", **END}, "added_tokens.json": {"  ": 420, "   ": 421}}),
    ("GPT-NeoX parts", "gpt2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizer", **END, "add_bos_token": True, "add_eos_token": True}}),
    ("GPT-NeoX drops the template", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizerFast", **END}}),
    ("Cohere parts", "gpt2-like", "parts", {}, {"tokenizer_config.json": {"tokenizer_class": "CohereTokenizerFast"}}),
    ("a Qwen2 class over other steps", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "Qwen2TokenizerFast", **END}}),
    ("a GPT-2 class over other steps", "qwen2-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast", **END}}),
    ("a wrong class of qwen2", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast"}, "config.json": {"model_type": "qwen2"}}),
    ("a Llama class with ByteLevel", "llama3-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast"}}),
    ("Qwen3.5", "qwen2-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "Qwen3_5Tokenizer", **END}}),
    ("Llama", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast"}}),
    ("Llama, legacy", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "legacy": True, "added_tokens_decoder": {"480": token("<extra>")}}}),
    ("Llama without a prefix space", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}}),
    ("Llama names of Mistral", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}, "config.json": {"model_type": "mistral"}}),
    ("a normalized token is read in its normalized form", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {}, "config.json": {"model_type": "mistral"},
                                                                                           "added_tokens.json": {"he": 480, "x ": 481}}),
    ("one new token by two names", "llama3-like", "whole", {}, {"tokenizer_config.json": {
        "bos_token": {"__type": "AddedToken", **token("<|im_start|>", single_word=True)}, "eos_token": "<|im_start|>"}}),
    ("unigram pieces", "unigram", "pieces", {}, {"config.json": {"model_type": "mistral"}, "tokenizer_config.json": {"add_bos_token": True}}),
    ("unigram pieces with other tokens", "unigram", "pieces", {}, {"config.json": {"model_type": "mistral"}, "tokenizer_config.json": {"added_tokens_decoder": {
        "0": token("<unk>"), "1": token("<s>"), "2": token("</s>"), "5": token("<extra>", normalized=True)}}}),
    ("unigram pieces without bytes", "unigram-no-bytes", "pieces", {}, {"config.json": {"model_type": "mistral"}}),
    ("unigram pieces under a Llama class", "unigram-no-bytes", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}),
    ("Llama pieces", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}}),
    ("Llama pieces, legacy", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_bos_token": True, "add_eos_token": True}}),
    ("Llama pieces alone", "llama", "pieces", {}, {}),
    ("Llama pieces with other tokens", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "added_tokens_decoder": {
        "0": token("<unk>"), "1": token("<s>"), "2": token("</s>"), "480": token("<|im_start|>"), "481": token("<|im_end|>", special=False)}}}),
    ("Llama pieces with added_tokens.json", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}, "added_tokens.json": {"<|im_start|>": 480},
                                                                   "special_tokens_map.json": {"additional_special_tokens": ["<|im_end|>"]}}),
    ("Llama pieces without bytes", "no-bytes", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}),
    ("Mistral pieces", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, "config.json": {"model_type": "mistral"}}),
    ("Mistral pieces alone", "llama", "pieces", {}, {"config.json": {"model_type": "mistral"}}),
    ("Mistral pieces without bytes", "no-bytes", "pieces", {}, {"config.json": {"model_type": "mistral"}}),
    ("pieces of the plain class", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}),
    ("Gemma pieces", "gemma", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}}),
    ("CodeLlama pieces", "llama", "pieces", {}, {"tokenizer_config.json": {"tokenizer_class": "CodeLlamaTokenizer"}}),
    ("tekken", "tekken", "tekken", {}, {"config.json": {"model_type": "mistral"}}),
    ("tekken with a template", "tekken", "tekken", {}, {"config.json": {"model_type": "mistral"}, "tokenizer_config.json": {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "added_tokens_decoder": {"300": token("<|im_start|>")}}}),
    ("a token of the model's own", "qwen2-like", "whole", {}, {"tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_specific_special_tokens": {"image_token": "<extra>"}, "extra_special_tokens": ["her"]}}),
    ("tokens of the model's own with flags", "qwen2-like", "whole", {}, {"tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "image_token": {"content": "say", "__type": "AddedToken"},
        "model_specific_special_tokens": {"image_token": {"content": "x", "lstrip": True, "rstrip": False, "normalized": False, "single_word": True, "__type": "AddedToken"}, "bos_token": "<extra>"}}}),
    ("tokens of the model's own beside a named one", "qwen2-like", "whole", {}, {"tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "audio_token": "<extra>", "model_specific_special_tokens": {"image_token": "her"}}}),
    ("tokens of the model's own beside extra ones", "qwen2-like", "whole", {}, {"tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"a": "<extra>"}, "model_specific_special_tokens": {"image_token": "her"}}}),
    ("tokens of the model's own beside those of an old map", "qwen2-like", "whole", {}, {"tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_specific_special_tokens": {"image_token": "her"}}, "special_tokens_map.json": {"audio_token": "hello"}}),
    ("a padding", "qwen2-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "her"}}),
    ("a padding beside no pad_token", "qwen2-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": None}}),
    ("a padding beside another pad_token", "qwen2-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "her"}}),
    ("a padding with a class without one", "gpt2-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}),
    ("a padding with a class that leaves it", "sentencepiece-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}),
    ("a padding with a class that has its own", "gpt2-like", "whole", {"padding": PADDING}, {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}),
    ("CodeLlama", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "CodeLlamaTokenizer"}}),
    ("Gemma", "sentencepiece-like", "whole", {}, {"tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer"}}),
]
FOLDER_TEXTS = ["<sep>a <ctrl> b[/x] c", "", " ", "Hello world", "It's 12345 a  b", "<|im_start|>user hi <|im_end|> you", "<s> hello</s> hello", "say Wörd <extra>  he x her", "x  [MASK] y",
                "  two  spaces\n\n 12", "def f(x):\n\treturn {1: 2}", "हिन्दी e\u0301 ﬁ 中文 😀", "<|end|>a<|end|>"]


def folders(root):
    """What transformers 5 makes of folders whose files say things in many ways."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer
    result = []
    for name, base, form, patch, files in FOLDERS:
        if form == "tekken":
            files = {**files, "tekken.json": tekken()}
        elif form != "pieces":
            with open(os.path.join(root, base, "tokenizer.json")) as file:
                tokenizer = merge_patch(json.load(file), patch)
        files = {"config.json": {"model_type": "llama"}, **files}
        with tempfile.TemporaryDirectory() as folder:
            texts = {key: json.dumps(value) for key, value in files.items()}
            if form == "pieces":
                shutil.copy(os.path.join(root, "..", "pieces", base + ".model"), os.path.join(folder, "tokenizer.model"))
            elif form == "tekken":
                pass
            elif form == "whole":
                texts["tokenizer.json"] = json.dumps(tokenizer)
            else:
                texts["vocab.json"] = json.dumps(tokenizer["model"]["vocab"])
                texts["merges.txt"] = "#version: 0.2\n" + "".join(" ".join(merge) + "\n" for merge in tokenizer["model"]["merges"])
            for key, text in texts.items():
                with open(os.path.join(folder, key), "w") as out:
                    out.write(text)
            oracle = AutoTokenizer.from_pretrained(folder)
            made = []
            for text in FOLDER_TEXTS:
                ids = oracle(text).input_ids
                made.append({"text": text, "ids": ids, "decoded": oracle.decode(ids, skip_special_tokens=True)})
        result.append({"name": name, "base": base, "form": form, "patch": patch, "files": files, "class": type(oracle).__name__, "cases": made})
    return result


def merge_patch(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", help="a directory with a tokenizer.json")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--folders", action="store_true", help="make tokenizer_folders.json alone")
    args = parser.parse_args()
    if args.check:
        tokenizer = Tokenizer.from_file(os.path.join(args.check, "tokenizer.json"))
        with open(args.out, "w") as out:
            json.dump(cases(tokenizer, random.Random(args.seed), args.count), out, ensure_ascii=False)
        return
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures", "tokenizers")
    for name, tokenizer in [] if args.folders else [("gpt2-like", byte_level(None, bos=False)), ("llama3-like", byte_level(LLAMA3, ignore_merges=True)),
                            ("qwen2-like", byte_level(QWEN2, normalizers.NFC(), bos=False)), ("o200k-like", byte_level(O200K, ignore_merges=True, bos=False)), ("sentencepiece-like", sentencepiece_like()), ("unigram-like", unigram_like()), ("unigram-words", unigram_words()),
                            ("word-level", word_level(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]))),
                            ("word-level-whitespace", word_level(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(True)])))]:
        folder = os.path.join(root, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "tokenizer.json"), "w") as out:
            json.dump(json.loads(tokenizer.to_str()), out, ensure_ascii=False)
        with open(os.path.join(folder, "cases.json"), "w") as out:
            out.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases(tokenizer, random.Random(name), 300)) + "\n]\n")
    os.makedirs(os.path.join(root, "..", "pieces"), exist_ok=True)
    for name, options in {} if args.folders else PIECES.items():
        with open(os.path.join(root, "..", "pieces", name + ".model"), "wb") as out:
            out.write(pieces(**options))
    with open(os.path.join(root, "..", "tokenizer_folders.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(folder, ensure_ascii=False) for folder in folders(root)) + "\n]\n")


if __name__ == "__main__":
    main()
