// The mixtures among Qwen's models: qwen2_moe (Qwen1.5-MoE, Qwen2-57B-A14B; biases of q, k and v, and a part that all rows share, behind a gate of its own)
// and qwen3_moe (30B-A3B, 235B-A22B; heads normalized as in Qwen3, nothing shared). Some blocks may have a plain feed-forward part.
//
//   p = softmax(Wrouter x);  h += sigmoid(wgate x) shared(x) + sum over the k largest of p_e expert_e(x), divided by their sum where norm_topk_prob says so

#include <fmt/format.h>

#include <algorithm>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class QwenMoe : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"qwen2_moe", "qwen3_moe"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_qwen3 = m.model_type == "qwen3_moe";
    read_heads(fields, m, 0, is_qwen3 ? 4 : 16);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    if (is_qwen3) {
      m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
      m.qk_norm = QkNorm::kHead;
      // Files say so in the words of the older family; the class has norms of heads, and no part that all rows share.
      fields.only("use_qk_norm", true);
      fields.only("qkv_bias", m.qkv_bias);
      fields.only("shared_expert_intermediate_size", 0);
    } else {
      m.qkv_bias = fields.flag_or("qkv_bias", true);
      m.mixture.shared_size = fields.integer_or("shared_expert_intermediate_size", 5632, 1, 1 << 24);
      m.mixture.shared_gate = true;
    }
    read_experts(fields, m,
                 {.count = "num_experts",
                  .count_too = "num_local_experts",
                  .usual_count = is_qwen3 ? 128 : 60,
                  .usual_per_row = is_qwen3 ? 8 : 4,
                  .size = "moe_intermediate_size",
                  .usual_size = is_qwen3 ? 768 : 1408});
    m.mixture.normalized = fields.flag_or("norm_topk_prob", false);
    read_sparse_blocks(fields, m);
    m.ropes = {read_rope(fields, m)};
    int64_t window = fields.integer_or("sliding_window", fields.contains("sliding_window") ? 0 : 4096, 0, 1 << 30);
    if (!fields.flag_or("use_sliding_window", false)) window = 0;
    else if (!is_qwen3) fields.refuse("use_sliding_window", "is true; flexgen runs qwen2_moe without windows alone");
    if (!is_qwen3) read_layer_types(fields, m, 0, [](int64_t) { return false; });
    set_all_blocks(m, window);
  }

  MixtureNames mixture_names() const override { return {.shared = "mlp.shared_expert"}; }

 private:
  static void read_sparse_blocks(ConfigFields& fields, ModelConfig& m) {
    const int64_t every = fields.integer_or("decoder_sparse_step", 1, 1, 1 << 20);
    for (int64_t i = 0; i < m.num_layers; ++i) m.mixture.sparse[static_cast<size_t>(i)] = (i + 1) % every == 0;
    const nlohmann::json* dense = fields.find("mlp_only_layers");
    if (!dense) return;
    if (!dense->is_array()) fields.refuse("mlp_only_layers", "must be a list of layers");
    for (const nlohmann::json& layer : *dense) {
      if (!layer.is_number_integer() || layer.get<int64_t>() < 0 || layer.get<int64_t>() >= m.num_layers)
        fields.refuse("mlp_only_layers", fmt::format("must be a list of layers from 0 to {}", m.num_layers - 1));
      m.mixture.sparse[layer.get<size_t>()] = false;
    }
  }
};

}  // namespace

const Architecture& qwen_moe_architecture() {
  static const QwenMoe architecture;
  return architecture;
}

}  // namespace flexgen
