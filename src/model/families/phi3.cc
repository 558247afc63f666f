// Phi-3 and Phi-4 (Microsoft 2024): Llama with q, k and v in one matrix and gate and up in one, cut where they lie; longrope in those with a long context; in
// Phi-4-mini a share of each head is turned.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Phi3 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"phi3"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    for (const char* name : {"attention_bias", "mlp_bias", "lm_head_bias"}) fields.only(name, false);
    for (const char* name : {"full_attn_mod", "interpolate_factor"}) fields.only(name, 1);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .original = 4096, .su_is_longrope = true})};
    set_all_blocks(m, read_window(fields, 0));
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size, QH = m.num_heads * m.head_size, KH = m.num_kv_heads * m.head_size, all = QH + 2 * KH;
    return WeightList(m, layer_start(index))
        .norm(Role::kNorm1, "input_layernorm")
        .part(Role::kQ, "self_attn.qkv_proj", 0, QH, all, D, false)
        .part(Role::kK, "self_attn.qkv_proj", QH, KH, all, D, false)
        .part(Role::kV, "self_attn.qkv_proj", QH + KH, KH, all, D, false)
        .linear(Role::kO, "self_attn.o_proj", D, QH, false)
        .norm(Role::kNorm2, "post_attention_layernorm")
        .fused_feed_forward();
  }
};

}  // namespace

const Architecture& phi3_architecture() {
  static const Phi3 architecture;
  return architecture;
}

}  // namespace flexgen
