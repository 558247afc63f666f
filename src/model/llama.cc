// Llama (Touvron et al. 2023) and its relatives by configuration: Llama 2 and 3, Mistral (sliding window), Qwen2 (q, k, v biases),
// Qwen3 (explicit head size, RMSNorm on each head of q and k).

#include <fmt/format.h>

#include <algorithm>

#include "model/architecture.h"
#include "model/rope.h"

namespace flexgen {
namespace {

/// The one window of all layers, 0 for none. A model whose layers differ is refused.
int64_t read_window(ConfigFields& fields, const ModelConfig& m) {
  const bool is_mistral = m.model_type == "mistral", is_qwen = m.model_type.starts_with("qwen");
  int64_t window = 0;
  // transformers' defaults where a field is absent; a null is none.
  const int64_t default_window = fields.contains("sliding_window") ? 0 : 4096;
  if (is_mistral) {
    window = fields.integer_or("sliding_window", default_window, 1, 1 << 30);
  } else if (is_qwen) {
    const int64_t wide = fields.integer_or("sliding_window", default_window, 0, 1 << 30);
    const int64_t first = fields.integer_or("max_window_layers", 28, 0, 1 << 20);
    if (fields.flag_or("use_sliding_window", false) && wide > 0 && first < m.num_layers) {
      if (first > 0)
        fields.refuse("max_window_layers", fmt::format("is {}: only some layers would have a window; flexgen supports one for all layers "
                                                       "or none", first));
      window = wide;
    }
  }
  if (const nlohmann::json* types = fields.find("layer_types")) {
    const char* expected = window > 0 ? "sliding_attention" : "full_attention";
    const bool uniform = types->is_array() && static_cast<int64_t>(types->size()) == m.num_layers &&
                         std::all_of(types->begin(), types->end(), [&](const auto& type) { return type == expected; });
    if (!uniform)
      fields.refuse("layer_types", fmt::format("must name '{}' for each of the {} layers; flexgen supports one kind of attention in "
                                               "all layers, as the other fields say", expected, m.num_layers));
  }
  return window;
}

/// A block's weights in the order of Llama::block(): those that all have, then those that only some have.
enum { kNorm1, kQ, kK, kV, kO, kNorm2, kGate, kUp, kDown, kOptional };
struct Optional {
  explicit Optional(const LayerContext& c) {
    const ModelConfig& m = c.config;
    size_t next = kOptional;
    auto take = [&](bool there) { return there ? c.w[next++] : WeightView{}; };
    q_bias = take(m.qkv_bias), k_bias = take(m.qkv_bias), v_bias = take(m.qkv_bias);
    o_bias = take(m.output_bias);
    q_norm = take(m.qk_norm), k_norm = take(m.qk_norm);
    gate_bias = take(m.mlp_bias), up_bias = take(m.mlp_bias), down_bias = take(m.mlp_bias);
  }
  WeightView q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, gate_bias, up_bias, down_bias;
};

class Llama : public Architecture {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"llama", "mistral", "qwen2", "qwen3"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"model.", ""};
    return kPrefixes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    const bool is_llama = m.model_type == "llama", is_qwen2 = m.model_type == "qwen2", is_qwen3 = m.model_type == "qwen3";
    m.head_size = fields.integer_or("head_dim", is_qwen3 ? 128 : 0, 1, 1 << 16);
    if (m.head_size == 0 && m.hidden_size % m.num_heads != 0)
      fields.refuse("hidden_size", fmt::format("is {}, which is not a multiple of num_attention_heads", m.hidden_size));
    if (m.head_size == 0) m.head_size = m.hidden_size / m.num_heads;
    if (m.num_heads * m.head_size > (1 << 20))
      fields.refuse("head_dim", fmt::format("is {}, which is absurd with {} heads", m.head_size, m.num_heads));

    const int64_t usual_kv_heads = is_llama || fields.contains("num_key_value_heads") ? m.num_heads : m.model_type == "mistral" ? 8 : 32;
    m.num_kv_heads = fields.integer_or("num_key_value_heads", usual_kv_heads, 1, m.num_heads);
    if (m.num_kv_heads > m.num_heads || m.num_heads % m.num_kv_heads != 0)
      fields.refuse("num_key_value_heads", fmt::format("is {}, which does not divide num_attention_heads", m.num_kv_heads));

    m.ffn_size = fields.integer("intermediate_size", 1, 1 << 24);
    m.gated_ffn = true;
    m.activation = read_activation(fields, "hidden_act", "silu");
    m.norm_epsilon = static_cast<float>(fields.positive_or("rms_norm_eps", 1e-6, 1));
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);

    if (is_qwen2) fields.only("attention_bias", true);
    if (m.model_type == "mistral") fields.only("attention_bias", false);
    const bool bias = (is_llama || is_qwen3) && fields.flag_or("attention_bias", false);
    m.qkv_bias = bias || is_qwen2;
    m.output_bias = bias;
    if (!is_llama) fields.only("mlp_bias", false);
    m.mlp_bias = is_llama && fields.flag_or("mlp_bias", false);
    m.qk_norm = is_qwen3;
    fields.only("pretraining_tp", 1);
    fields.only("use_mrope", false);
    m.sliding_window = read_window(fields, m);
    m.inverse_frequencies = read_rope(fields, m.head_size);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override {
    return {WantedWeight::table("embed_tokens.weight", m.vocab_size, m.hidden_size)};
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    using W = WantedWeight;
    const int64_t D = m.hidden_size, QH = m.num_heads * m.head_size, KH = m.num_kv_heads * m.head_size, FF = m.ffn_size;
    std::string layer = "layers." + std::to_string(index) + ".";
    std::vector<W> w{W::vector(layer + "input_layernorm.weight", D),
                     W::matrix(layer + "self_attn.q_proj.weight", QH, D),
                     W::matrix(layer + "self_attn.k_proj.weight", KH, D),
                     W::matrix(layer + "self_attn.v_proj.weight", KH, D),
                     W::matrix(layer + "self_attn.o_proj.weight", D, QH),
                     W::vector(layer + "post_attention_layernorm.weight", D),
                     W::matrix(layer + "mlp.gate_proj.weight", FF, D),
                     W::matrix(layer + "mlp.up_proj.weight", FF, D),
                     W::matrix(layer + "mlp.down_proj.weight", D, FF)};
    if (m.qkv_bias) {
      w.push_back(W::vector(layer + "self_attn.q_proj.bias", QH));
      w.push_back(W::vector(layer + "self_attn.k_proj.bias", KH));
      w.push_back(W::vector(layer + "self_attn.v_proj.bias", KH));
    }
    if (m.output_bias) w.push_back(W::vector(layer + "self_attn.o_proj.bias", D));
    if (m.qk_norm) {
      w.push_back(W::vector(layer + "self_attn.q_norm.weight", m.head_size));
      w.push_back(W::vector(layer + "self_attn.k_norm.weight", m.head_size));
    }
    if (m.mlp_bias) {
      w.push_back(W::vector(layer + "mlp.gate_proj.bias", FF));
      w.push_back(W::vector(layer + "mlp.up_proj.bias", FF));
      w.push_back(W::vector(layer + "mlp.down_proj.bias", D));
    }
    return w;
  }

  std::vector<WantedWeight> head(const ModelConfig& m) const override {
    return {WantedWeight::vector("norm.weight", m.hidden_size)};
  }

  void forward_embed(const LayerContext& c, const EmbedScratch&) const override {
    c.kernels.gather_rows(c.in.embed_rows, c.w[0].dtype, c.config.hidden_size, false, c.hidden);
  }

  void before_attention(const LayerContext& c, const BlockScratch& s) const override {
    const ModelConfig& m = c.config;
    const int64_t T = c.in.num_rows, D = m.hidden_size;
    Kernels& k = c.kernels;
    const Optional o(c);

    // q = rope(Wq n), k = rope(Wk n), v = Wv n, n = norm1(h)
    k.rms_norm(c.hidden, T, D, c.w[kNorm1], m.norm_epsilon, s.act);
    k.linear(s.act, T, c.w[kQ], o.q_bias, false, s.q);
    k.linear(s.act, T, c.w[kK], o.k_bias, false, s.k);
    k.linear(s.act, T, c.w[kV], o.v_bias, false, s.v);
    if (m.qk_norm) {
      k.rms_norm_heads(s.q, T, m.num_heads, m.head_size, o.q_norm, m.norm_epsilon);
      k.rms_norm_heads(s.k, T, m.num_kv_heads, m.head_size, o.k_norm, m.norm_epsilon);
    }
    k.rope(s.q, T, m.num_heads, m.head_size, c.in.positions.data(), m.inverse_frequencies, m.rope_scale);
    k.rope(s.k, T, m.num_kv_heads, m.head_size, c.in.positions.data(), m.inverse_frequencies, m.rope_scale);
  }

  void after_attention(const LayerContext& c, const BlockScratch& s) const override {
    const ModelConfig& m = c.config;
    const int64_t T = c.in.num_rows, D = m.hidden_size;
    Kernels& k = c.kernels;
    const Optional o(c);

    // h += Wo attention(q, k, v)
    k.linear(s.act, T, c.w[kO], o.o_bias, true, c.hidden);

    // h += Wdown (silu(Wgate n) * Wup n), n = norm2(h)
    const int64_t act = size_bytes(k.act_dtype(), 1);
    k.rms_norm(c.hidden, T, D, c.w[kNorm2], m.norm_epsilon, s.act);
    for (int64_t first = 0; first < T; first += kFfnPanelRows) {
      const int64_t rows = std::min(kFfnPanelRows, T - first);
      const std::byte* n = s.act + first * D * act;
      k.linear(n, rows, c.w[kGate], o.gate_bias, false, s.gate);
      k.linear(n, rows, c.w[kUp], o.up_bias, false, s.up);
      k.gated_activate(s.gate, s.up, rows * m.ffn_size, m.activation, s.inner);
      k.linear(s.inner, rows, c.w[kDown], o.down_bias, true, c.hidden + first * D);
    }
  }

  const std::byte* forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const override {
    c.kernels.rms_norm(s.x, num_rows, c.config.hidden_size, c.w[0], c.config.norm_epsilon, s.act);
    return s.act;
  }
};

}  // namespace

const Architecture& llama_architecture() {
  static const Llama architecture;
  return architecture;
}

}  // namespace flexgen
