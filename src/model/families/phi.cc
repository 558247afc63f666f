// Phi-1, Phi-1.5 and Phi-2 (Microsoft 2023): biases everywhere, that of the output matrix included; a share of each head turned; attention and feed-forward in
// parallel, from one LayerNorm.
//
//   h += Wdense attention(rope(Wq n), rope(Wk n), Wv n) + W2 gelu(W1 n),  n = norm(h)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Phi : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"phi"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_ungated(fields, m, "hidden_act", "gelu_new");
    read_layer_norm(fields, m, true, "layer_norm_eps");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.parallel = true;
    fields.only("qk_layernorm", false);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = 0.5})};
    set_all_blocks(m);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size, QH = m.num_heads * m.head_size, KH = m.num_kv_heads * m.head_size;
    return WeightList(m, layer_start(index))
        .norm(Role::kNorm1, "input_layernorm")
        .linear(Role::kQ, "self_attn.q_proj", QH, D, true)
        .linear(Role::kK, "self_attn.k_proj", KH, D, true)
        .linear(Role::kV, "self_attn.v_proj", KH, D, true)
        .linear(Role::kO, "self_attn.dense", D, QH, true)
        .linear(Role::kUp, "mlp.fc1", m.ffn_size, D, true)
        .linear(Role::kDown, "mlp.fc2", D, m.ffn_size, true);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override {
    return WeightList(m, "").norm(Role::kFinalNorm, "final_layernorm").add(WantedWeight::vector("lm_head.bias", m.vocab_size, Role::kOutputBias));
  }
};

}  // namespace

const Architecture& phi_architecture() {
  static const Phi architecture;
  return architecture;
}

}  // namespace flexgen
