// OLMoE (Ai2 2024): Llama with a norm over all of q and one over all of k, a limit of q, k and v after these where clip_qkv says so, and 64 experts in each block.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Olmoe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"olmoe"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.qk_norm = QkNorm::kWhole;
    read_qkv_limit(fields, m);
    read_experts(fields, m, {.count = "num_experts", .count_too = "num_local_experts", .usual_count = 64, .usual_per_row = 8, .size = "intermediate_size"});
    m.mixture.normalized = fields.flag_or("norm_topk_prob", false);
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
  }
};

}  // namespace

const Architecture& olmoe_architecture() {
  static const Olmoe architecture;
  return architecture;
}

}  // namespace flexgen
