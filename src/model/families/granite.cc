// Granite 3 (IBM 2024): Llama with a multiplier each for embeddings, scores, what is added to the residual stream, and logits. Its mixtures ("granitemoe", and
// "granitemoeshared" with a part that all rows use) have gate and up of an expert in one matrix, and all experts of a block in one tensor. Granite 4.0's dense
// models are "granitemoehybrid" without recurrent blocks and without experts: what is left is the part that all rows use.
//
//   h = a embedding;  h += r Wo attention(q, k, v) of scores m q.k;  h += r mlp(n);  logits = Woutput norm(h) / s
//   or, of a mixture,  p = softmax of the k largest of Wrouter n;  h += r (shared(n) + sum of p_e expert_e(n))

#include <fmt/format.h>

#include "io/checked_json.h"
#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Granite : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"granite", "granitemoe", "granitemoeshared", "granitemoehybrid"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m);
    if (is_hybrid(m)) read_dense_hybrid(fields, m);
    else read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    if (m.model_type == "granite") {
      m.mlp_bias = fields.flag_or("mlp_bias", false);
    } else if (!is_hybrid(m)) {
      read_experts(fields, m, {.count = "num_local_experts", .count_too = "num_experts", .usual_count = 8, .usual_per_row = 2, .size = "intermediate_size"});
      m.mixture.normalized = true;
      if (m.model_type == "granitemoeshared") m.mixture.shared_size = fields.integer_or("shared_intermediate_size", 0, 0, 1 << 24);
    }
    m.embed_scale = static_cast<float>(fields.positive_or("embedding_multiplier", 1, 1e9));
    m.attention_scale = static_cast<float>(fields.positive_or("attention_multiplier", 1, 1e9));
    m.residual_scale = static_cast<float>(fields.positive_or("residual_multiplier", 1, 1e9));
    m.logit_scale = static_cast<float>(1 / fields.positive_or("logits_scaling", 1, 1e9));
    const bool turns = !is_hybrid(m) || fields.text_or("position_embedding_type", "") == "rope";
    if (!is_hybrid(m)) fields.only("position_embedding_type", "rope");
    m.ropes = {read_rope(fields, m)};
    set_all_blocks(m);
    for (BlockAttention& attention : m.attention)
      if (!turns) attention.rope = -1;
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    if (!m.is_mixture() && !is_hybrid(m)) return Decoder::block(m, index);
    const int64_t D = m.hidden_size, S = is_hybrid(m) ? m.ffn_size : m.mixture.shared_size;
    WeightList w(m, layer_start(index));
    w.norm(Role::kNorm1, "input_layernorm").attention().norm(Role::kNorm2, "post_attention_layernorm");
    if (m.is_mixture()) w.router("block_sparse_moe.router.layer");
    if (S == 0) return w;
    return w.part(Role::kGate, "shared_mlp.input_linear", 0, S, 2 * S, D, false)
        .part(Role::kUp, "shared_mlp.input_linear", S, S, 2 * S, D, false)
        .linear(Role::kDown, "shared_mlp.output_linear", D, S, false);
  }

  std::vector<WantedWeight> expert(const ModelConfig& m, int64_t index, int64_t expert) const override {
    const int64_t D = m.hidden_size, F = m.mixture.expert_size;
    return WeightList(m, layer_start(index) + "block_sparse_moe.")
        .part(Role::kGate, "input_linear", 0, F, 2 * F, D, false)
        .part(Role::kUp, "input_linear", F, F, 2 * F, D, false)
        .linear(Role::kDown, "output_linear", D, F, false)
        .of_expert(expert);
  }

 private:
  static bool is_hybrid(const ModelConfig& m) { return m.model_type == "granitemoehybrid"; }

  static void read_dense_hybrid(ConfigFields& fields, ModelConfig& m) {
    const char* const field = fields.find("layer_types") ? "layer_types" : "layers_block_type";
    const nlohmann::json* types = fields.find(field);
    if (!types || !types->is_array() || std::ssize(*types) != m.num_layers)
      fields.refuse("layer_types", fmt::format("must be a list of {} kinds, one a layer; where it is missing all layers are recurrent", m.num_layers));
    for (const nlohmann::json& type : *types)
      if (type != "attention" && type != "full_attention")
        fields.refuse(
            field, fmt::format("names {}; of granitemoehybrid flexgen runs models whose layers are all attention (no recurrent ones)", printable(type.dump())));
    if (const int64_t experts = fields.integer_or("num_local_experts", 8, 0, 1 << 14); experts != 0)
      fields.refuse("num_local_experts", fmt::format("is {}; of granitemoehybrid flexgen runs models without experts alone", experts));
    m.ffn_size = fields.integer_or("shared_intermediate_size", 1024, 1, 1 << 24);
    m.activation = read_activation(fields, "hidden_act", "silu");
    m.gated_ffn = true;
    fields.only("normalization_function", "rmsnorm");
    // Of experts and of recurrent blocks, of which there are none.
    fields.harmless({"intermediate_size", "num_experts_per_tok", "mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state",
                     "mamba_expand", "mamba_n_groups", "mamba_n_heads", "mamba_proj_bias", "time_step_limit"});
  }
};

}  // namespace

const Architecture& granite_architecture() {
  static const Granite architecture;
  return architecture;
}

}  // namespace flexgen
