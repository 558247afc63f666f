// MiniMax-M2 (2025): heads normalized over the whole width, half of each turned, and experts in every block, chosen by sigmoid and a bias; names as Mixtral's.
//
//   p = sigmoid(Wrouter x);  the k experts with the largest p_e + b_e;  h += sum of p_e / (their sum) * expert_e(x)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class MiniMaxM2 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"minimax_m2"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 128, 8);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qk_norm = QkNorm::kWhole;
    fields.only("use_qk_norm", true);
    fields.only("qk_norm_type", "per_layer");
    read_experts(fields, m, {.count = "num_local_experts", .count_too = "num_experts", .usual_count = 256, .usual_per_row = 8, .size = "intermediate_size"});
    m.mixture.score = RouterScore::kSigmoid;
    m.mixture.choice_bias = m.mixture.normalized = true;
    fields.only("scoring_func", "sigmoid");
    fields.only("use_routing_bias", true);
    fields.only("shared_intermediate_size", 0);
    const int64_t turned = fields.integer_or("rotary_dim", m.head_size, 2, m.head_size);
    m.ropes = {read_rope(fields, m, {.theta = 5e6, .may_be_partial = true, .partial = static_cast<double>(turned) / static_cast<double>(m.head_size)})};
    // Layers that predict further tokens come after the others and are left out.
    fields.harmless({"use_mtp", "num_mtp_modules", "mtp_transformer_layers"});
    // Of MiniMax-01, whose class this one's files were first written for: layers of linear attention (0; here all are 1), sums with weights, a part that all rows share.
    fields.only("attn_type_list", std::vector<int>(static_cast<size_t>(m.num_layers), 1));
    for (const char* name : {"layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"}) fields.only(name, 1);
    fields.harmless({"mlp_intermediate_size", "shared_moe_mode"});
    set_all_blocks(m);
  }

  MixtureNames mixture_names() const override { return kMixtralNames; }
};

}  // namespace

const Architecture& minimax_m2_architecture() {
  static const MiniMaxM2 architecture;
  return architecture;
}

}  // namespace flexgen
