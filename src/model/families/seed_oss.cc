// Seed-OSS (ByteDance 2025): Llama with an explicit head size, and biases of q, k, v and of the output apart.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class SeedOss : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"seed_oss"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 128, 8);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = fields.flag_or("attention_bias", true);
    m.output_bias = fields.flag_or("attention_out_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& seed_oss_architecture() {
  static const SeedOss architecture;
  return architecture;
}

}  // namespace flexgen
