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
    m.ffn_size = fields.integer("intermediate_size", 1, 1 << 24);
    m.activation = read_activation(fields, "hidden_act", "relu2");
    read_layer_norm(fields, m, true, "norm_eps", 1e-5);
    m.norm_offset = 1;
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = 0.5})};
    set_all_blocks(m, 0, 0);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return WeightList(m, layer_start(index)).norm(Role::kNorm1, "input_layernorm").attention().norm(Role::kNorm2, "post_attention_layernorm").feed_forward();
  }
};

}  // namespace

const Architecture& nemotron_architecture() {
  static const Nemotron architecture;
  return architecture;
}

}  // namespace flexgen
