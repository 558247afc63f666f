// Falcon (TII 2023): q, k and v in one matrix, in each group of query heads the keys and values after them. 7B: one group, attention and feed-forward in parallel from
// one norm; 40B and 180B ("new decoder architecture"): a norm each. The older RW models, whose positions are ALiBi's, are refused.

#include <fmt/format.h>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Falcon : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"falcon"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"transformer.", ""};
    return kPrefixes;
  }
  SizeFields size_fields() const override {
    SizeFields fields;
    fields.usual_of = "falcon";
    fields.usual_heads = 71;
    fields.usual_vocab = 65024;
    fields.usual_positions = 2048;
    return fields;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "hidden_size", "num_attention_heads");
    const bool is_new = fields.flag_or("new_decoder_architecture", false), one_group = fields.flag_or("multi_query", true);
    const int64_t groups = fields.integer_or("num_kv_heads", m.num_heads, 1, m.num_heads);
    m.num_kv_heads = is_new ? groups : one_group ? 1 : m.num_heads;
    if (!is_new && groups != m.num_heads && groups != m.num_kv_heads)
      fields.refuse("num_kv_heads", fmt::format("is {}, which only the new decoder architecture has", groups));
    if (m.num_heads % m.num_kv_heads != 0) fields.refuse("num_kv_heads", fmt::format("is {}, which does not divide num_attention_heads", groups));
    m.ffn_size = fields.integer_or("ffn_hidden_size", 4 * m.hidden_size, 1, 1 << 24);
    fields.only("ff_factor", static_cast<double>(m.ffn_size) / static_cast<double>(m.hidden_size));  // Falcon 2 says it twice
    m.activation = read_activation(fields, "activation", "gelu");
    read_layer_norm(fields, m, true, "layer_norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = m.mlp_bias = fields.flag_or("bias", false);
    m.fused_qkv = true;
    m.parallel = fields.flag_or("parallel_attn", true) || is_new;
    const int64_t norms = fields.integer_or("num_ln_in_parallel_attn", is_new ? 2 : 1, 1, 2);
    if (norms == 2 && !is_new) fields.refuse("num_ln_in_parallel_attn", "is 2, which only the new decoder architecture has");
    m.separate_norms = norms == 2;
    fields.only("apply_residual_connection_post_layernorm", false);
    fields.only("alibi", false);  // that of transformers is rounded to bf16 in a way of its own
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override { return {WantedWeight::table("word_embeddings.weight", m.vocab_size, m.hidden_size)}; }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    WeightList w(m, "h." + std::to_string(index) + ".");
    w.norm(Role::kNorm1, m.separate_norms ? "ln_attn" : "input_layernorm");
    if (m.separate_norms) w.norm(Role::kNorm2, "ln_mlp");
    if (!m.parallel) w.norm(Role::kNorm2, "post_attention_layernorm");
    return w.linear(Role::kQkv, "self_attention.query_key_value", (m.num_heads + 2 * m.num_kv_heads) * m.head_size, D, m.qkv_bias)
        .linear(Role::kO, "self_attention.dense", D, D, m.output_bias)
        .linear(Role::kUp, "mlp.dense_h_to_4h", m.ffn_size, D, m.mlp_bias)
        .inner_scales("mlp.act.scales")
        .linear(Role::kDown, "mlp.dense_4h_to_h", D, m.ffn_size, m.mlp_bias);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return WeightList(m, "").norm(Role::kFinalNorm, "ln_f"); }
};

}  // namespace

const Architecture& falcon_architecture() {
  static const Falcon architecture;
  return architecture;
}

}  // namespace flexgen
