// GLM-4 (Zhipu 2024: "glm") and GLM-4-0414 ("glm4"): half of each head is turned, neighbours paired; gate and up in one matrix, cut where it lies. The later
// one normalizes what attention and feed-forward add, too.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Glm : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"glm", "glm4"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 128, 2);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1.5625e-7);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = fields.flag_or("attention_bias", true);
    m.branch_norms = m.model_type == "glm4";
    m.rope_interleaved = true;
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = 0.5})};
    set_all_blocks(m);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    WeightList w(m, layer_start(index));
    w.norm(Role::kNorm1, "input_layernorm").attention();
    if (m.branch_norms) w.norm(Role::kPostNorm1, "post_self_attn_layernorm");
    w.norm(Role::kNorm2, "post_attention_layernorm").fused_feed_forward();
    if (m.branch_norms) w.norm(Role::kPostNorm2, "post_mlp_layernorm");
    return w;
  }
};

}  // namespace

const Architecture& glm_architecture() {
  static const Glm architecture;
  return architecture;
}

}  // namespace flexgen
