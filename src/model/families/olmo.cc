// OLMo 1 (Allen Institute for AI, 2024): Llama with LayerNorms that have neither weights nor biases; q, k and v are held within a limit where clip_qkv says so.
//
//   h += Wo attention(rope(clip(Wq n)), rope(clip(Wk n)), clip(Wv n));  h += Wdown (silu(Wgate n) * Wup n),  n a norm of h
//
// OLMo 2 and 3 (2024 and 2025): what attention and feed-forward add is normalized, what they read is not; q and k are normalized over all
// heads together. OLMo 3 has a window in three layers of four, and scales the angles of the others alone.
//
//   h += norm(Wo attention(rope(norm(Wq h)), rope(norm(Wk h)), Wv h));  h += norm(Wdown (silu(Wgate h) * Wup h))

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Olmo : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"olmo", "olmo2", "olmo3"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    read_gated(fields, m);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    if (m.model_type == "olmo") {
      fields.harmless({"layer_norm_eps"});  // transformers' norm has 1e-5 in it and does not look
      m.norm = NormKind::kLayer;
      m.norm_epsilon = 1e-5f;
      m.norm_weights = false;
      read_qkv_limit(fields, m);
      m.ropes = {read_rope(fields, m)};
      return set_all_blocks(m);
    }
    read_rms_norm(fields, m, 1e-5);
    m.branch_norms = true;
    m.qk_norm = QkNorm::kWhole;
    if (m.model_type == "olmo2") {
      m.ropes = {read_rope(fields, m)};
      return set_all_blocks(m);
    }
    const int64_t window = read_window(fields, 4096);
    const std::vector<bool> windowed = read_layer_types(fields, m, window, [](int64_t block) { return (block + 1) % 4 != 0; });
    m.ropes = {read_rope(fields, m, {.theta = 5e5, .layer_type = "full_attention"}), read_rope(fields, m, {.theta = 5e5, .layer_type = "sliding_attention"})};
    set_blocks(m, windowed, window, 1, 0);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    if (!m.norm_weights) return WeightList(m, layer_start(index)).attention().feed_forward();
    return WeightList(m, layer_start(index))
        .attention()
        .norm(Role::kPostNorm1, "post_attention_layernorm")
        .feed_forward()
        .norm(Role::kPostNorm2, "post_feedforward_layernorm");
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return m.norm_weights ? Decoder::head(m) : std::vector<WantedWeight>(); }
};

}  // namespace

const Architecture& olmo_architecture() {
  static const Olmo architecture;
  return architecture;
}

}  // namespace flexgen
