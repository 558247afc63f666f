// Granite 3 (IBM 2024): Llama with a multiplier each for embeddings, scores, what is added to the residual stream, and logits.
//
//   h = a embedding;  h += r Wo attention(q, k, v) of scores m q.k;  h += r mlp(n);  logits = Woutput norm(h) / s

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Granite : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"granite"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.embed_scale = static_cast<float>(fields.positive_or("embedding_multiplier", 1, 1e9));
    m.attention_scale = static_cast<float>(fields.positive_or("attention_multiplier", 1, 1e9));
    m.residual_scale = static_cast<float>(fields.positive_or("residual_multiplier", 1, 1e9));
    m.logit_scale = static_cast<float>(1 / fields.positive_or("logits_scaling", 1, 1e9));
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& granite_architecture() {
  static const Granite architecture;
  return architecture;
}

}  // namespace flexgen
