// Phi-3.5-MoE (Microsoft 2024): LayerNorm, biases in attention and of the output, LongRoPE, and two of 16 experts chosen as SparseMixer says (Liu et
// al. 2024).
//
//   r = Wrouter x;  e the largest, p_e = softmax over those of r near it;  f the largest of the others, p_f = softmax over those of the others near that;
//   h += p_e expert_e(x) + p_f expert_f(x),   a score s being near the largest m where (m - s) / max(|s|, m) <= 2 router_jitter_noise

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class PhiMoe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"phimoe"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 8);
    read_gated(fields, m);
    read_layer_norm(fields, m, true, "rms_norm_eps");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.logit_bias = fields.flag_or("lm_head_bias", false);
    read_experts(fields, m, {.count = "num_local_experts", .count_too = "num_experts", .usual_count = 16, .usual_per_row = 2, .size = "intermediate_size"});
    fields.only("num_experts_per_tok", 2);  // the class takes two, whatever the field says
    m.mixture.score = RouterScore::kSparseMixer;
    m.mixture.nearness = 2 * static_cast<float>(fields.positive_or("router_jitter_noise", 0.01, 1e6));
    fields.harmless({"input_jitter_noise"});  // of training
    m.ropes = {read_rope(fields, m, {.theta = 1e6, .has_mscales = true})};
    set_all_blocks(m, read_window(fields, 0));
  }

  MixtureNames mixture_names() const override { return kMixtralNames; }
};

}  // namespace

const Architecture& phimoe_architecture() {
  static const PhiMoe architecture;
  return architecture;
}

}  // namespace flexgen
