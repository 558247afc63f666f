"""A checkpoint that says what a test wants: at each position its likeliest token is the one of a script, whatever stood before. An OPT without attention or feed-forward part, whose learned position
picks a row of the head. Its tokenizer has printable ASCII, a character a token, and the marks that are given. Standard library alone."""
import array
import json
import os
import struct

HIDDEN = 384  # and positions
CHARACTERS = [chr(c) for c in range(0x20, 0x7F)]
OFFSET = 2  # of OPT's positions


class ScriptedModel:
    """`marks`: special tokens, those of `ends` among them. `scripts`: (prompt, what comes behind it) as texts; their places must not overlap. What no script says is dots."""

    def __init__(self, folder, marks, ends, scripts):
        self.marks = marks
        self.vocab = {text: number for number, text in enumerate(CHARACTERS + marks)}
        said = {}
        for prompt, answer in scripts:
            at = len(self.tokens(prompt))
            for number, token in enumerate(self.tokens(answer)):
                assert at + number < HIDDEN and at + number not in said, "scripts overlap, or leave no room"
                said[at + number] = token
        os.makedirs(folder)
        self._write_tokenizer(folder)
        self._write_weights(os.path.join(folder, "model.safetensors"), said)
        config = {"model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HIDDEN // 64, "ffn_dim": 64, "vocab_size": len(self.vocab),
                  "max_position_embeddings": HIDDEN, "word_embed_proj_dim": HIDDEN, "do_layer_norm_before": True, "activation_function": "relu", "tie_word_embeddings": False, "torch_dtype": "float32",
                  "eos_token_id": self.vocab[ends[0]], "bos_token_id": self.vocab[ends[0]]}
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config, file)
        with open(os.path.join(folder, "generation_config.json"), "w") as file:
            json.dump({"eos_token_id": [self.vocab[end] for end in ends]}, file)

    def tokens(self, text):
        ids = []
        while text:
            piece = next((mark for mark in self.marks if text.startswith(mark)), text[0])
            ids.append(self.vocab[piece])
            text = text[len(piece):]
        return ids

    def _write_tokenizer(self, folder):
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        added = [{"id": self.vocab[mark], "content": mark, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False} for mark in self.marks]
        vocab = {"\u0120" if text == " " else text: number for text, number in self.vocab.items()}  # a blank in the alphabet of bytes
        with open(os.path.join(folder, "tokenizer.json"), "w") as file:
            json.dump({"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
                       "model": {"type": "BPE", "vocab": vocab, "merges": []}}, file)

    def _write_weights(self, path, said):
        size, tensors = len(self.vocab), {}

        def tensor(name, shape, value=0.0):
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            tensors[name] = (shape, array.array("f", [value]) * count)
            return tensors[name][1]

        for norm in ("layers.0.self_attn_layer_norm", "layers.0.final_layer_norm", "final_layer_norm"):
            tensor(f"model.decoder.{norm}.weight", [HIDDEN], 1.0)
            tensor(f"model.decoder.{norm}.bias", [HIDDEN])
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensor(f"model.decoder.layers.0.self_attn.{name}.weight", [HIDDEN, HIDDEN])
            tensor(f"model.decoder.layers.0.self_attn.{name}.bias", [HIDDEN])
        for name, rows, columns in (("fc1", 64, HIDDEN), ("fc2", HIDDEN, 64)):
            tensor(f"model.decoder.layers.0.{name}.weight", [rows, columns])
            tensor(f"model.decoder.layers.0.{name}.bias", [rows])
        tensor("model.decoder.embed_tokens.weight", [size, HIDDEN])
        positions = tensor("model.decoder.embed_positions.weight", [HIDDEN + OFFSET, HIDDEN])
        head = tensor("lm_head.weight", [size, HIDDEN])
        for at in range(HIDDEN):
            positions[(at + OFFSET) * HIDDEN + at] = 1.0
            head[said.get(at + 1, self.vocab["."]) * HIDDEN + at] = 1.0
        header, at = {}, 0
        for name, (shape, values) in tensors.items():
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
            at += 4 * len(values)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, values in tensors.values():
                values.tofile(file)
