// GPT-J (Wang and Komatsuzaki 2021): neighbours are paired in RoPE, of the first rotary_dim elements of a head; attention and feed-forward in parallel, from one
// LayerNorm; the output matrix has a bias.
//
//   h += Wout attention(rope(Wq n), rope(Wk n), Wv n) + Wout' gelu(Win n),  n = norm(h)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class GptJ : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"gptj"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"transformer.", ""};
    return kPrefixes;
  }
  SizeFields size_fields() const override { return {.layers = "n_layer", .hidden = "n_embd", .heads = "n_head", .positions = "n_positions"}; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "n_embd", "n_head");
    m.ffn_size = fields.integer_or("n_inner", 4 * m.hidden_size, 1, 1 << 24);
    m.activation = read_activation(fields, "activation_function", "gelu_new");
    read_layer_norm(fields, m, true, "layer_norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.parallel = true;
    m.rope_interleaved = true;
    fields.only("rotary", true);
    fields.only("scale_attn_weights", true);
    fields.harmless({"n_ctx"});
    const int64_t turned = fields.integer_or("rotary_dim", fields.contains("rotary_dim") ? m.head_size : 64, 2, m.head_size);
    m.ropes = {read_rope(fields, m, {.may_be_partial = true, .partial = static_cast<double>(turned) / static_cast<double>(m.head_size)})};
    set_all_blocks(m);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override { return {WantedWeight::table("wte.weight", m.vocab_size, m.hidden_size)}; }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    return WeightList(m, "h." + std::to_string(index) + ".")
        .norm(Role::kNorm1, "ln_1")
        .linear(Role::kQ, "attn.q_proj", D, D, false)
        .linear(Role::kK, "attn.k_proj", D, D, false)
        .linear(Role::kV, "attn.v_proj", D, D, false)
        .linear(Role::kO, "attn.out_proj", D, D, false)
        .linear(Role::kUp, "mlp.fc_in", m.ffn_size, D, true)
        .inner_scales("mlp.act.scales")
        .linear(Role::kDown, "mlp.fc_out", D, m.ffn_size, true);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override {
    return WeightList(m, "").norm(Role::kFinalNorm, "ln_f").add(WantedWeight::vector("lm_head.bias", m.vocab_size, Role::kOutputBias));
  }
};

}  // namespace

const Architecture& gptj_architecture() {
  static const GptJ architecture;
  return architecture;
}

}  // namespace flexgen
