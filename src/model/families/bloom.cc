// BLOOM (BigScience 2022): ALiBi instead of positions, a LayerNorm of the embedding, biases everywhere, q, k and v of each head in turn in one matrix.
//
//   h = norm(embedding);  h += Wdense attention(Wqkv n);  h += W2 gelu(W1 n),  n a norm of h

#include "model/family_fields.h"
#include "model/parts/decoder.h"

namespace flexgen {
namespace {

class Bloom : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"bloom"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"transformer.", ""};
    return kPrefixes;
  }
  SizeFields size_fields() const override {
    return {.layers = "n_layer", .hidden = "n_embed", .heads = "n_head", .positions = nullptr, .hidden_too = "hidden_size", .heads_too = "num_attention_heads"};
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "hidden_size", "n_head");
    m.ffn_size = fields.integer_or("n_inner", 4 * m.hidden_size, 1, 1 << 24);
    if (m.ffn_size != 4 * m.hidden_size) fields.refuse("n_inner", "must be 4 times hidden_size");
    m.activation = Activation::kGeluTanh;
    read_layer_norm(fields, m, true, "layer_norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = m.mlp_bias = true;
    m.fused_qkv = true;
    m.alibi_slopes = alibi_slopes(m.num_heads);
    fields.only("apply_residual_connection_post_layernorm", false);
    // How the sums of tensor-parallel training are ordered: not what is computed.
    fields.harmless({"slow_but_exact", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "bias_dropout_fusion", "masked_softmax_fusion"});
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override {
    return WeightList(m, "")
        .add(WantedWeight::table("word_embeddings.weight", m.vocab_size, m.hidden_size))
        .norm(Role::kEmbedNorm, "word_embeddings_layernorm");
  }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    return WeightList(m, "h." + std::to_string(index) + ".")
        .norm(Role::kNorm1, "input_layernorm")
        .linear(Role::kQkv, "self_attention.query_key_value", 3 * D, D, true)
        .linear(Role::kO, "self_attention.dense", D, D, true)
        .norm(Role::kNorm2, "post_attention_layernorm")
        .linear(Role::kUp, "mlp.dense_h_to_4h", m.ffn_size, D, true)
        .inner_scales("mlp.gelu_impl.scales")
        .linear(Role::kDown, "mlp.dense_4h_to_h", D, m.ffn_size, true);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return WeightList(m, "").norm(Role::kFinalNorm, "ln_f"); }
};

}  // namespace

const Architecture& bloom_architecture() {
  static const Bloom architecture;
  return architecture;
}

}  // namespace flexgen
