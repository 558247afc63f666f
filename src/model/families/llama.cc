// Llama (Touvron et al. 2023) and its relatives by configuration: Llama 2 and 3, Mistral (sliding window), Qwen2 (q, k, v biases),
// Qwen3 (explicit head size, RMSNorm on each head of q and k), Ministral (some layers with a window), Ministral 3.
//
//   h += Wo attention(rope(Wq n), rope(Wk n), Wv n),  n = norm1(h)
//   h += Wdown (silu(Wgate n) * Wup n),  n = norm2(h)

#include <fmt/format.h>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Llama : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"llama", "mistral", "qwen2", "qwen3", "ministral", "ministral3"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_llama = m.model_type == "llama", is_mistral = m.model_type == "mistral", is_qwen2 = m.model_type == "qwen2",
               is_qwen3 = m.model_type == "qwen3";
    const bool is_ministral = m.model_type.starts_with("ministral");
    read_heads(fields, m, is_qwen3 || m.model_type == "ministral3" ? 128 : 0, is_llama ? 0 : is_mistral || is_ministral ? 8 : 32);
    read_gated(fields, m);
    read_rms_norm(fields, m, m.model_type == "ministral3" ? 1e-5 : 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);

    if (is_qwen2) fields.only("attention_bias", true);
    if (is_mistral || is_ministral) fields.only("attention_bias", false);
    const bool bias = (is_llama || is_qwen3) && fields.flag_or("attention_bias", false);
    m.qkv_bias = bias || is_qwen2;
    m.output_bias = bias;
    if (!is_llama) fields.only("mlp_bias", false);
    m.mlp_bias = is_llama && fields.flag_or("mlp_bias", false);
    m.qk_norm = is_qwen3 ? QkNorm::kHead : QkNorm::kNone;
    if (is_qwen3) fields.only("use_qk_norm", true);
    fields.only("use_mrope", false);
    constexpr const char* kMinistral3Rope =
        R"({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1})";
    const bool is_third = m.model_type == "ministral3";
    m.ropes = {read_rope(fields, m,
                         {.theta_too = is_qwen2 ? "rotary_emb_base" : nullptr,  // CodeQwen1.5
                          .grows_queries = is_third,
                          .usual = is_third ? kMinistral3Rope : nullptr})};
    if (is_qwen2) read_dual_chunks(fields, m);
    read_windows(fields, m);
  }

 private:
  /// Attention in chunks with positions of their own (Qwen2.5-1M): up to the length of training it is like any.
  static void read_dual_chunks(ConfigFields& fields, ModelConfig& m) {
    const char* const name = "dual_chunk_attention_config";
    const nlohmann::json* object = fields.find(name);
    if (!object) return;
    if (!object->is_object()) fields.refuse(name, "must be an object");
    ConfigFields chunks = fields.inner(*object, name);
    const int64_t trained = chunks.integer("original_max_position_embeddings", 1, int64_t{1} << 31);
    chunks.harmless({"chunk_size", "local_size"});
    chunks.finish();
    hold_to_positions(fields, m, fmt::format("'{}' has other positions", name), trained);
  }

  static void read_windows(ConfigFields& fields, ModelConfig& m) {
    int64_t window = 0, first = 0;
    // transformers' defaults where a field is absent.
    if (m.model_type == "ministral3") {
      window = read_window(fields, 0);
    } else if (m.model_type == "mistral" || m.model_type == "ministral") {
      window = read_window(fields, 4096);
    } else if (m.model_type.starts_with("qwen")) {
      window = fields.integer_or("sliding_window", fields.contains("sliding_window") ? 0 : 4096, 0, 1 << 30);  // 0 is none, as null is
      first = fields.integer_or("max_window_layers", 28, 0, 1 << 20);
      if (!fields.flag_or("use_sliding_window", false)) window = 0;
    }
    auto usual_type = [&](int64_t block) { return window > 0 && block >= first; };
    const std::vector<bool> windowed = read_layer_types(fields, m, window, usual_type);
    for (int64_t block = 0; block < m.num_layers; ++block) {
      const bool has_window = windowed[static_cast<size_t>(block)];
      if (!m.model_type.starts_with("qwen") && m.model_type != "ministral" && has_window != usual_type(block))
        fields.refuse("layer_types", fmt::format("names another kind for layer {} than '{}', which the other fields say", block,
                                                 usual_type(block) ? "sliding_attention" : "full_attention"));
      m.attention[static_cast<size_t>(block)] = {has_window ? window : 0, 0};
    }
  }
};

}  // namespace

const Architecture& llama_architecture() {
  static const Llama architecture;
  return architecture;
}

}  // namespace flexgen
