// StarCoder2 (Lozhkov et al. 2024): LayerNorm, biases everywhere, a feed-forward part without a gate, a window in all layers of some.
//
//   h += Wo attention(rope(Wq n), rope(Wk n), Wv n);  h += Wproj gelu(Wfc n),  n a norm of h

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Starcoder2 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"starcoder2"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 2);
    read_ungated(fields, m, "hidden_act", "gelu_pytorch_tanh");
    read_layer_norm(fields, m, true, "norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = m.mlp_bias = fields.flag_or("use_bias", true);
    // Told to other programs alone: what the code computes is what it is.
    fields.only("norm_type", "layer_norm");
    fields.only("mlp_type", "default");
    fields.only("scale_attn_weights", true);
    fields.harmless({"activation_function", "layer_norm_epsilon", "scale_attention_softmax_in_fp32"});  // hidden_act and norm_epsilon count
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m, read_window(fields, 0));
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return WeightList(m, layer_start(index))
        .norm(Role::kNorm1, "input_layernorm")
        .attention()
        .norm(Role::kNorm2, "post_attention_layernorm")
        .linear(Role::kUp, "mlp.c_fc", m.ffn_size, m.hidden_size, m.mlp_bias)
        .inner_scales("mlp.act.scales")
        .linear(Role::kDown, "mlp.c_proj", m.hidden_size, m.ffn_size, m.mlp_bias);
  }
};

}  // namespace

const Architecture& starcoder2_architecture() {
  static const Starcoder2 architecture;
  return architecture;
}

}  // namespace flexgen
