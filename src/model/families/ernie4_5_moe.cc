// ERNIE 4.5 with experts (Baidu 2025: 21B-A3B, 300B-A47B): RoPE on neighbours, experts in the blocks from a first one on, and a part that all rows share.
//
//   p = softmax(Wrouter x);  the k experts with the largest p_e + b_e;  h += shared(x) + sum of p_e / (their sum) * expert_e(x)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Ernie45Moe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"ernie4_5_moe"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 4);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    fields.only("use_bias", false);
    m.rope_interleaved = true;
    m.ropes = {read_rope(fields, m, {.theta = 5e5})};
    set_all_blocks(m);

    Mixture& mixture = m.mixture;
    read_experts(fields, m,
                 {.count = "moe_num_experts", .usual_count = 64, .per_row = "moe_k", .usual_per_row = 6, .size = "moe_intermediate_size", .usual_size = 1536});
    mixture.choice_bias = mixture.normalized = true;
    mixture.shared_size = mixture.expert_size * fields.integer_or("moe_num_shared_experts", 2, 0, 1 << 10);
    fields.only("moe_norm_min", 1e-12);
    fields.only("moe_use_aux_free", true);
    fields.only("use_moe", true);
    const int64_t first = fields.integer_or("moe_layer_start_index", 1, 0, 1 << 20), every = fields.integer_or("moe_layer_interval", 1, 1, 1 << 20);
    const int64_t last = fields.integer_or("moe_layer_end_index", -1, -1, 1 << 20);
    for (int64_t i = 0; i < m.num_layers; ++i) mixture.sparse[static_cast<size_t>(i)] = i >= first && (last < 0 || i <= last) && (i + 1) % every == 0;
    fields.harmless({"moe_capacity", "moe_gate", "num_nextn_predict_layers"});
  }

  MixtureNames mixture_names() const override { return {.bias = "mlp.moe_statics.e_score_correction_bias"}; }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    std::vector<WantedWeight> weights = Decoder::block(m, index);
    for (WantedWeight& weight : weights)
      if (weight.role == Role::kRouterBias) weight = WantedWeight::small_table(weight.name, 1, m.mixture.num_experts, Role::kRouterBias);  // [1, E]
    return weights;
  }
};

}  // namespace

const Architecture& ernie4_5_moe_architecture() {
  static const Ernie45Moe architecture;
  return architecture;
}

}  // namespace flexgen
