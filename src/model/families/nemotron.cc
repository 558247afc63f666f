// Nemotron 3, 4 and Minitron (NVIDIA 2024): LayerNorm of (1 + w) with a bias, half of each head turned, a feed-forward part of relu^2 without a gate.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Nemotron : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"nemotron"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_ungated(fields, m, "hidden_act", "relu2");
    read_layer_norm(fields, m, true, "norm_eps");
    fields.only("layer_norm_eps", fields.positive_or("norm_eps", 1e-5, 1));  // not read by transformers' class
    m.norm_offset = 1;
    fields.only("kv_channels", m.head_size);  // said twice
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = 0.5, .partial_too = "rope_percent"})};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& nemotron_architecture() {
  static const Nemotron architecture;
  return architecture;
}

}  // namespace flexgen
