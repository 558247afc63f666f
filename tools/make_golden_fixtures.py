#!/usr/bin/env python3
"""Makes the golden fixtures of src/model: tiny random checkpoints and what Hugging Face transformers computes with them.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install torch transformers==5.24.0 safetensors numpy accelerate
    /tmp/golden/bin/python tools/make_golden_fixtures.py [--trained DIR] [NAME ...]

Writes tests/fixtures/models/NAME/: the checkpoint, golden.json (prompts; greedy continuations with the margin between
the two largest logits of each step) and golden.bin (float32 logits [sum of prompt lengths, vocab], prompt after prompt). Everything is
computed in float32 on the CPU from the stored weights. `--trained DIR` also records the greedy continuation
of a trained checkpoint (tests/fixtures/models/tinystories-656k/golden.json; the checkpoint itself is not copied).
"""
import argparse
import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, OPTConfig, Qwen2Config,
                          Qwen3Config)

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "models"
PROMPT_LENGTHS = (37, 11, 1)
CONTINUATION = 8

# Wavelengths of the tied model: 6.3 (kept), 32 (blended), 167 and more (slowed down).
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
SMALL = dict(num_hidden_layers=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)

# name -> config, dtype of the stored weights, save_pretrained() options.
# Vocabularies of 96 make one head chunk; those above, two and more.
MODELS = {
    "opt": (OPTConfig(vocab_size=96, hidden_size=32, num_attention_heads=4, ffn_dim=96, word_embed_proj_dim=32,
                      activation_function="relu", do_layer_norm_before=True, **SMALL), torch.float16, {}),
    "opt-post-norm": (OPTConfig(vocab_size=96, hidden_size=48, num_attention_heads=3, ffn_dim=96, word_embed_proj_dim=32,
                                activation_function="relu", do_layer_norm_before=False, **SMALL), torch.float32, {}),
    "llama": (LlamaConfig(vocab_size=448, hidden_size=32, num_attention_heads=4, num_key_value_heads=4,
                          intermediate_size=88, rms_norm_eps=1e-5, **SMALL), torch.float32, {}),
    "llama3-tied": (LlamaConfig(vocab_size=320, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                                intermediate_size=96, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE,
                                tie_word_embeddings=True, **SMALL), torch.bfloat16, {}),
    "llama-biases": (LlamaConfig(vocab_size=96, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                                 intermediate_size=64, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh",
                                 rope_scaling={"rope_type": "linear", "factor": 2.0}, **SMALL), torch.float16, {}),
    "mistral": (MistralConfig(vocab_size=96, hidden_size=48, num_attention_heads=6, num_key_value_heads=2,
                              intermediate_size=80, sliding_window=9, **SMALL), torch.bfloat16, {"max_shard_size": "60KB"}),
    "qwen2": (Qwen2Config(vocab_size=96, hidden_size=48, num_attention_heads=3, num_key_value_heads=1,
                          intermediate_size=96, rope_theta=1e6, tie_word_embeddings=True, **SMALL), torch.bfloat16, {}),
    "qwen3": (Qwen3Config(vocab_size=96, hidden_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                          intermediate_size=72, rope_theta=1e6, **SMALL), torch.bfloat16, {}),
}


def other(model_type, **fields):
    """A config of another family, with sizes that all of them share."""
    sizes = dict(vocab_size=96, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, **SMALL)
    return AutoConfig.for_model(model_type, **{**sizes, **fields})


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 20.0, "beta_fast": 1.0, "beta_slow": 0.25}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 4.0, 8.0, 16.0]}

# Each shows a rule that those before it do not. Windows are narrower than the first prompt, caps low enough to bend what they cap.
MODELS |= {
    "gemma": (other("gemma", head_dim=16, num_key_value_heads=1), torch.bfloat16, {}),
    "gemma2": (other("gemma2", num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=24, sliding_window=9, attn_logit_softcapping=2.0,
                     final_logit_softcapping=9.0), torch.bfloat16, {}),
    "gemma3": (other("gemma3_text", num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=24, sliding_window=9,
                     layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                     rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}), torch.bfloat16, {}),
    "phi3": (other("phi3", original_max_position_embeddings=48, rope_scaling=LONGROPE, sliding_window=20, eos_token_id=2), torch.bfloat16, {}),
    "phi3-partial": (other("phi3", hidden_size=64, partial_rotary_factor=0.5), torch.bfloat16, {}),
    "olmo2": (other("olmo2"), torch.float32, {}),
    "olmo3": (other("olmo3", num_hidden_layers=3, hidden_size=64, sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                    rope_parameters={"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}), torch.bfloat16, {}),
    "granite": (other("granite", embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=3.0), torch.bfloat16, {}),
    "smollm3": (other("smollm3", num_hidden_layers=3, tie_word_embeddings=False, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=9), torch.bfloat16, {}),
    "glm": (other("glm", head_dim=16), torch.bfloat16, {}),
    "glm4": (other("glm4", head_dim=16), torch.bfloat16, {}),
    "starcoder2": (other("starcoder2", sliding_window=20), torch.bfloat16, {}),
    "stablelm": (other("stablelm", use_qkv_bias=True, partial_rotary_factor=0.5), torch.bfloat16, {}),
    "stablelm-parallel": (other("stablelm", use_parallel_residual=True, num_key_value_heads=4), torch.float32, {}),
    "cohere": (other("cohere", logit_scale=0.3), torch.bfloat16, {}),
    "cohere2": (other("cohere2", num_hidden_layers=3, logit_scale=0.3, sliding_window=9,
                      layer_types=["sliding_attention", "full_attention", "sliding_attention"]), torch.bfloat16, {}),
    "gpt_neox": (other("gpt_neox", num_key_value_heads=None, rotary_pct=0.5), torch.float16, {}),
    "gpt_neox-sequential": (other("gpt_neox", num_key_value_heads=None, use_parallel_residual=False, attention_bias=False), torch.float32, {}),
    "seed_oss": (other("seed_oss", head_dim=16), torch.bfloat16, {}),
    "exaone4": (other("exaone4", num_hidden_layers=3, sliding_window=9, sliding_window_pattern=2), torch.bfloat16, {}),
    "ernie4_5": (other("ernie4_5", head_dim=16, use_bias=True), torch.bfloat16, {}),
    "hunyuan_dense": (other("hunyuan_v1_dense", head_dim=16, rope_parameters={"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0}),
                      torch.bfloat16, {}),
    "nemotron": (other("nemotron", mlp_bias=True), torch.bfloat16, {}),
    "arcee": (other("arcee", mlp_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 1000.0}), torch.bfloat16, {}),
    "helium": (other("helium", head_dim=8, attention_bias=True), torch.bfloat16, {}),
    "phi": (other("phi"), torch.float16, {}),
    "gptj": (AutoConfig.for_model("gptj", vocab_size=448, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, n_inner=48, bos_token_id=1, eos_token_id=2),
             torch.float16, {}),
    "bloom": (AutoConfig.for_model("bloom", vocab_size=96, hidden_size=48, n_layer=2, n_head=6, bos_token_id=1, eos_token_id=2), torch.bfloat16, {}),
    "falcon": (AutoConfig.for_model("falcon", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, bos_token_id=1, eos_token_id=2),
               torch.bfloat16, {}),
    "falcon-groups": (AutoConfig.for_model("falcon", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True,
                                           bias=True, max_position_embeddings=64, bos_token_id=1, eos_token_id=2), torch.bfloat16, {}),
    "falcon-one-norm": (AutoConfig.for_model("falcon", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True,
                                             num_ln_in_parallel_attn=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False), torch.bfloat16, {}),
    "falcon-sequential": (AutoConfig.for_model("falcon", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, multi_query=False, parallel_attn=False,
                                               max_position_embeddings=64, bos_token_id=1, eos_token_id=2), torch.float32, {}),
    "mpt": (AutoConfig.for_model("mpt", vocab_size=96, d_model=48, n_layers=2, n_heads=6, max_seq_len=64, bos_token_id=1, eos_token_id=2), torch.bfloat16, {}),
    "ministral": (other("ministral", num_hidden_layers=3, head_dim=16, sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
                  torch.bfloat16, {}),
    "ministral3": (other("ministral3", head_dim=16, rope_parameters={**YARN, "original_max_position_embeddings": 48, "mscale": 1.0, "mscale_all_dim": 1.0,
                                                                     "llama_4_scaling_beta": 0.1}), torch.bfloat16, {}),
    "gpt2": (AutoConfig.for_model("gpt2", vocab_size=448, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48, bos_token_id=1, eos_token_id=2), torch.bfloat16, {}),
    "gpt2-scales": (AutoConfig.for_model("gpt2", vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2, activation_function="gelu",
                                         scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False), torch.float32, {}),
}

# Mixtures of experts, with blocks that are none among them where a family has these.
SOME_EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=24)
MODELS |= {
    "qwen3_moe": (other("qwen3_moe", num_hidden_layers=3, head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True, mlp_only_layers=[1]),
                  torch.bfloat16, {}),
    "mixtral": (other("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=20), torch.bfloat16, {}),
    "olmoe": (other("olmoe", num_experts=8, num_experts_per_tok=2), torch.bfloat16, {}),
    "qwen2_moe": (other("qwen2_moe", num_experts=6, shared_expert_intermediate_size=40, decoder_sparse_step=2, **SOME_EXPERTS), torch.bfloat16, {}),
    "glm4_moe": (other("glm4_moe", num_hidden_layers=3, head_dim=16, n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=2.5, use_qk_norm=True,
                       attention_bias=True, num_mtp_layers=0, **SOME_EXPERTS), torch.bfloat16, {}),
    "glm4_moe-groups": (other("glm4_moe", num_hidden_layers=2, head_dim=16, n_routed_experts=12, n_shared_experts=1, first_k_dense_replace=0, n_group=4, topk_group=2,
                              num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True), torch.bfloat16, {}),
    "minimax_m2": (other("minimax_m2", head_dim=16, intermediate_size=24, num_local_experts=8, num_experts_per_tok=2, rotary_dim=8), torch.bfloat16, {}),
    "dots1": (other("dots1", num_hidden_layers=3, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.5, **SOME_EXPERTS),
              torch.bfloat16, {}),
    "ernie4_5_moe": (other("ernie4_5_moe", num_hidden_layers=3, tie_word_embeddings=False, moe_num_experts=6, moe_k=2, moe_intermediate_size=24, moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=1), torch.bfloat16, {}),
    "gpt_oss": (other("gpt_oss", num_hidden_layers=3, head_dim=16, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2, sliding_window=9, swiglu_alpha=1.3, swiglu_limit=0.8,
                      rope_parameters={**YARN, "truncate": False}), torch.bfloat16, {}),
    "granitemoe": (other("granitemoe", intermediate_size=24, num_local_experts=6, num_experts_per_tok=2, embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4,
                         logits_scaling=3.0), torch.bfloat16, {}),
    "granitemoeshared": (other("granitemoeshared", intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=40, residual_multiplier=0.4), torch.bfloat16, {}),
    "phimoe": (other("phimoe", intermediate_size=24, num_local_experts=5, num_experts_per_tok=2, router_jitter_noise=0.4, attention_bias=True, lm_head_bias=True, sliding_window=20,
                     rope_parameters={**LONGROPE, "rope_type": "longrope", "original_max_position_embeddings": 48, "short_mscale": 1.2, "long_mscale": 1.3}), torch.bfloat16, {}),
    "hunyuan_moe": (other("hunyuan_v1_moe", head_dim=16, intermediate_size=24, num_experts=6, moe_topk=2,
                          rope_parameters={"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0}), torch.bfloat16, {}),
}

# gpt-oss as it is shipped: experts in MXFP4, all else in 16 bits. Rows of whole blocks of 32.
MODELS["quantized-gpt_oss"] = (other("gpt_oss", vocab_size=208, max_position_embeddings=256, hidden_size=64, head_dim=16, intermediate_size=32,
                                     num_local_experts=5, num_experts_per_tok=2, sliding_window=9,
                                     rope_parameters={**YARN, "truncate": False}), torch.bfloat16, {})

# Heads of 16 and of 32; layers without a window have one for keys, which are their values too.
GEMMA4 = dict(num_hidden_layers=3, head_dim=16, global_head_dim=32, num_global_key_value_heads=1, attention_k_eq_v=True, hidden_size_per_layer_input=0, sliding_window=9,
              final_logit_softcapping=9.0, layer_types=["full_attention", "sliding_attention", "full_attention"])
MODELS["gemma4"] = (other("gemma4_text", attention_bias=True, **GEMMA4), torch.bfloat16, {})
MODELS["gemma4-experts"] = (other("gemma4_text", enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=24, **GEMMA4), torch.bfloat16, {})

# As 12B is shipped: the text model in an object of its own, its tensors behind a prefix, and beside them what takes images and sounds.
MODELS["gemma4_unified"] = (AutoConfig.for_model(
    "gemma4_unified", text_config=other("gemma4_unified_text", **{**GEMMA4, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0}).to_dict(),
    vision_config=dict(patch_size=2, pooling_kernel_size=1, mm_embed_dim=8, mm_posemb_size=4, output_proj_dims=8), audio_config=dict(audio_embed_dim=4), bos_token_id=1, eos_token_id=2),
    torch.bfloat16, {})

# Limits of q, k and v that about two in five of their elements exceed.
MODELS |= {
    "olmo": (other("olmo", clip_qkv=0.9), torch.bfloat16, {}),
    "olmoe-clip": (other("olmoe", num_experts=4, num_experts_per_tok=2, intermediate_size=24, clip_qkv=0.9), torch.bfloat16, {}),
    "mpt-clip": (AutoConfig.for_model("mpt", vocab_size=96, d_model=32, n_layers=2, n_heads=4, max_seq_len=64, bos_token_id=1, eos_token_id=2,
                                      attn_config={"clip_qkv": 0.9}), torch.bfloat16, {}),
}


def to_mxfp4(weights):
    """[E, in, out] as *_blocks [E, out, in / 32, 16] and *_scales [E, out, in / 32] (OCP Microscaling: codes e2m1, the lower half of a byte first; scales e8m0)."""
    groups = weights.transpose(1, 2).float().unflatten(2, (-1, 32))
    exponents = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30).log2().floor() - 2
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = (groups.abs()[..., None] / exponents.exp2()[..., None] - values).abs().argmin(-1) + 8 * (groups < 0)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8), (exponents[..., 0] + 127).to(torch.uint8)


def from_mxfp4(blocks, scales):
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
    return (values[codes] * (scales.float() - 127).exp2()[..., None]).flatten(2).transpose(1, 2)


def is_packed(name):
    return name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def save_in_mxfp4(model, directory):
    """As gpt-oss is shipped. What the experts' weights are is then what transformers makes of them when it loads the folder."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if is_packed(name):
            tensors[name + "_blocks"], tensors[name + "_scales"] = to_mxfp4(tensor)
        else:
            tensors[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def least_choice(model, prompts):
    """How clear the closest choice of an expert is: the score of the last one taken less that of the first one left, over the scores' deviation."""
    gaps = []

    def look(module, inputs, output):
        logits = output[0].float()
        bias = next((b for m in (module, getattr(module, "moe_statics", None)) if m is not None
                     for b in [getattr(m, "e_score_correction_bias", None)] if b is not None), inputs[1] if len(inputs) > 1 else None)
        sigmoid = model.config.model_type in ("glm4_moe", "dots1", "minimax_m2")
        if model.config.model_type == "gemma4_text":  # whose routers give probabilities
            logits = logits.log()
        scores = logits.sigmoid() if sigmoid else logits.softmax(-1) if bias is not None else logits
        scores = scores + (bias if bias is not None else 0)
        if getattr(model.config, "n_group", 1) > 1:  # a row's experts are of its best groups
            groups = scores.unflatten(-1, (model.config.n_group, -1))
            sums = groups.topk(2).values.sum(-1)
            best = sums.topk(model.config.topk_group + 1)
            gaps.append(((best.values[..., -2] - best.values[..., -1]) / sums.std()).min().item())
            closed = torch.ones_like(sums, dtype=torch.bool).scatter(-1, best.indices[..., :-1], False)
            scores = groups.masked_fill(closed[..., None], -1e9).flatten(-2)
        top = scores.topk(output[2].shape[-1] + 1).values
        gaps.append(((top[..., -2] - top[..., -1]) / scores[scores > -1e8].std()).min().item())
        if model.config.model_type == "phimoe":  # which of the two is the first counts, and a little which scores count as near them
            gaps.append(((top[..., 0] - top[..., 1]) / scores.std()).min().item())
            for largest in (top[..., :1], top[..., 1:2]):
                distance = (largest - scores) / scores.abs().clamp(min=largest)
                gaps.append(10 * (distance - 2 * model.config.router_jitter_noise).abs().min().item())

    hooks = [m.register_forward_hook(look) for m in model.modules() if type(m).__name__.lower().endswith(("router", "moev1gate"))]
    for prompt in prompts:
        model(torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return min(gaps)


def randomize(model, generator):
    """Weights large enough that every part of the model moves the logits; no norm or bias keeps its neutral value."""
    with torch.no_grad():
        less_one = model.config.model_type in ("gemma", "gemma2", "gemma3_text", "nemotron")  # norms' weights are stored so
        for name, parameter in model.named_parameters():
            if parameter.dim() == 3:  # the experts of a block: [E, out, in], of gpt-oss [E, in, out]
                fan_in = parameter.shape[1 if model.config.model_type == "gpt_oss" else 2]
                parameter.normal_(0.0, 1.2 / fan_in**0.5, generator=generator)
            elif name.endswith("sinks"):
                parameter.normal_(0.0, 2.0, generator=generator)
            elif parameter.dim() == 2 and name.endswith(("gate.weight", "router.weight", "gate.wg.weight", "router.proj.weight")):  # a router, whose choices are clear
                fan_in = 1 if "router.proj" in name else parameter.shape[1]  # of which Gemma 4 takes the root itself
                parameter.normal_(0.0, 4 / fan_in**0.5, generator=generator)
            elif parameter.dim() == 2 and not name.endswith("bias"):
                is_positions = "embed_positions" in name or "wpe" in name
                is_table = "embed" in name and "embed_out" not in name or "wte" in name or is_positions
                is_turned = model.config.model_type == "gpt2" and name.startswith("transformer.h.")  # Conv1D: [in, out]
                fan_in = 1 if is_table else parameter.shape[0 if is_turned else 1]
                scale = 0.5 if is_positions else 1.2
                parameter.normal_(0.0, scale / fan_in**0.5, generator=generator)
                if is_table and not is_positions and model.config.tie_word_embeddings:
                    parameter.mul_(3 / parameter.shape[1]**0.5)
            elif name.endswith(("router.scale", "per_expert_scale")):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif ("norm" in name or "ln_" in name) and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator).sub_(1.0 if less_one else 0.0)
            else:
                parameter.normal_(0.0, 0.3, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.3, generator=generator)
            elif name.endswith("layer_scalar"):
                buffer.uniform_(0.5, 1.5, generator=generator)


def greedy(model, prompt, count):
    """The continuation token by token without a cache: [tokens], [margins]."""
    tokens, margins = list(prompt), []
    for _ in range(count):
        logits = model(torch.tensor([tokens])).logits[0, -1]
        top = torch.topk(logits, 2)
        tokens.append(int(top.indices[0]))
        margins.append(round(float(top.values[0] - top.values[1]), 6))
    return tokens[len(prompt):], margins


def load_float32(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def write_json(path, value):
    lines = (f" {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def random_prompts(config, generator):
    return [torch.randint(3, config.get_text_config().vocab_size, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]


def clearest_seed(name, config, dtype, seed):
    """Of some seeds the one whose choices of experts rounding to 16 bits is least likely to change."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()

    def clearness(candidate):
        generator = torch.Generator().manual_seed(candidate)
        randomize(model, generator)
        with torch.no_grad():
            for tensor in (*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("bias"))):
                tensor.copy_(tensor.to(dtype))
            if name == "quantized-gpt_oss":
                for parameter_name, parameter in model.named_parameters():
                    if is_packed(parameter_name):
                        parameter.copy_(from_mxfp4(*to_mxfp4(parameter)))
            prompts = random_prompts(config, generator)
            if config.model_type == "phimoe":  # a choice weighs more there than elsewhere: those on the way of an answer too
                prompts = [prompt + greedy(model, prompt, CONTINUATION)[0] for prompt in prompts]
        return least_choice(model, prompts)

    return max(range(seed, seed + 100_000, 1000), key=clearness)


def make(name, seed):
    config, dtype, options = MODELS[name]
    if any(config.to_dict().get(field) for field in ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts")):
        seed = clearest_seed(name, config, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    directory = FIXTURES / name
    shutil.rmtree(directory, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, generator)
    model.to(dtype).save_pretrained(directory, **options)
    if name == "quantized-gpt_oss":
        save_in_mxfp4(model, directory)

    model = load_float32(directory)
    prompts = random_prompts(config, generator)
    logits = torch.cat([model(torch.tensor([prompt])).logits[0] for prompt in prompts])
    logits.numpy().astype("<f4").tofile(directory / "golden.bin")
    continuations = [greedy(model, prompt, CONTINUATION) for prompt in prompts]
    write_json(directory / "golden.json", {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, seed {seed}",
        "prompts": prompts, "continuations": [c[0] for c in continuations], "margins": [c[1] for c in continuations]})
    print(f"{name}: logits std {logits.std():.2f}, margins {min(min(c[1]) for c in continuations):.3f} and more, "
          f"{sum(f.stat().st_size for f in directory.iterdir())} bytes")


def record_trained(directory, count):
    # Not from_pretrained(): it leaves tied embeddings without data where only lm_head.weight is stored.
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32,
                                             attn_implementation="eager").eval()
    left = model.load_state_dict(load_file(f"{directory}/model.safetensors"), strict=False)
    assert not left.unexpected_keys and left.missing_keys in ([], ["model.embed_tokens.weight"]), left
    prompt = [model.config.bos_token_id]
    tokens, margins = greedy(model, prompt, count)
    out = FIXTURES / pathlib.Path(directory).resolve().name
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "golden.json", {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
                                     "prompts": [prompt], "continuations": [tokens], "margins": [margins]})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"out of {', '.join(MODELS)}; default: all")
    parser.add_argument("--trained", help="a checkpoint directory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for number, name in enumerate(MODELS):
            if not arguments.names or name in arguments.names:
                make(name, 1000 + number)
        if arguments.trained:
            record_trained(arguments.trained, 64)
