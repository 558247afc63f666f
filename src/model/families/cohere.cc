// Command R (Cohere 2024: "cohere") and Command R7B, Command A ("cohere2"): attention and feed-forward in parallel, from one LayerNorm without a bias; neighbours
// are paired in RoPE; logits are scaled. cohere2 has a window in three layers of four, and no RoPE in the others. Norms of q and k (Command R+) are refused.
//
//   h += Wo attention(rope(Wq n), rope(Wk n), Wv n) + Wdown (silu(Wgate n) * Wup n),  n = norm(h);  logits = s Woutput norm(h)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Cohere : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"cohere", "cohere2"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_first = m.model_type == "cohere";
    fields.only("head_dim", m.hidden_size / m.num_heads);
    read_heads(fields, m);
    read_gated(fields, m);
    read_layer_norm(fields, m, false, "layer_norm_eps");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.parallel = true;
    m.logit_scale = static_cast<float>(fields.positive_or("logit_scale", 0.0625, 1e9));
    m.rope_interleaved = true;
    fields.only("use_qk_norm", false);
    fields.harmless({"use_parallel_embedding"});  // how Cohere's own program lays the table over devices
    m.ropes = {read_rope(fields, m, {.theta = is_first ? 5e5 : 1e4})};
    if (is_first) return set_all_blocks(m);
    fields.only("position_embedding_type", "rope_gptj");
    fields.only("use_gated_activation", true);
    fields.only("use_parallel_block", true);
    fields.only("use_embedding_sharing", m.tied_embeddings);
    fields.only("rotary_pct", 1.0);
    fields.only("order_of_interleaved_layers", "local_attn_first");
    const int64_t window = read_window(fields, 4096);
    const int64_t pattern = read_window_pattern(fields, 4);
    fields.harmless({"layer_switch"});
    const std::vector<bool> windowed = read_layer_types(fields, m, window, [&](int64_t block) { return (block + 1) % pattern != 0; });
    set_blocks(m, windowed, window, 0, -1);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return WeightList(m, layer_start(index)).norm(Role::kNorm1, "input_layernorm").attention().feed_forward();
  }
};

}  // namespace

const Architecture& cohere_architecture() {
  static const Cohere architecture;
  return architecture;
}

}  // namespace flexgen
