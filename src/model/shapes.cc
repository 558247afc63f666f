// The shapes that can be asked for by name, without a checkpoint.

#include <nlohmann/json.hpp>

#include "model/config.h"

namespace flexgen {
namespace {

// clang-format off
enum class Family { kOpt, kLlama2, kLlama31, kLlama32, kMistral, kQwen25, kQwen3, kSmolLm2, kGemma2, kGemma3, kPhi4, kMixtral, kQwen3Moe, kGptOss, kGlm4Moe, kMiniMaxM2, kGemma4, kGemma4Unified };
// clang-format on

struct Shape {
  const char* name;
  Family family;
  int64_t layers, hidden, heads, kv_heads, head_size, ffn, vocab, positions;
  bool tied;
  int64_t experts = 0, experts_per_row = 0, expert_size = 0;
};

constexpr Shape kShapes[] = {
    {"opt-125m", Family::kOpt, 12, 768, 12, 12, 64, 3072, 50272, 2048, true},
    {"opt-350m", Family::kOpt, 24, 1024, 16, 16, 64, 4096, 50272, 2048, true},
    {"opt-1.3b", Family::kOpt, 24, 2048, 32, 32, 64, 8192, 50272, 2048, true},
    {"opt-2.7b", Family::kOpt, 32, 2560, 32, 32, 80, 10240, 50272, 2048, true},
    {"opt-6.7b", Family::kOpt, 32, 4096, 32, 32, 128, 16384, 50272, 2048, true},
    {"opt-13b", Family::kOpt, 40, 5120, 40, 40, 128, 20480, 50272, 2048, true},
    {"opt-30b", Family::kOpt, 48, 7168, 56, 56, 128, 28672, 50272, 2048, true},
    {"opt-66b", Family::kOpt, 64, 9216, 72, 72, 128, 36864, 50272, 2048, true},
    {"opt-175b", Family::kOpt, 96, 12288, 96, 96, 128, 49152, 50272, 2048, true},
    {"llama-2-7b", Family::kLlama2, 32, 4096, 32, 32, 128, 11008, 32000, 4096, false},
    {"llama-2-13b", Family::kLlama2, 40, 5120, 40, 40, 128, 13824, 32000, 4096, false},
    {"llama-2-70b", Family::kLlama2, 80, 8192, 64, 8, 128, 28672, 32000, 4096, false},
    {"llama-3.1-8b", Family::kLlama31, 32, 4096, 32, 8, 128, 14336, 128256, 131072, false},
    {"llama-3.1-70b", Family::kLlama31, 80, 8192, 64, 8, 128, 28672, 128256, 131072, false},
    {"llama-3.1-405b", Family::kLlama31, 126, 16384, 128, 8, 128, 53248, 128256, 131072, false},
    {"llama-3.2-1b", Family::kLlama32, 16, 2048, 32, 8, 64, 8192, 128256, 131072, true},
    {"llama-3.2-3b", Family::kLlama32, 28, 3072, 24, 8, 128, 8192, 128256, 131072, true},
    {"mistral-7b", Family::kMistral, 32, 4096, 32, 8, 128, 14336, 32768, 32768, false},
    {"qwen2.5-0.5b", Family::kQwen25, 24, 896, 14, 2, 64, 4864, 151936, 32768, true},
    {"qwen2.5-1.5b", Family::kQwen25, 28, 1536, 12, 2, 128, 8960, 151936, 32768, true},
    {"qwen2.5-3b", Family::kQwen25, 36, 2048, 16, 2, 128, 11008, 151936, 32768, true},
    {"qwen2.5-7b", Family::kQwen25, 28, 3584, 28, 4, 128, 18944, 152064, 32768, false},
    {"qwen2.5-14b", Family::kQwen25, 48, 5120, 40, 8, 128, 13824, 152064, 32768, false},
    {"qwen2.5-32b", Family::kQwen25, 64, 5120, 40, 8, 128, 27648, 152064, 32768, false},
    {"qwen2.5-72b", Family::kQwen25, 80, 8192, 64, 8, 128, 29568, 152064, 32768, false},
    {"qwen3-0.6b", Family::kQwen3, 28, 1024, 16, 8, 128, 3072, 151936, 40960, true},
    {"qwen3-1.7b", Family::kQwen3, 28, 2048, 16, 8, 128, 6144, 151936, 40960, true},
    {"qwen3-4b", Family::kQwen3, 36, 2560, 32, 8, 128, 9728, 151936, 40960, true},
    {"qwen3-8b", Family::kQwen3, 36, 4096, 32, 8, 128, 12288, 151936, 40960, false},
    {"qwen3-14b", Family::kQwen3, 40, 5120, 40, 8, 128, 17408, 151936, 40960, false},
    {"qwen3-32b", Family::kQwen3, 64, 5120, 64, 8, 128, 25600, 151936, 40960, false},
    {"smollm2-135m", Family::kSmolLm2, 30, 576, 9, 3, 64, 1536, 49152, 8192, true},
    {"gemma-2-2b", Family::kGemma2, 26, 2304, 8, 4, 256, 9216, 256000, 8192, true},
    {"gemma-2-9b", Family::kGemma2, 42, 3584, 16, 8, 256, 14336, 256000, 8192, true},
    {"gemma-3-4b", Family::kGemma3, 34, 2560, 8, 4, 256, 10240, 262208, 131072, true},
    {"gemma-3-12b", Family::kGemma3, 48, 3840, 16, 8, 256, 15360, 262208, 131072, true},
    {"gemma-3-27b", Family::kGemma3, 62, 5376, 32, 16, 128, 21504, 262208, 131072, true},
    {"gemma-4-12b", Family::kGemma4Unified, 48, 3840, 16, 8, 256, 15360, 262144, 262144, true},
    {"phi-4", Family::kPhi4, 40, 5120, 40, 10, 128, 17920, 100352, 16384, false},
    {"mixtral-8x7b", Family::kMixtral, 32, 4096, 32, 8, 128, 14336, 32000, 32768, false, 8, 2, 14336},
    {"mixtral-8x22b", Family::kMixtral, 56, 6144, 48, 8, 128, 16384, 32768, 65536, false, 8, 2, 16384},
    {"qwen3-30b-a3b", Family::kQwen3Moe, 48, 2048, 32, 4, 128, 6144, 151936, 40960, false, 128, 8, 768},
    {"qwen3-235b-a22b", Family::kQwen3Moe, 94, 4096, 64, 4, 128, 12288, 151936, 40960, false, 128, 8, 1536},
    {"gpt-oss-20b", Family::kGptOss, 24, 2880, 64, 8, 64, 2880, 201088, 131072, false, 32, 4, 2880},
    {"gpt-oss-120b", Family::kGptOss, 36, 2880, 64, 8, 64, 2880, 201088, 131072, false, 128, 4, 2880},
    {"glm-4.5-air", Family::kGlm4Moe, 46, 4096, 96, 8, 128, 10944, 151552, 131072, false, 128, 8, 1408},
    {"minimax-m2", Family::kMiniMaxM2, 62, 3072, 48, 8, 128, 1536, 200064, 196608, false, 256, 8, 1536},
    {"gemma-4-26b-a4b", Family::kGemma4, 30, 2816, 16, 8, 256, 2112, 262144, 262144, true, 128, 8, 704},
};

/// What the models of a family have in common.
struct FamilyTraits {
  const char* model_type;
  double norm_epsilon, rope_theta, rope_factor;
  int64_t bos, eos;
};

FamilyTraits traits_of(Family family) {
  switch (family) {
    case Family::kOpt: return {"opt", 0, 0, 0, 2, 2};
    case Family::kLlama2: return {"llama", 1e-5, 1e4, 0, 1, 2};
    case Family::kLlama31: return {"llama", 1e-5, 5e5, 8, 128000, 128001};
    case Family::kLlama32: return {"llama", 1e-5, 5e5, 32, 128000, 128001};
    case Family::kMistral: return {"mistral", 1e-5, 1e6, 0, 1, 2};
    case Family::kQwen25: return {"qwen2", 1e-6, 1e6, 0, 151643, 151643};
    case Family::kQwen3: return {"qwen3", 1e-6, 1e6, 0, 151643, 151643};
    case Family::kSmolLm2: return {"llama", 1e-5, 1e5, 0, 0, 0};
    case Family::kGemma2: return {"gemma2", 1e-6, 1e4, 0, 2, 1};
    case Family::kGemma3: return {"gemma3_text", 1e-6, 1e6, 0, 2, 1};
    case Family::kMixtral: return {"mixtral", 1e-5, 1e6, 0, 1, 2};
    case Family::kQwen3Moe: return {"qwen3_moe", 1e-6, 1e6, 0, 151643, 151643};
    case Family::kGptOss: return {"gpt_oss", 1e-5, 1.5e5, 0, 199998, 200002};
    case Family::kGlm4Moe: return {"glm4_moe", 1e-5, 1e6, 0, 151329, 151329};
    case Family::kMiniMaxM2: return {"minimax_m2", 1e-6, 5e6, 0, 200019, 200020};
    case Family::kGemma4: return {"gemma4_text", 1e-6, 0, 0, 2, 1};
    case Family::kGemma4Unified: return {"gemma4_unified_text", 1e-6, 0, 0, 2, 1};
    case Family::kPhi4: return {"phi3", 1e-5, 2.5e5, 0, 100257, 100265};
  }
  return {};
}

}  // namespace

std::optional<std::string> shape_config_json(const std::string& wanted) {
  for (const Shape& shape : kShapes) {
    if (wanted != shape.name) continue;
    const FamilyTraits traits = traits_of(shape.family);
    nlohmann::ordered_json json;
    json["model_type"] = traits.model_type;
    json["num_hidden_layers"] = shape.layers;
    json["hidden_size"] = shape.hidden;
    json["num_attention_heads"] = shape.heads;
    json["vocab_size"] = shape.vocab;
    json["max_position_embeddings"] = shape.positions;
    json["tie_word_embeddings"] = shape.tied;
    json["torch_dtype"] = "bfloat16";
    json["bos_token_id"] = traits.bos;
    json["eos_token_id"] = traits.eos;
    if (shape.family == Family::kOpt) {
      const bool is_350m = wanted == "opt-350m";
      json["ffn_dim"] = shape.ffn;
      json["word_embed_proj_dim"] = is_350m ? 512 : shape.hidden;
      json["do_layer_norm_before"] = !is_350m;
      json["activation_function"] = "relu";
      return json.dump(2);
    }
    json["intermediate_size"] = shape.ffn;
    json["num_key_value_heads"] = shape.kv_heads;
    const bool is_fourth = shape.family == Family::kGemma4 || shape.family == Family::kGemma4Unified;
    if (shape.family == Family::kGemma4) {
      json["enable_moe_block"] = true;
      json["num_experts"] = shape.experts;
      json["top_k_experts"] = shape.experts_per_row;
      json["moe_intermediate_size"] = shape.expert_size;
    }
    if (is_fourth) {
      json["hidden_size_per_layer_input"] = 0;
      json["attention_k_eq_v"] = true;
      json["global_head_dim"] = 512;
      json["num_global_key_value_heads"] = shape.family == Family::kGemma4 ? 2 : 1;
      json["final_logit_softcapping"] = 30.0;
    } else if (shape.experts > 0) {
      json[shape.family == Family::kQwen3Moe ? "num_experts" : shape.family == Family::kGlm4Moe ? "n_routed_experts" : "num_local_experts"] = shape.experts;
      json["num_experts_per_tok"] = shape.experts_per_row;
    }
    if (shape.family == Family::kGptOss) {
      json["sliding_window"] = 128;
      json["quantization_config"] = {{"quant_method", "mxfp4"}};
      json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 32.0},    {"beta_fast", 32.0},
                              {"beta_slow", 1.0},    {"truncate", false}, {"original_max_position_embeddings", 4096}};
    }
    if (shape.family == Family::kGlm4Moe) {
      json["moe_intermediate_size"] = shape.expert_size;
      json["n_shared_experts"] = 1;
      json["first_k_dense_replace"] = 1;
      json["attention_bias"] = true;
      json["partial_rotary_factor"] = 0.5;
    }
    if (shape.family == Family::kMiniMaxM2) json["rotary_dim"] = 64;
    if (shape.family == Family::kQwen3Moe) {
      json["moe_intermediate_size"] = shape.expert_size;
      json["norm_topk_prob"] = true;
    }
    json["head_dim"] = shape.head_size;
    const bool is_gemma = shape.family == Family::kGemma2 || shape.family == Family::kGemma3 || is_fourth;
    json[is_gemma ? "hidden_activation" : "hidden_act"] = is_gemma ? "gelu_pytorch_tanh" : "silu";
    // 27B: hidden_size over the heads.
    if (is_gemma && !is_fourth) json["query_pre_attn_scalar"] = shape.heads == 32 ? 168 : 256;
    if (is_gemma) json["sliding_window"] = shape.family == Family::kGemma2 ? 4096 : 1024;
    if (shape.family == Family::kGemma3) {
      json["rope_local_base_freq"] = 10000.0;
      json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
    }
    json["rms_norm_eps"] = traits.norm_epsilon;
    if (!is_fourth) json["rope_theta"] = traits.rope_theta;  // of its class
    if (traits.rope_factor != 0)
      json["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", traits.rope_factor},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
    // transformers takes a window of 4096 where a mistral says nothing; v0.3 has none.
    if (shape.family == Family::kMistral) json["sliding_window"] = nullptr;
    return json.dump(2);
  }
  return std::nullopt;
}

std::vector<std::string> known_shapes() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

}  // namespace flexgen
