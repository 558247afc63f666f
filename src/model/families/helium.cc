// Helium (Kyutai 2025): Llama whose RoPE pairs neighbours, and whose output matrix never has a bias.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Helium : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"helium"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 128, 20);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-8);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.rope_interleaved = true;
    m.ropes = {read_rope(fields, m, {.theta = 100000})};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& helium_architecture() {
  static const Helium architecture;
  return architecture;
}

}  // namespace flexgen
