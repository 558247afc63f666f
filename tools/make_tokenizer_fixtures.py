#!/usr/bin/env python3
"""Makes the tokenizer fixtures in tests/fixtures/tokenizers, and larger sets of cases for a check on the spot.

    python3 tools/make_tokenizer_fixtures.py                                    # the committed fixtures
    python3 tools/make_tokenizer_fixtures.py --check DIR --count 10000 --out cases.json
    FLEXGEN_TOKENIZER_DIR=DIR FLEXGEN_TOKENIZER_CASES=cases.json build/release/src/text_test --gtest_filter='*FromOutside'

Needs PyPI `tokenizers`, the oracle.
"""
import argparse
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", help="a directory with a tokenizer.json")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.check:
        tokenizer = Tokenizer.from_file(os.path.join(args.check, "tokenizer.json"))
        with open(args.out, "w") as out:
            json.dump(cases(tokenizer, random.Random(args.seed), args.count), out, ensure_ascii=False)
        return
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures", "tokenizers")
    for name, tokenizer in [("gpt2-like", byte_level(None, bos=False)), ("llama3-like", byte_level(LLAMA3, ignore_merges=True)),
                            ("qwen2-like", byte_level(QWEN2, normalizers.NFC(), bos=False)), ("sentencepiece-like", sentencepiece_like())]:
        folder = os.path.join(root, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "tokenizer.json"), "w") as out:
            json.dump(json.loads(tokenizer.to_str()), out, ensure_ascii=False)
        with open(os.path.join(folder, "cases.json"), "w") as out:
            out.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases(tokenizer, random.Random(name), 300)) + "\n]\n")


if __name__ == "__main__":
    main()
