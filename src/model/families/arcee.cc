// Arcee's AFM (2025): Llama with a feed-forward part of relu^2 without a gate.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Arcee : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"arcee"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_ungated(fields, m, "hidden_act", "relu2");
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& arcee_architecture() {
  static const Arcee architecture;
  return architecture;
}

}  // namespace flexgen
