#!/usr/bin/env python3
"""Hostile checkpoints: mutated safetensors headers, shards, indexes, configs and tokenizers, and files that are no files. Whatever they hold, `flexgen inspect`,
`generate` and `run-batch` must end soon, in the memory that was promised, with an answer or a sentence; and never with another answer where the damage can be told.

Usage: torture_checkpoints.py FLEXGEN_BINARY SOURCE_DIR [--count N] [--seed N] [--only I [--keep DIR]]
A failure is repeated by --only with its number and the same --seed; --keep leaves the checkpoint there."""

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from torture_arguments import torture_arguments

TIMEOUT_S = 20                     # a run takes some 50 ms; a busy machine may take longer
BUDGET_MIB, MARGIN_MIB = 32, 150   # --cpu-memory, and what a process may take beside it
ADDRESS_SPACE = 8 << 30
BASES = ["llama", "opt", "qwen3", "llama3-tied", "mistral", "qwen2"]
PROMPT = "xqzAg"  # one token a letter, in the vocabulary of every fixture

# What a mutation may lead to: anything that is no crash; the clean answer or a refusal; a refusal.
ANY, SAME_OR_REFUSED, REFUSED = "any", "same or refused", "refused"

NUMBERS = [0, 1, 2, 3, 7, -1, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -2**31, -2**63, 10**30, 0.5, -0.5, 1e-300, 1e308, -1e308]
RAW = ["1e400", "-1e400", "NaN", "Infinity", "[" * 100000 + "]" * 100000, '{"a":' * 50000 + "1" + "}" * 50000, '"\\ud800"', '"\\u0000"', "01", "+1", ".5",
       "[" + "0," * 200000 + "0]", '"' + "x" * 300000 + '"', "9" * 5000]
VALUES = NUMBERS + [None, True, False, "", "x", "../x", "/etc/passwd", "true", "1", [], {}, [[]], [0], [-1], [None], ["x"], {"a": 1}, [2**40, 2**40], "a" * 1000, "\u2028"]
RAW_MARK = "@raw%d@"


def hostile(rng):
    return RAW_MARK % rng.randrange(len(RAW)) if rng.random() < 0.25 else rng.choice(VALUES)


def dumps(value):
    text = json.dumps(value)
    for number, raw in enumerate(RAW):
        text = text.replace('"' + RAW_MARK % number + '"', raw)
    return text


def places(value, path=()):
    """All paths in a JSON value, but for lists beyond their first and last items."""
    found = [path] if path else []
    if isinstance(value, dict):
        keys = list(value)
        for key in keys if len(keys) < 200 else keys[:20] + keys[-20:]:
            found += places(value[key], path + (key,))
    elif isinstance(value, list) and value:
        for index in sorted({0, len(value) // 2, len(value) - 1}):
            found += places(value[index], path + (index,))
    return found


def change_json(rng, value):
    """Returns the text of the value with something wrong in it."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        every = places(value)
        if not every:
            break
        # The outer fields as often as what lies below them.
        path = rng.choice([p for p in every if len(p) == 1] if rng.random() < 0.5 else every)
        parent = value
        for step in path[:-1]:
            parent = parent[step]
        what = rng.random()
        if what < 0.15:
            del parent[path[-1]]
        elif what < 0.25 and isinstance(parent, dict):
            parent[rng.choice(["x", "", "a" * 5000, path[-1] + " ", "\u0000"])] = parent[path[-1]]
        elif what < 0.35 and isinstance(parent, list):
            parent.extend([parent[path[-1]]] * rng.choice([1, 2, 1000]))
        elif what < 0.45:
            parent[path[-1]] = [parent[path[-1]]]
        else:
            parent[path[-1]] = hostile(rng)
    text = dumps(value)
    if rng.random() < 0.1 and text.startswith("{") and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        text = "{" + json.dumps(key) + ":" + dumps(hostile(rng)) + "," + text[1:]
    return text


def change_bytes(rng, data):
    """Damage that knows nothing of the format."""
    data = bytearray(data)
    what = rng.randrange(8)
    if what == 0:
        return bytes(data[:rng.randrange(len(data) + 1)])
    if what == 1:
        return b""
    if what == 2:
        return b"\xef\xbb\xbf" + bytes(data)
    if what == 3:
        return bytes(data) + rng.choice([b"\0", b"\n", b"{}", b"x" * 5000])
    if what == 4:
        return bytes(data).decode("latin1").encode("utf-16")
    if what == 5:
        return bytes(len(data))
    for _ in range(rng.choice([1, 1, 3, 50])):
        if data:
            at = rng.randrange(len(data))
            data[at] = data[at] ^ (1 << rng.randrange(8)) if what == 6 else rng.choice([0, 0xff, 0xc0, 0x22, 0x7b, 0x5b])
    return bytes(data)


class Checkpoint:
    """A folder to be spoilt: clean files are links."""

    def __init__(self, base, folder):
        self.folder = folder
        os.mkdir(folder)
        for name in os.listdir(base):
            os.link(os.path.join(base, name), os.path.join(folder, name))

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def remove(self, name):
        if os.path.lexists(self.path(name)):
            os.unlink(self.path(name))

    def write(self, name, data):
        self.remove(name)
        with open(self.path(name), "wb") as file:
            file.write(data.encode(errors="surrogatepass") if isinstance(data, str) else data)

    def shards(self):
        return sorted(name for name in os.listdir(self.folder) if name.endswith(".safetensors"))


def parse_safetensors(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def build_safetensors(header, body, length=None):
    text = (header if isinstance(header, str) else dumps(header)).encode(errors="surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length & (2**64 - 1)) + text + body


def spoil_header(rng, c):
    """Returns what it did, and what may come of it."""
    name = rng.choice(c.shards())
    header, body = parse_safetensors(c.read(name))
    tensors = [t for t in header if t != "__metadata__"]
    one, other = rng.choice(tensors), rng.choice(tensors)
    entry, length, expected = header[one], None, SAME_OR_REFUSED
    kind = rng.choice(["dtype", "shape", "offsets", "swap", "overlap", "hole", "rename", "missing", "duplicate", "length", "trailing", "metadata", "any", "entry", "cut"])
    if kind == "dtype":
        entry["dtype"], expected = rng.choice(["F32", "F16", "F64", "I8", "I64", "U8", "BOOL", "F8_E4M3", "bf16", "", "BF16 ", hostile(rng)]), ANY
    elif kind == "shape":
        entry["shape"] = rng.choice([hostile(rng), entry["shape"] + [1], entry["shape"] + [0], entry["shape"][:-1], [2**32, 2**32], [2**62, 4], [-s for s in entry["shape"]], [float(s) for s in entry["shape"]]])
    elif kind == "offsets":
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice([hostile(rng), [begin, end + 2**40], [end, begin], [begin, end + 1], [-begin - 1, end], [begin, 2**63], [2**64 - 2, 2**64 - 1], [begin, end, end], [float(begin), end], []])
    elif kind == "swap":  # the same sizes or not: names and bytes that no longer belong together cannot be told
        entry["data_offsets"], header[other]["data_offsets"], expected = header[other]["data_offsets"], entry["data_offsets"], ANY
    elif kind == "overlap":
        entry["data_offsets"], expected = header[other]["data_offsets"], ANY if other == one else REFUSED
    elif kind == "hole":
        body, expected = body + bytes(64), REFUSED
        for t in tensors:
            if header[t]["data_offsets"][0] >= entry["data_offsets"][0]:
                header[t]["data_offsets"] = [at + 64 for at in header[t]["data_offsets"]]
    elif kind == "rename":
        header[rng.choice([one + "x", one.upper(), "", "\u0000", "a" * 100000, "../" + one])] = header.pop(one)
    elif kind == "missing":
        del header[one]
    elif kind == "duplicate":
        text = dumps(header)
        c.write(name, build_safetensors("{" + json.dumps(one) + ":" + dumps(rng.choice([header[other], hostile(rng)])) + "," + text[1:], body))
        return f"{name}: '{one}' twice", SAME_OR_REFUSED
    elif kind == "length":
        size = len(dumps(header))
        length = rng.choice([0, 1, size - 1, size + 1, size + len(body), size + len(body) + 1, 2**31, 2**63, 2**64 - 1, 2**64 - 8, 100_000_001, -8])
        expected = REFUSED
    elif kind == "trailing":
        body, expected = body + bytes(rng.choice([1, 4096, 100000])), REFUSED
    elif kind == "metadata":
        header["__metadata__"] = rng.choice([hostile(rng), {"format": hostile(rng)}, {"x": "y" * 100000}])
    elif kind == "entry":
        header[one] = hostile(rng)
    elif kind == "cut":
        body, expected = body[:rng.randrange(len(body))], REFUSED
    else:
        c.write(name, build_safetensors(change_json(rng, header), body))
        return f"{name}: header", ANY
    c.write(name, build_safetensors(header, body, length))
    return f"{name}: {kind} of '{one[:40]}'", expected


def spoil_bytes(rng, c):
    name = rng.choice(c.shards() + ["config.json", "tokenizer.json", "generation_config.json"])
    c.write(name, change_bytes(rng, c.read(name)))
    return f"{name}: bytes", ANY


def spoil_weights(rng, c):
    name = rng.choice(c.shards())
    header, body = parse_safetensors(c.read(name))
    body = bytearray(body)
    value = rng.choice([b"\x80\x7f", b"\xc0\xff", b"\x7f\x7f", b"\xff\xff", b"\0\0"])
    for _ in range(rng.choice([1, 100, 20000])):
        at = rng.randrange(len(body) // 2) * 2
        body[at:at + 2] = value
    c.write(name, build_safetensors(header, bytes(body)))
    return f"{name}: values {value.hex()}", ANY


def spoil_index(rng, c):
    index_name = "model.safetensors.index.json"
    if not os.path.exists(c.path(index_name)):
        return None
    index = json.loads(c.read(index_name))
    weights = index["weight_map"]
    one, shards = rng.choice(list(weights)), c.shards()
    kind = rng.choice(["shard", "missing", "extra", "total", "any", "bytes", "map", "all"])
    expected = SAME_OR_REFUSED
    if kind == "shard":
        weights[one] = rng.choice(["../model.safetensors", "/etc/passwd", "/dev/zero", "", ".", "..", "config.json", index_name, "nowhere.safetensors", "a" * 5000, "a\u0000b",
                                   "./" + shards[0], rng.choice(shards), hostile(rng)])
    elif kind == "missing":
        del weights[one]
    elif kind == "extra":
        weights[rng.choice(["x", "", one + "x", "a" * 100000])] = rng.choice(shards)
    elif kind == "total":
        index["metadata"] = rng.choice([hostile(rng), {"total_size": hostile(rng)}])
    elif kind == "map":
        index["weight_map"] = hostile(rng)
    elif kind == "all":
        index["weight_map"] = {name: shards[0] for name in weights}
    c.write(index_name, change_json(rng, index) if kind == "any" else change_bytes(rng, dumps(index).encode()) if kind == "bytes" else dumps(index))
    return f"index: {kind}", ANY if kind in ("any", "bytes") else expected


def spoil_config(rng, c):
    name = rng.choice(["config.json"] * 4 + ["generation_config.json"])
    value = json.loads(c.read(name))
    if rng.random() < 0.6:
        numbers = [key for key in value if isinstance(value[key], (int, float)) and not isinstance(value[key], bool)]
        key = rng.choice(list(value) if rng.random() < 0.5 or not numbers else numbers)
        old = value[key]
        value[key] = rng.choice([hostile(rng), old * 2 if isinstance(old, (int, float)) else old, old + 1 if isinstance(old, (int, float)) else [old], [old], str(old)])
        c.write(name, dumps(value))
        return f"{name}: {key} = {dumps(value[key])[:40]}", ANY
    if rng.random() < 0.5:
        value[rng.choice(["rope_scaling", "quantization_config", "sliding_window", "layer_types", "head_dim", "num_key_value_heads", "rope_parameters", "eos_token_id", "bos_token_id", "attention_bias",
                          "tie_word_embeddings", "max_window_layers", "use_sliding_window", "text_config", "auto_map", "model_type", "rope_theta", "vocab_size", "unknown_field"])] = rng.choice(
            [hostile(rng), {"type": "linear", "factor": hostile(rng)}, {"rope_type": "llama3", "factor": hostile(rng), "low_freq_factor": 0, "high_freq_factor": 0, "original_max_position_embeddings": hostile(rng)},
             {"rope_type": "yarn", "factor": hostile(rng)}, {"rope_type": hostile(rng)}])
        c.write(name, dumps(value))
        return f"{name}: added", ANY
    c.write(name, change_json(rng, value))
    return f"{name}: fields", ANY


def spoil_tokenizer(rng, c):
    if rng.random() < 0.3:
        name = rng.choice(["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model"])
        base = {"add_bos_token": True, "bos_token": "<s>", "added_tokens_decoder": {"0": {"content": "<s>", "special": True}}, "tokenizer_class": "PreTrainedTokenizerFast", "<x>": 3}
        c.write(name, change_json(rng, base) if rng.random() < 0.8 else change_bytes(rng, dumps(base).encode()))
        if rng.random() < 0.2:
            c.remove("tokenizer.json")
        return f"{name}: made", ANY
    value = json.loads(c.read("tokenizer.json"))
    if rng.random() < 0.3:
        part = rng.choice(["normalizer", "pre_tokenizer", "post_processor", "decoder"])
        value[part] = rng.choice([
            hostile(rng), {"type": "Sequence", "normalizers": [{"type": "NFC"}] * rng.choice([1, 1000])}, {"type": "Replace", "pattern": {"String": "e"}, "content": "ee" * rng.choice([1, 100, 100000])},
            {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"}, {"type": "Prepend", "prepend": "x" * rng.choice([1, 1000, 1000000])},
            {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * rng.choice([2, 60])},
            {"type": "Split", "pattern": {"Regex": rng.choice(["(x+x+)+y", "[", "(?<=a+)b", "\\p{Q}", "", ".{0,100000}"])}, "behavior": "Isolated", "invert": False},
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}] * rng.choice([1, 100000]) + [{"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [hostile(rng)], "tokens": ["</s>"]}}},
            {"type": hostile(rng)}, {"type": "ByteLevel", "add_prefix_space": hostile(rng)}])
        c.write("tokenizer.json", dumps(value))
        return f"tokenizer.json: {part} {dumps(value[part])[:60]}", ANY
    if rng.random() < 0.3:
        vocabulary, merges = value["model"].get("vocab"), value["model"].get("merges")
        word = rng.choice(list(vocabulary)) if isinstance(vocabulary, dict) else "x"
        if rng.random() < 0.5 and isinstance(vocabulary, dict):
            vocabulary[word] = rng.choice([hostile(rng), 2**31, -1, 10**9])
        elif merges:
            merges[rng.randrange(len(merges))] = rng.choice([hostile(rng), "a", "a b c", "", " ", ["a"], ["nowhere", "neither"], "\u0000 \u0000"])
        c.write("tokenizer.json", dumps(value))
        return f"tokenizer.json: vocabulary '{word[:20]}'", ANY
    c.write("tokenizer.json", change_json(rng, value))
    return "tokenizer.json: fields", ANY


def spoil_file(rng, c):
    """Something else than a file."""
    names = c.shards() + [name for name in ("config.json", "tokenizer.json", "generation_config.json", "model.safetensors.index.json") if os.path.exists(c.path(name))]
    name = rng.choice(names + ["generation_config.json", "tokenizer_config.json"])
    path = c.path(name)
    c.remove(name)
    kind = rng.choice(["fifo", "folder", "loop", "dangling", "zero", "null", "missing", "empty", "huge", "unreadable", "tty", "proc"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "loop":
        os.symlink(name, path)
    elif kind == "empty":
        c.write(name, b"")
    elif kind == "huge":  # and sparse
        with open(path, "wb") as file:
            file.truncate(rng.choice([17 << 20, 1 << 33, 1 << 42]))
    elif kind == "unreadable":
        c.write(name, b"{}")
        os.chmod(path, 0)
    elif kind != "missing":
        os.symlink({"dangling": "nowhere", "zero": "/dev/zero", "null": "/dev/null", "tty": "/dev/tty", "proc": "/proc/self/mem"}[kind], path)
    if name.endswith("index.json") and kind == "missing":  # shards that are named as shards are, all of them there, are a checkpoint without an index
        return f"{name}: {kind}", SAME_OR_REFUSED
    weights = name.endswith(".safetensors") or name.endswith("index.json") or name == "config.json"
    return f"{name}: {kind}", REFUSED if weights else ANY


SPOILERS = [(spoil_header, 10), (spoil_bytes, 3), (spoil_weights, 1), (spoil_index, 5), (spoil_config, 7), (spoil_tokenizer, 6), (spoil_file, 4)]


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    os.setsid()


class Torture:
    def __init__(self, options, work):
        self.options, self.work = options, work
        self.binary = shutil.copy(options.binary, work)
        self.input = os.path.join(work, "in.jsonl")
        with open(self.input, "w") as file:
            for number, prompt in enumerate([PROMPT, [5, 6, 7]]):
                file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt, "max_tokens": 4, "temperature": 0}}) + "\n")
        self.bases = []
        for name in BASES:
            for shards in (1, 2):
                self.bases.append(self.make_base(name, shards))
        self.failures, self.codes, self.slowest_s, self.largest_mib, self.runs = [], {}, 0, 0, 0

    def make_base(self, name, shards):
        folder = os.path.join(self.work, f"{name}-{shards}")
        fixtures = os.path.join(self.options.source, "tests/fixtures")
        shutil.copytree(os.path.join(fixtures, "models", name), folder)
        shutil.copy(os.path.join(fixtures, "tokenizers/gpt2-like/tokenizer.json"), folder)
        for extra in ("golden.bin", "golden.json"):
            if os.path.exists(os.path.join(folder, extra)):
                os.unlink(os.path.join(folder, extra))
        if not os.path.exists(os.path.join(folder, "generation_config.json")):
            with open(os.path.join(folder, "generation_config.json"), "w") as file:
                file.write('{"eos_token_id": 2}')
        if shards > 1 and os.path.exists(os.path.join(folder, "model.safetensors")):  # one fixture has shards already
            path = os.path.join(folder, "model.safetensors")
            with open(path, "rb") as file:
                header, body = parse_safetensors(file.read())
            header.pop("__metadata__", None)
            names, weight_map = sorted(header), {}
            for number in range(shards):
                part, data = {}, b""
                for tensor in names[number::shards]:
                    begin, end = header[tensor]["data_offsets"]
                    part[tensor] = dict(header[tensor], data_offsets=[len(data), len(data) + end - begin])
                    data += body[begin:end]
                    weight_map[tensor] = f"model-{number}.safetensors"
                with open(os.path.join(folder, f"model-{number}.safetensors"), "wb") as file:
                    file.write(build_safetensors(part, data))
            os.unlink(path)
            with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
                json.dump({"metadata": {"total_size": len(body)}, "weight_map": weight_map}, file)
        return folder

    def run(self, command):
        """(exit code or None, stdout, stderr, MiB)"""
        begin = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.work, preexec_fn=limit)
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - begin > TIMEOUT_S:
                    os.killpg(process.pid, signal.SIGKILL)
                    os.wait4(process.pid, 0)
                    process.returncode = -9
                    return None, "", "", 0
                time.sleep(0.002)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            self.runs += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
            self.largest_mib = max(self.largest_mib, usage.ru_maxrss / 1024)
            return process.returncode, out.read(1 << 20).decode(errors="replace"), err.read(1 << 20).decode(errors="replace"), usage.ru_maxrss / 1024

    def commands(self, folder):
        common = ["-m", folder, "--cpu-memory", f"{BUDGET_MIB}MiB", "--hardware", "generic", "--planner", "first-rule", "--threads", "1", "--compute-dtype", "f32"]
        output = os.path.join(self.work, "out.jsonl")
        for path in (output, output + ".job"):
            if os.path.exists(path):
                os.unlink(path)
        return {"inspect": [self.binary, "inspect", folder], "generate": [self.binary, "generate", *common, "--max-tokens", "4", PROMPT],
                "run-batch": [self.binary, "run-batch", *common, "-i", self.input, "-o", output]}

    def answer(self, name, stdout):
        if name == "inspect":
            return ""  # shapes may be told of weights whose bytes nobody looked at
        if name == "generate":
            return stdout
        with open(os.path.join(self.work, "out.jsonl")) as file:
            records = [json.loads(line) for line in file]
        return sorted((r["custom_id"], json.dumps(r["response"]["body"]["choices"] if r["response"] else r["error"]["code"])) for r in records)

    def clean_answers(self):
        self.clean = {}
        for base in self.bases:
            for name, command in self.commands(base).items():
                code, out, err, mib = self.run(command)
                if code != 0:
                    sys.exit(f"{base}: {name} of the clean checkpoint ended with {code}: {err}")
                self.clean[base, name] = self.answer(name, out)

    def judge(self, base, name, expected, result):
        code, out, err, mib = result
        if code is None:
            return f"hangs for {TIMEOUT_S} s"
        self.codes[code] = self.codes.get(code, 0) + 1
        if code < 0:
            return f"died of {signal.Signals(-code).name}: {err[-300:]}"
        if code not in (0, 1):
            return f"exit code {code}: {err[-300:]}"
        if code == 1 and not err.strip():
            return "failed without a word"
        if "is a bug" in err or "bug in flexgen" in err:
            return f"calls it a bug: {err[-300:]}"
        if code == 1 and any(word in err for word in ("bad_alloc", "basic_string", "vector::", "json.exception", "std::", "stoi", "filesystem error")):
            return f"tells of its inside: {err[-300:]}"
        if mib > BUDGET_MIB + MARGIN_MIB:
            return f"took {mib:.0f} MiB"
        if code == 0 and expected == REFUSED and name != "inspect":
            return "was not refused"
        if code == 0 and expected == SAME_OR_REFUSED and self.answer(name, out) != self.clean[base, name]:
            return "gave another answer without a word"
        return None

    def one(self, number):
        rng = random.Random(f"{self.options.seed}-{number}")
        base = rng.choice(self.bases)
        folder = self.options.keep or os.path.join(self.work, "spoilt")
        what = None
        while what is None:
            shutil.rmtree(folder, ignore_errors=True)
            checkpoint = Checkpoint(base, folder)
            spoiler = rng.choices([s for s, _ in SPOILERS], [w for _, w in SPOILERS])[0]
            what = spoiler(rng, checkpoint)
        text, expected = what
        if "unreadable" in text and os.getuid() == 0:
            expected = ANY
        for name in ("inspect", rng.choice(["generate", "run-batch"])):
            command = self.commands(folder)[name]
            wrong = self.judge(base, name, expected, self.run(command))
            if wrong:
                self.failures.append(number)
                print(f"FAILURE {number}: {os.path.basename(base)}, {text} ({expected}): {name} {wrong}\n  again: --seed {self.options.seed} --only {number} --keep DIR", flush=True)
            elif self.options.only is not None:
                print(f"{number}: {os.path.basename(base)}, {text} ({expected}): {name} is as it should be")
        if not self.options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def main():
    options = torture_arguments(3000)
    options.binary = os.path.abspath(options.binary)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flexgen_checkpoints_") as work:
        torture = Torture(options, work)
        torture.clean_answers()
        for number in [options.only] if options.only is not None else range(options.count):
            torture.one(number)
            if (number + 1) % 100 == 0:
                print(f"{number + 1} of {options.count}, {len(torture.failures)} failures, {time.monotonic() - begin:.0f} s", flush=True)
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(torture.codes.items()))
    print(f"checkpoints: {options.count if options.only is None else 1} mutated (seed {options.seed}), {torture.runs} runs ({codes}), {len(torture.failures)} failures; the slowest took {torture.slowest_s:.1f} s, "
          f"the largest {torture.largest_mib:.0f} MiB; {time.monotonic() - begin:.0f} s in all")
    sys.exit(1 if torture.failures else 0)


if __name__ == "__main__":
    main()
