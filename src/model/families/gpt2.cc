// GPT-2 (Radford et al. 2019) and models of its shape (DialoGPT, Cerebras-GPT): learned positions, LayerNorm and biases everywhere. Its linear layers are transformers'
// Conv1D, so checkpoints hold each matrix transposed, q, k and v side by side in one.
//
//   h = embedding + position;  h += Wproj attention(Wq n, Wk n, Wv n);  h += Wproj' gelu(Wfc n),  n a norm of h

#include <cmath>

#include "model/family_fields.h"
#include "model/parts/decoder.h"

namespace flexgen {
namespace {

class Gpt2 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"gpt2"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"transformer.", ""};
    return kPrefixes;
  }
  SizeFields size_fields() const override {
    return {.layers = "n_layer",
            .hidden = "n_embd",
            .heads = "n_head",
            .positions = "n_positions",
            .usual_of = "gpt2",
            .usual_heads = 12,
            .usual_vocab = 50257,
            .usual_positions = 1024};
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "n_embd", "n_head");
    m.ffn_size = fields.integer_or("n_inner", 4 * m.hidden_size, 1, 1 << 24);
    m.activation = read_activation(fields, "activation_function", "gelu_new");
    read_layer_norm(fields, m, true, "layer_norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    if (!fields.flag_or("scale_attn_weights", true)) m.attention_scale = 1;
    if (fields.flag_or("scale_attn_by_inverse_layer_idx", false))
      for (int64_t i = 0; i < m.num_layers; ++i)
        m.attention[static_cast<size_t>(i)].scale =
            (m.attention_scale != 0 ? 1.0f : 1.0f / std::sqrt(static_cast<float>(m.head_size))) / static_cast<float>(i + 1);
    fields.only("n_special", 0);
    // The order of a product and its scale, and its precision, which is fp32 here anyway; the older name of n_positions; of training with special tokens.
    fields.harmless({"reorder_and_upcast_attn", "n_ctx", "predict_special_tokens"});
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override {
    return {WantedWeight::table("wte.weight", m.vocab_size, m.hidden_size),
            WantedWeight::small_table("wpe.weight", m.max_positions, m.hidden_size, Role::kPositions)};
  }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    return WeightList(m, "h." + std::to_string(index) + ".")
        .norm(Role::kNorm1, "ln_1")
        .turned_part(Role::kQ, "attn.c_attn", 0, D, 3 * D, D)
        .turned_part(Role::kK, "attn.c_attn", D, D, 3 * D, D)
        .turned_part(Role::kV, "attn.c_attn", 2 * D, D, 3 * D, D)
        .turned_part(Role::kO, "attn.c_proj", 0, D, 0, D)
        .norm(Role::kNorm2, "ln_2")
        .turned_part(Role::kUp, "mlp.c_fc", 0, m.ffn_size, 0, D)
        .turned_part(Role::kDown, "mlp.c_proj", 0, D, 0, m.ffn_size);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return WeightList(m, "").norm(Role::kFinalNorm, "ln_f"); }
};

}  // namespace

const Architecture& gpt2_architecture() {
  static const Gpt2 architecture;
  return architecture;
}

}  // namespace flexgen
