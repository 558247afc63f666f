// Hunyuan dense (Tencent 2025): Llama with an RMSNorm of each head of q and k after they are turned, and a base of the angles that a fixed alpha stretches
// (NTK-aware scaling).

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class HunyuanDense : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"hunyuan_v1_dense"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.qk_norm = QkNorm::kHead;
    m.norm_after_rope = true;
    fields.only("use_qk_norm", true);
    fields.only("pretraining_tp", 1);
    fields.harmless({"eod_token_id"});
    m.ropes = {read_rope(fields, m, {.has_alpha = true})};
    set_all_blocks(m);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return WeightList(m, layer_start(index))
        .norm(Role::kNorm1, "input_layernorm")
        .attention("query_layernorm", "key_layernorm")
        .norm(Role::kNorm2, "post_attention_layernorm")
        .feed_forward();
  }
};

}  // namespace

const Architecture& hunyuan_dense_architecture() {
  static const HunyuanDense architecture;
  return architecture;
}

}  // namespace flexgen
