// StableLM (Stability AI 2023 and 2024): Llama with LayerNorm and a share of each head turned; some compute attention and feed-forward in parallel, from one
// norm. Norms of q and k (StableLM 2 12B) are refused.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class StableLm : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"stablelm"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 32);
    read_gated(fields, m);
    read_layer_norm(fields, m, true, "layer_norm_eps");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = fields.flag_or("use_qkv_bias", false);
    m.parallel = fields.flag_or("use_parallel_residual", false);
    fields.only("qk_layernorm", false);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = 0.25})};
    // The words of stablelm_epoch, which files kept beside those that count.
    fields.only("num_heads", m.num_heads);
    fields.only("rotary_scaling_factor", 1);
    fields.harmless({"norm_eps", "rope_pct"});
    set_all_blocks(m);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    WeightList w(m, layer_start(index));
    w.norm(Role::kNorm1, "input_layernorm").attention();
    if (!m.parallel) w.norm(Role::kNorm2, "post_attention_layernorm");
    return w.feed_forward();
  }
};

}  // namespace

const Architecture& stablelm_architecture() {
  static const StableLm architecture;
  return architecture;
}

}  // namespace flexgen
