#pragma once
// ModelConfig: config.json as the rest of flexgen needs it. Pure data; parsing refuses what it does not
// know, by name.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/kernels.h"

namespace flexgen {

struct ModelConfig {
  std::string model_type;  ///< "opt", "llama", "mistral", "qwen2", "qwen3"
  // Sizes that every family has. Products of any two fit 2^48.
  int64_t num_layers = 0, hidden_size = 0, num_heads = 0, num_kv_heads = 0, head_size = 0, ffn_size = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  ///< tokens that a sequence may have
  bool tied_embeddings = false;
  float norm_epsilon = 1e-5f;
  Activation activation = Activation::kSilu;
  DType dtype = DType::kBF16;  ///< what config.json says of the weights (the files decide)
  bool gated_ffn = false;  ///< down(act(gate x) * up x) instead of fc2(act(fc1 x))
  // OPT
  int64_t embed_size = 0;  ///< word_embed_proj_dim; = hidden_size in all others, and in OPT but for opt-350m
  bool post_norm = false;  ///< do_layer_norm_before = false
  bool final_norm = true;
  // Llama family
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;             ///< Qwen3
  int64_t sliding_window = 0;       ///< tokens that a token sees, itself included; 0: all
  std::vector<float> inverse_frequencies;  ///< RoPE [H/2], scaling applied; empty: learned positions
  float rope_scale = 1.0f;
  // Not the checkpoint's but the user's:
  bool rotate_keys = false;       ///< keys are kept rotated by a Hadamard matrix, and queries too
  double attention_sparsity = 1;  ///< the share of positions whose values a generated token uses
  // generation_config.json / config.json
  std::optional<int32_t> bos;
  std::vector<int32_t> eos;  ///< any of these ends a sequence
};

/// Reads config.json (and generation_config.json if there; what is wrong with that one is warned of). Throws Error{user} naming the file and the
/// field: unknown model_type, unsupported or contradictory fields, numbers that are missing, NaN or absurd.
/// `ignored_fields`: fields of config.json that flexgen does not know and the user takes for harmless.
ModelConfig load_config(const std::string& directory, const std::vector<std::string>& ignored_fields = {});
/// The same from JSON texts; `generation_json` may be empty.
ModelConfig parse_config(const std::string& config_json, const std::string& generation_json,
                         const std::string& source_name, const std::vector<std::string>& ignored_fields = {});
/// The config.json text of a known shape: opt-125m ... opt-175b, llama-2-7b/13b/70b, llama-3.1-8b/70b/405b,
/// llama-3.2-1b/3b, mistral-7b (v0.3), qwen2.5-0.5b ... 72b, qwen3-0.6b ... 32b, smollm2-135m. Null if the name is unknown.
std::optional<std::string> shape_config_json(const std::string& shape);
std::vector<std::string> known_shapes();

}  // namespace flexgen
