// Hunyuan (Tencent 2025), dense and with experts (A13B): Llama with an RMSNorm of each head of q and k after they are turned, and a base of the angles that a fixed alpha
// stretches (NTK-aware scaling). With experts each block has some, and a part that all rows use; files give some numbers once a layer, which must be the same in all.
//
//   p = softmax(Wrouter x);  h += shared(x) + sum over the k largest of p_e / (their sum) * expert_e(x)

#include <fmt/format.h>

#include <algorithm>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

/// What both have in common.
void read_hunyuan(ConfigFields& fields, ModelConfig& m) {
  read_heads(fields, m);
  read_gated(fields, m);
  read_rms_norm(fields, m, 1e-5);
  m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
  m.qk_norm = QkNorm::kHead;
  m.norm_after_rope = true;
  fields.only("use_qk_norm", true);
  fields.only("attention_head_dim", m.head_size);  // said twice
  fields.only("mlp_bias", false);
  fields.only("norm_type", "rms");
  fields.only("use_rotary_pos_emb", true);
  for (const char* name : {"use_cla", "use_mla", "position_embedding_xdrope", "add_classification_head", "group_limited_greedy"}) fields.only(name, false);
  for (const char* name : {"n_group", "topk_group", "routed_scaling_factor"}) fields.neutral(name, {false, 1});
  // Of classifiers, images and layers that share keys and values, which the fields above say are not there.
  fields.harmless({"anyres_pooling_size",
                   "anyres_vit_max_image_size",
                   "anyres_vit_two_views",
                   "cla_share_factor",
                   "class_num",
                   "dense_list",
                   "enable_lm_head_fp32",
                   "eod_token_id",
                   "im_end_id",
                   "im_newline_id",
                   "im_start_id",
                   "mask_init_id",
                   "num_media_embeds",
                   "org_vocab_size",
                   "pad_id",
                   "pool_type",
                   "skip_cls_token",
                   "text_end_id",
                   "text_start_id",
                   "video_end_id",
                   "video_start_id",
                   "vit_add_patchemb_bias",
                   "vit_input_resolution",
                   "vit_mapping_type",
                   "vit_norm_type",
                   "vit_patch",
                   "vit_path",
                   "vit_remove_prenorm",
                   "vit_token",
                   "vit_type",
                   "vit_used_rms_norm",
                   "xdrope_section"});
  m.ropes = {read_rope(fields, m, {.has_alpha = true})};
  set_all_blocks(m);
}

/// Of a block all but what follows attention.
WeightList hunyuan_attention(const ModelConfig& m, int64_t index) {
  return WeightList(m, layer_start(index))
      .norm(Role::kNorm1, "input_layernorm")
      .attention("query_layernorm", "key_layernorm")
      .norm(Role::kNorm2, "post_attention_layernorm");
}

class HunyuanDense : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"hunyuan_v1_dense"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override { read_hunyuan(fields, m); }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override { return hunyuan_attention(m, index).feed_forward(); }
};

class HunyuanMoe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"hunyuan_v1_moe"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_hunyuan(fields, m);

    Mixture& mixture = m.mixture;
    mixture.num_experts = of_all_layers(fields, m, "num_experts", 1, 1 << 14);
    mixture.experts_per_row = of_all_layers(fields, m, fields.find("moe_topk") ? "moe_topk" : "num_experts_per_tok", 1, mixture.num_experts);
    mixture.expert_size = mixture.shared_size = m.ffn_size;
    if (of_all_layers(fields, m, "moe_intermediate_size", m.ffn_size, 1 << 24) != m.ffn_size)
      fields.refuse("moe_intermediate_size", "is not intermediate_size; flexgen does what transformers' class does, which reads the latter alone");
    if (of_all_layers(fields, m, "num_shared_expert", 1, 1 << 10) != 1) fields.refuse("num_shared_expert", "is not 1, as it is in transformers' class");
    mixture.normalized = true;
    mixture.sparse.assign(static_cast<size_t>(m.num_layers), true);
    fields.only("use_mixed_mlp_moe", true);
    fields.only("moe_layer_num_skipped", 0);
    fields.only("norm_topk_prob", true);
    fields.harmless({"moe_drop_tokens", "moe_random_routing_dropped_token", "num_experts_per_tok"});
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return hunyuan_attention(m, index)
        .router(mixture_names().router)
        .gated("mlp.shared_mlp.gate_proj", "mlp.shared_mlp.up_proj", "mlp.shared_mlp.down_proj", m.mixture.shared_size);
  }
  MixtureNames mixture_names() const override { return {.router = "mlp.gate.wg", .shared = "mlp.shared_mlp"}; }

 private:
  /// A number, or a list of as many alike as there are layers.
  static int64_t of_all_layers(ConfigFields& fields, const ModelConfig& m, const char* name, int64_t usual, int64_t high) {
    const nlohmann::json* value = fields.find(name);
    if (!value || !value->is_array()) return fields.integer_or(name, usual, 1, high);
    const bool alike = !value->empty() && std::ssize(*value) >= m.num_layers &&
                       std::all_of(value->begin(), value->end(), [&](const auto& one) { return one == value->front(); });
    const nlohmann::json first = alike ? value->front() : nlohmann::json();
    if (!first.is_number_integer() || first.get<int64_t>() < 1 || first.get<int64_t>() > high)
      fields.refuse(name, fmt::format("must be a number from 1 to {}, or a list of one such number, once a layer", high));
    return first.get<int64_t>();
  }
};

}  // namespace

const Architecture& hunyuan_dense_architecture() {
  static const HunyuanDense architecture;
  return architecture;
}

const Architecture& hunyuan_moe_architecture() {
  static const HunyuanMoe architecture;
  return architecture;
}

}  // namespace flexgen
