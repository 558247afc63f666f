#include "model/gguf_mixture.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// llama.cpp's numbers of what makes scores of a router's logits (expert_gating_func).
enum class Gating { kNotSaid = 0, kSoftmax = 1, kSigmoid = 2, kSoftmaxOfChosen = 3 };

/// What the families' config.json calls the fields, and what of a mixture is in no field of a GGUF.
struct GgufMixture {
  const char *model_type, *count, *size;
  Gating gating = Gating::kSoftmax;
  /// norm_topk_prob, as llama.cpp knows it of the architecture; "": the file says it, or the family has no such field.
  const char* normalized = "";
};
constexpr GgufMixture kMixtures[]{{"mixtral", "num_local_experts", "intermediate_size"},
                                  {"qwen2_moe", "num_experts", "moe_intermediate_size", Gating::kSoftmax, "false"},
                                  {"qwen3_moe", "num_experts", "moe_intermediate_size", Gating::kSoftmax, "true"},
                                  {"olmoe", "num_experts", "intermediate_size", Gating::kSoftmax, "false"},
                                  {"gpt_oss", "num_local_experts", "intermediate_size", Gating::kSoftmaxOfChosen},
                                  {"minimax_m2", "num_local_experts", "intermediate_size", Gating::kSigmoid},
                                  {"glm4_moe", "n_routed_experts", "moe_intermediate_size", Gating::kSigmoid},
                                  {"dots1", "n_routed_experts", "moe_intermediate_size", Gating::kSigmoid},
                                  {"ernie4_5_moe", "moe_num_experts", "moe_intermediate_size"},
                                  {"hunyuan_v1_moe", "num_experts", "moe_intermediate_size"}};

/// Rows of an expert's gate, which older files have in no field: [E, F, D] of some block, or [E, 2 F, D] with what is beside it.
int64_t expert_size(const Checkpoint& checkpoint) {
  for (const auto& [name, at] : checkpoint.tensors()) {
    if (name.ends_with(".ffn_gate_exps.weight") && at.shape.size() == 3) return at.shape[1];
    if (name.ends_with(".ffn_gate_up_exps.weight") && at.shape.size() == 3) return at.shape[1] / 2;
  }
  return 0;
}

/// What GLM-4.5 and dots.llm1 have besides: blocks without experts, a part that all rows share, groups, a scale.
void read_shared_and_groups(GgufFields& fields, Json& config) {
  config["n_shared_experts"] = fields.integer("expert_shared_count").value_or(0);
  config["first_k_dense_replace"] = fields.integer("leading_dense_block_count").value_or(0);
  config["norm_topk_prob"] = false;
  fields.copy("expert_weights_norm", config, "norm_topk_prob");
  if (const Json* scale = fields.find("expert_weights_scale"); scale && *scale != 0) fields.copy("expert_weights_scale", config, "routed_scaling_factor");
  config["n_group"] = std::max<int64_t>(1, fields.integer("expert_group_count").value_or(1));
  config["topk_group"] = std::max<int64_t>(1, fields.integer("expert_group_used_count").value_or(1));
}

/// ERNIE 4.5: from one block to another every so many-th has experts.
void read_ernie(GgufFields& fields, const Checkpoint& checkpoint, Json& config) {
  config["moe_k"] = config.at("num_experts_per_tok");
  config.erase("num_experts_per_tok");
  config["moe_num_shared_experts"] = fields.integer("expert_shared_count").value_or(0);
  fields.harmless({"expert_shared_feed_forward_length"});  // the experts' size times their number, as the tensors show
  config["moe_layer_start_index"] = fields.integer("leading_dense_block_count").value_or(0);
  config["moe_layer_interval"] = fields.integer("interleave_moe_layer_step").value_or(1);
  for (int64_t block = 0; block < config.at("num_hidden_layers").get<int64_t>(); ++block)
    if (checkpoint.find(fmt::format("blk.{}.ffn_gate_inp.weight", block)) != nullptr) config["moe_layer_end_index"] = block;
}

}  // namespace

void read_gguf_mixture(GgufFields& fields, const std::string& model_type, const Checkpoint& checkpoint, Json& config) {
  const auto* mixture = std::find_if(std::begin(kMixtures), std::end(kMixtures), [&](const GgufMixture& one) { return one.model_type == model_type; });
  if (mixture == std::end(kMixtures)) {
    for (const char* name : {"expert_count", "expert_used_count"}) fields.only(name, 0);
    return;
  }
  const auto needed = [&](const char* name) {
    const std::optional<int64_t> value = fields.integer(name);
    if (value.value_or(0) == 0) fields.refuse(name, "is missing, or 0; convert the model anew with llama.cpp");
    return *value;
  };
  config[mixture->count] = needed("expert_count");
  config["num_experts_per_tok"] = needed("expert_used_count");
  if (const int64_t size = fields.integer("expert_feed_forward_length").value_or(expert_size(checkpoint)); size > 0) config[mixture->size] = size;
  if (*mixture->normalized != '\0') config["norm_topk_prob"] = parse_json(mixture->normalized, "norm_topk_prob");
  if (const int64_t gating = fields.integer("expert_gating_func").value_or(0); gating != 0 && gating != static_cast<int>(mixture->gating))
    fields.refuse("expert_gating_func", fmt::format("is {}; of this family flexgen does {} alone", gating, static_cast<int>(mixture->gating)));
  if (model_type == "glm4_moe" || model_type == "dots1") {
    read_shared_and_groups(fields, config);
  } else {
    fields.only("expert_weights_scale", 1.0);
    if (config.contains("norm_topk_prob")) fields.only("expert_weights_norm", config.at("norm_topk_prob"));
    for (const char* name : {"expert_group_count", "expert_group_used_count"})
      if (fields.integer(name).value_or(0) != 0) fields.only(name, 1);  // 0: a field that says false (Hunyuan)
  }
  if (model_type == "qwen2_moe" || model_type == "qwen3_moe")
    for (int64_t block = 0; block < config.at("num_hidden_layers").get<int64_t>(); ++block)
      if (checkpoint.find(fmt::format("blk.{}.ffn_gate_inp.weight", block)) == nullptr) config["mlp_only_layers"].push_back(block);
  if (model_type == "qwen3_moe") fields.only("expert_shared_feed_forward_length", 0);  // Qwen3-Coder's say that they have none
  if (model_type == "ernie4_5_moe") read_ernie(fields, checkpoint, config);
  if (model_type == "hunyuan_v1_moe") {
    config["num_shared_expert"] = fields.integer("expert_shared_count").value_or(1);
    fields.only("expert_shared_feed_forward_length", config.at("intermediate_size"));
  }
  if (model_type == "qwen2_moe") config["shared_expert_intermediate_size"] = needed("expert_shared_feed_forward_length");
}

}  // namespace flexgen
