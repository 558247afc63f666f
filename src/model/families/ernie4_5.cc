// ERNIE 4.5 (Baidu 2025), the dense one: Llama whose RoPE pairs neighbours.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Ernie45 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"ernie4_5"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 128, 2);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = m.mlp_bias = fields.flag_or("use_bias", false);
    m.rope_interleaved = true;
    fields.only("compression_ratio", 1.0);
    fields.harmless({"weight_share_add_bias"});
    m.ropes = {read_rope(fields, m, {.theta = 5e5})};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& ernie4_5_architecture() {
  static const Ernie45 architecture;
  return architecture;
}

}  // namespace flexgen
