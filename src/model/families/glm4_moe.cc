// Mixtures that choose as DeepSeek-V3 does (2024), without its attention: GLM-4.5 to 4.7 (Zhipu 2025: "glm4_moe"; half of each head is turned) and dots.llm1 (2025: "dots1"). The
// first blocks have a plain feed-forward part, the others experts and a part that all rows share.
//
//   p = sigmoid(Wrouter x);  the k experts with the largest p_e + b_e;  h += shared(x) + scale * sum of p_e / (their sum) * expert_e(x)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Glm4Moe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"glm4_moe", "dots1"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_glm = m.model_type == "glm4_moe";
    read_heads(fields, m, 0, is_glm ? 8 : 32);
    read_gated(fields, m);
    read_rms_norm(fields, m, is_glm ? 1e-5 : 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = fields.flag_or("attention_bias", false);
    m.output_bias = m.qkv_bias && !is_glm;
    const bool normalizes_heads = is_glm ? fields.flag_or("use_qk_norm", false) : true;
    m.qk_norm = normalizes_heads ? QkNorm::kHead : QkNorm::kNone;

    Mixture& mixture = m.mixture;
    read_experts(
        fields, m,
        {.count = "n_routed_experts", .usual_count = is_glm ? 128 : 0, .usual_per_row = is_glm ? 8 : 0, .size = "moe_intermediate_size", .usual_size = 1408});
    mixture.score = RouterScore::kSigmoid;
    mixture.choice_bias = true;
    mixture.normalized = fields.flag_or("norm_topk_prob", is_glm);
    mixture.scale = static_cast<float>(fields.positive_or("routed_scaling_factor", 1, 1e6));
    mixture.shared_size = mixture.expert_size * fields.integer_or("n_shared_experts", is_glm ? 1 : 0, 0, 1 << 10);
    read_expert_groups(fields, m, "n_group", "topk_group");
    fields.only("moe_layer_freq", 1);
    fields.only("topk_method", "noaux_tc");
    // "noaux_tc" is said here too: sigmoid with a bias for the choice.
    if (const std::string score = fields.text_or("scoring_func", "sigmoid"); score != "noaux_tc") fields.only("scoring_func", "sigmoid");
    const int64_t dense = fields.integer_or("first_k_dense_replace", is_glm ? 1 : 0, 0, 1 << 20);
    for (int64_t i = 0; i < std::min(dense, m.num_layers); ++i) mixture.sparse[static_cast<size_t>(i)] = false;
    // Layers that predict further tokens come after the others and are left out.
    fields.harmless({"num_nextn_predict_layers", "num_mtp_layers"});

    m.ropes = {read_rope(fields, m, {.may_be_partial = is_glm, .partial = is_glm ? 0.5 : 1})};
    int64_t window = 0, first = 0;
    if (!is_glm) {
      window = fields.integer_or("sliding_window", fields.contains("sliding_window") ? 0 : 4096, 0, 1 << 30);
      first = fields.integer_or("max_window_layers", 62, 0, 1 << 20);
    }
    const std::vector<bool> windowed = is_glm ? std::vector<bool>(static_cast<size_t>(m.num_layers), false)
                                              : read_layer_types(fields, m, window, [&](int64_t block) { return window > 0 && block >= first; });
    set_blocks(m, windowed, window, 0, 0);
  }
};

}  // namespace

const Architecture& glm4_moe_architecture() {
  static const Glm4Moe architecture;
  return architecture;
}

}  // namespace flexgen
