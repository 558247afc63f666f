// GPT-NeoX (Black et al. 2022), Pythia (Biderman et al. 2023) and others of that code: LayerNorm and biases, q, k and v of each head in turn in one
// matrix, a share of each head turned, attention and feed-forward in parallel with a norm each.
//
//   h += Wdense attention(rope(q), rope(k), v) + W2 gelu(W1 norm2(h)),  q, k, v of Wqkv norm1(h)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class GptNeoX : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"gpt_neox"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"gpt_neox.", ""};
    return kPrefixes;
  }
  std::string_view output_name() const override { return "embed_out.weight"; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    if (m.num_kv_heads != m.num_heads || m.head_size != m.hidden_size / m.num_heads)
      fields.refuse("num_key_value_heads", "and head_dim are not fields of this family");
    read_ungated(fields, m, "hidden_act", "gelu");
    read_layer_norm(fields, m, true, "layer_norm_eps");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", true);
    m.mlp_bias = true;
    m.fused_qkv = true;
    m.parallel = fields.flag_or("use_parallel_residual", true);
    // transformers 4.44 to 4.57 wrote these two by both names.
    m.ropes = {read_rope(fields, m,
                         {.may_be_partial = true,
                          .partial = 0.25,
                          .theta_name = "rotary_emb_base",
                          .partial_name = "rotary_pct",
                          .theta_too = "rope_theta",
                          .partial_too = "partial_rotary_factor"})};
    fields.harmless({"num_steps"});  // of training (Polyglot)
    set_all_blocks(m);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override { return {WantedWeight::table("embed_in.weight", m.vocab_size, m.hidden_size)}; }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    return WeightList(m, layer_start(index))
        .norm(Role::kNorm1, "input_layernorm")
        .linear(Role::kQkv, "attention.query_key_value", 3 * D, D, m.qkv_bias)
        .linear(Role::kO, "attention.dense", D, D, m.output_bias)
        .norm(Role::kNorm2, "post_attention_layernorm")
        .linear(Role::kUp, "mlp.dense_h_to_4h", m.ffn_size, D, true)
        .inner_scales("mlp.act.scales")
        .linear(Role::kDown, "mlp.dense_4h_to_h", D, m.ffn_size, true);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return WeightList(m, "").norm(Role::kFinalNorm, "final_layer_norm"); }
};

}  // namespace

const Architecture& gpt_neox_architecture() {
  static const GptNeoX architecture;
  return architecture;
}

}  // namespace flexgen
