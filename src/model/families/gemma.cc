// Gemma (2024), Gemma 2 (2024) and the text part of Gemma 3 (2025), all by Google: embeddings times sqrt(D), norms of (1 + w), GeGLU. Gemma 2 normalizes what
// attention and feed-forward add, too, and caps scores and logits; Gemma 3 normalizes the heads of q and k instead, and has other angles in
// layers with a window than in those without.
//
//   Gemma:  h += Wo attention(q, k, v);  h += Wdown (gelu(Wgate n) * Wup n),  n a norm of h
//   later:  h += norm(Wo attention(q, k, v));  h += norm(Wdown (gelu(Wgate n) * Wup n))

#include <cmath>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Gemma : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"gemma", "gemma2", "gemma3_text"};
    return kTypes;
  }
  /// Gemma 3's files leave out what is as in the 1B model's class.
  SizeFields size_fields() const override {
    SizeFields fields;
    fields.usual_heads = 8;
    fields.usual_vocab = 262208;
    fields.usual_positions = 131072;
    fields.usual_of = "gemma3_text";
    return fields;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_first = m.model_type == "gemma", is_third = m.model_type == "gemma3_text";
    read_heads(fields, m, 256, is_first ? 0 : 4);
    if (is_first) {
      // "gelu" of old files is meant to be the approximation.
      read_gated(fields, m, "hidden_act", "gelu_pytorch_tanh");
      if (m.activation == Activation::kGelu) m.activation = Activation::kGeluTanh;
      fields.only("hidden_activation", "gelu_pytorch_tanh");
    } else {
      read_gated(fields, m, "hidden_activation", "gelu_pytorch_tanh");
      fields.only("hidden_act", "gelu_pytorch_tanh");
    }
    read_rms_norm(fields, m, 1e-6);
    m.norm_offset = 1;
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.embed_scale = std::sqrt(static_cast<float>(m.hidden_size));
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    fields.only("use_bidirectional_attention", false);
    if (is_first) {
      m.ropes = {read_rope(fields, m)};
      return set_all_blocks(m);
    }
    m.branch_norms = true;
    m.qk_norm = is_third ? QkNorm::kHead : QkNorm::kNone;
    m.attention_scale = static_cast<float>(1 / std::sqrt(fields.positive_or("query_pre_attn_scalar", 256, 1e9)));
    m.attention_cap = read_cap(fields, "attn_logit_softcapping", is_third ? 0 : 50);
    m.logit_cap = read_cap(fields, "final_logit_softcapping", is_third ? 0 : 30);

    const int64_t window = read_window(fields, 4096);
    fields.only("sliding_window_size", window);  // said twice
    int64_t pattern = 2;                         // every so many-th layer has no window
    if (is_third) pattern = read_window_pattern(fields, 6);
    const std::vector<bool> windowed = read_layer_types(fields, m, window, [&](int64_t block) { return (block + 1) % pattern != 0; });
    if (is_third) {
      m.ropes = {read_rope(fields, m, {.theta = 1e6, .layer_type = "full_attention"}),
                 read_rope(fields, m, {.theta = 1e4, .theta_name = "rope_local_base_freq", .layer_type = "sliding_attention"})};
    } else {
      m.ropes = {read_rope(fields, m)};
    }
    set_blocks(m, windowed, window, is_third ? 1 : 0, 0);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    WeightList w(m, layer_start(index));
    w.norm(Role::kNorm1, "input_layernorm").attention();
    if (m.branch_norms) w.norm(Role::kPostNorm1, "post_attention_layernorm").norm(Role::kNorm2, "pre_feedforward_layernorm");
    else w.norm(Role::kNorm2, "post_attention_layernorm");
    w.feed_forward();
    if (m.branch_norms) w.norm(Role::kPostNorm2, "post_feedforward_layernorm");
    return w;
  }
};

}  // namespace

const Architecture& gemma_architecture() {
  static const Gemma architecture;
  return architecture;
}

}  // namespace flexgen
