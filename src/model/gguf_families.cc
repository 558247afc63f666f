#include "model/gguf_families.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr GgufFamily kGgufFamilies[]{{.architecture = "llama", .model_type = "llama", .pairs_adjoin = true},
                                     {.architecture = "qwen2", .model_type = "qwen2"},
                                     {.architecture = "qwen3", .model_type = "qwen3", .says_head = true},
                                     {.architecture = "phi3", .model_type = "phi3", .has_windows = true, .partial = "partial_rotary_factor"},
                                     {.architecture = "gemma", .model_type = "gemma", .whole_norms = true, .says_head = true},
                                     {.architecture = "gemma2", .model_type = "gemma2", .whole_norms = true, .says_head = true, .has_windows = true},
                                     {.architecture = "gemma3", .model_type = "gemma3_text", .whole_norms = true, .says_head = true, .has_windows = true},
                                     {.architecture = "qwen2moe", .model_type = "qwen2_moe"},
                                     {.architecture = "qwen3moe", .model_type = "qwen3_moe", .says_head = true},
                                     {.architecture = "gpt-oss", .model_type = "gpt_oss", .says_head = true, .has_windows = true},
                                     {.architecture = "glm4moe", .model_type = "glm4_moe", .says_head = true, .partial = "partial_rotary_factor"},
                                     {.architecture = "olmoe", .model_type = "olmoe"},
                                     {.architecture = "dots1", .model_type = "dots1", .says_head = true},
                                     {.architecture = "minimax-m2", .model_type = "minimax_m2", .says_head = true, .partial = "rotary_dim"},
                                     {.architecture = "granite", .model_type = "granite", .pairs_adjoin = true},
                                     {.architecture = "smollm3", .model_type = "smollm3", .pairs_adjoin = true},
                                     {.architecture = "olmo", .model_type = "olmo", .pairs_adjoin = true, .layer_norm = true, .says_epsilon = true},
                                     {.architecture = "olmo2", .model_type = "olmo2"},
                                     {.architecture = "ernie4_5", .model_type = "ernie4_5", .says_head = true},
                                     {.architecture = "ernie4_5-moe", .model_type = "ernie4_5_moe"},
                                     {.architecture = "glm4", .model_type = "glm4", .says_head = true, .partial = "partial_rotary_factor"},
                                     {.architecture = "mistral3", .model_type = "ministral3", .pairs_adjoin = true, .says_head = true},
                                     {.architecture = "command-r", .model_type = "cohere", .layer_norm = true},
                                     {.architecture = "cohere2", .model_type = "cohere2", .has_windows = true, .layer_norm = true},
                                     {.architecture = "seed_oss", .model_type = "seed_oss", .says_head = true},
                                     {.architecture = "exaone4", .model_type = "exaone4", .says_head = true, .has_windows = true},
                                     {.architecture = "hunyuan-dense", .model_type = "hunyuan_v1_dense", .says_head = true},
                                     {.architecture = "hunyuan-moe", .model_type = "hunyuan_v1_moe", .says_head = true}};
/// What a file of "llama" with experts is, one of "mistral3" whose angles are not scaled (Mistral Small 3.1 and 3.2), and one of "olmo2" with windows.
constexpr GgufFamily kMixtral{.architecture = "llama", .model_type = "mixtral", .pairs_adjoin = true};
constexpr GgufFamily kMistralSmall{.architecture = "mistral3", .model_type = "llama", .pairs_adjoin = true, .says_head = true};
constexpr GgufFamily kOlmo3{.architecture = "olmo2", .model_type = "olmo3", .has_windows = true};

/// Fields of Gemma 2 and 3.
void read_gemma(GgufFields& fields, std::string_view model_type, Json& config) {
  fields.copy("attn_logit_softcapping", config, "attn_logit_softcapping");
  fields.copy("final_logit_softcapping", config, "final_logit_softcapping");
  const bool is_third = model_type == "gemma3_text";
  if (is_third) {
    config["rope_local_base_freq"] = 10000.0;  // files leave it out
    fields.copy("rope.freq_base_swa", config, "rope_local_base_freq");
    fields.copy("attention.sliding_window_pattern", config, "sliding_window_pattern");
    if (!config.contains("sliding_window") || config["sliding_window"].is_null()) {  // then no layer has one
      config["sliding_window"] = nullptr;
      config["sliding_window_pattern"] = 1;
    }
  }
  // The scale of scores is in no field: llama.cpp knows it of the largest model by its layers.
  const bool is_27b = config.at("num_hidden_layers") == (is_third ? 62 : 46);
  if (is_27b) config["query_pre_attn_scalar"] = config.at("hidden_size").get<int64_t>() / config.at("num_attention_heads").get<int64_t>();
  else config["query_pre_attn_scalar"] = config.at("head_dim");
}

/// Which layers have a window, as a list; whether the file has one.
bool read_windowed_layers(GgufFields& fields, Json& config) {
  const Json* pattern = fields.find("attention.sliding_window_pattern");
  if (pattern == nullptr || !pattern->is_array()) return false;
  for (const Json& has_window : *pattern) config["layer_types"].push_back(has_window == true ? "sliding_attention" : "full_attention");
  return true;
}

/// OLMo 3: angles are scaled where there is no window; which layers have one is a list.
void read_olmo3(GgufFields& fields, Json& config) {
  if (!read_windowed_layers(fields, config)) fields.refuse("attention.sliding_window_pattern", "is missing, or no list; convert the model anew with llama.cpp");
  Json full = config.value("rope_scaling", Json{{"rope_type", "default"}}), windowed{{"rope_type", "default"}};
  full["rope_theta"] = windowed["rope_theta"] = config.at("rope_theta");
  fields.copy("rope.freq_base_swa", windowed, "rope_theta");
  config["rope_parameters"] = {{"full_attention", full}, {"sliding_attention", windowed}};
  config.erase("rope_scaling");
  config.erase("rope_theta");
}

/// Ministral 3 and Devstral 2: what cosine and sine are divided by, and how queries grow beyond the old context.
void read_mistral3(GgufFields& fields, Json& config) {
  const auto scaling = config.find("rope_scaling");
  if (scaling == config.end() || scaling->at("rope_type") != "yarn") fields.refuse("rope.scaling.type", "is not yarn, as it is of Ministral 3");
  for (const char* name : {"rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor"}) fields.only(name, 1.0);
  fields.copy("rope.scaling.yarn_log_multiplier", *scaling, "mscale_all_dim");
  if (scaling->contains("mscale_all_dim")) (*scaling)["mscale"] = 1.0;  // as llama.cpp has it
  fields.copy("attention.temperature_scale", *scaling, "llama_4_scaling_beta");
}

/// EXAONE 4 and Command R7B: which layers have a window is a list, or every so many-th has none (4 where the file does not say). EXAONE's smaller model has no window at all.
void read_windows_in_turn(GgufFields& fields, Json& config) {
  if (!config.contains("sliding_window")) config["sliding_window"] = nullptr;
  if (config.at("sliding_window").is_null()) return fields.harmless({"attention.sliding_window_pattern"});
  if (!read_windowed_layers(fields, config)) fields.copy("attention.sliding_window_pattern", config, "sliding_window_pattern");
}

/// Granite 4.0's dense models have fields of their relatives' recurrent blocks and shared experts; tensors of such would mean something.
void read_granite4(GgufFields& fields, const Checkpoint& checkpoint) {
  fields.only("rope.scaling.finetuned", true);  // false: llama.cpp turns nothing then
  for (const auto& [name, at] : checkpoint.tensors())
    if (name.find(".ssm_") != std::string::npos || name.find("_shexp.") != std::string::npos)
      fail_user("{}: it has the tensor '{}', of a recurrent block or of a shared expert, which flexgen does not read from a GGUF of 'granite'", fields.source(),
                printable(name));
  fields.harmless({"ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.inner_size", "ssm.time_step_rank", "expert_shared_feed_forward_length"});
}

}  // namespace

const GgufFamily* find_gguf_family(const std::string& architecture, const Json& metadata) {
  const Json* const experts = gguf_field(metadata, "llama.expert_count");
  if (architecture == "llama" && experts && *experts != 0) return &kMixtral;
  if (const Json* const scaling = gguf_field(metadata, "mistral3.rope.scaling.type"); architecture == "mistral3" && (!scaling || *scaling == "none"))
    return &kMistralSmall;
  if (architecture == "olmo2" && gguf_field(metadata, "olmo2.attention.sliding_window")) return &kOlmo3;
  const auto* found = std::find_if(std::begin(kGgufFamilies), std::end(kGgufFamilies), [&](const GgufFamily& one) { return one.architecture == architecture; });
  return found == std::end(kGgufFamilies) ? nullptr : found;
}

std::string known_gguf_architectures() {
  std::vector<std::string> known;
  for (const GgufFamily& one : kGgufFamilies) known.emplace_back(one.architecture);
  return fmt::format("{}", fmt::join(known, ", "));
}

void read_own_gguf_fields(GgufFields& fields, std::string_view type, const Checkpoint& checkpoint, Json& config) {
  const auto has = [&](const char* name) { return checkpoint.find(name) != nullptr; };
  for (const char* with_biases : {"llama", "glm4", "glm4_moe", "gpt_oss", "dots1", "granite", "smollm3", "olmo", "olmo2", "olmo3", "olmoe", "cohere", "cohere2",
                                  "seed_oss", "hunyuan_v1_dense", "hunyuan_v1_moe"})
    if (type == with_biases) config["attention_bias"] = has("blk.0.attn_q.bias");
  if (type == "llama" || type == "granite" || type == "smollm3") config["mlp_bias"] = has("blk.0.ffn_gate.bias");
  if (type == "ernie4_5") config["use_bias"] = has("blk.0.attn_q.bias");
  if (type == "glm4_moe" || type == "cohere") config["use_qk_norm"] = has("blk.0.attn_q_norm.weight");
  if (type == "dots1") config["sliding_window"] = nullptr;
  if (type == "gpt_oss" && config.contains("rope_scaling")) config["rope_scaling"]["truncate"] = false;
  if (type == "gemma2" || type == "gemma3_text") read_gemma(fields, type, config);
  if (type == "olmo3") read_olmo3(fields, config);
  if (type == "ministral3") read_mistral3(fields, config);
  if (type == "olmo" || type == "olmoe") {
    fields.copy("attention.clamp_kqv", config, "clip_qkv");
    // As in llama.cpp, which has no limit then.
    if (const auto limit = config.find("clip_qkv"); limit != config.end() && limit->is_number() && *limit <= 0) config.erase(limit);
  }
  if (type == "cohere" || type == "cohere2") fields.copy("logit_scale", config, "logit_scale");
  if (type == "cohere2" || type == "exaone4") read_windows_in_turn(fields, config);
  if (type == "seed_oss") {
    config["attention_out_bias"] = has("blk.0.attn_output.bias");
    config["mlp_bias"] = has("blk.0.ffn_gate.bias");
  }
  if (type == "granite") {
    read_granite4(fields, checkpoint);
    fields.copy("attention.scale", config, "attention_multiplier");
    fields.copy("embedding_scale", config, "embedding_multiplier");
    fields.copy("residual_scale", config, "residual_multiplier");
    fields.copy("logit_scale", config, "logits_scaling");
  }
}

}  // namespace flexgen
