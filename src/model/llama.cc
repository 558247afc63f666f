// Llama (Touvron et al. 2023) and its relatives by configuration: Llama 2 and 3, Mistral (sliding window), Qwen2 (q, k, v biases),
// Qwen3 (explicit head size, RMSNorm on each head of q and k).

#include <cmath>

#include "model/architecture.h"

namespace flexgen {
namespace {

class Llama : public Architecture {
 public:
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

  void forward_embed(LayerContext& c) const override {
    c.kernels.gather_rows(c.in.embed_rows, c.w[0].dtype, c.config.hidden_size, false, c.hidden);
  }

  void forward_block(LayerContext& c) const override {
    enum { kNorm1, kQ, kK, kV, kO, kNorm2, kGate, kUp, kDown, kOptional };
    const ModelConfig& m = c.config;
    const int64_t T = c.in.num_rows, D = m.hidden_size;
    Kernels& k = c.kernels;
    BlockScratch s(c.scratch, m, T);
    size_t next = kOptional;
    auto optional = [&](bool there) { return there ? c.w[next++] : WeightView{}; };
    const WeightView q_bias = optional(m.qkv_bias), k_bias = optional(m.qkv_bias), v_bias = optional(m.qkv_bias);
    const WeightView o_bias = optional(m.output_bias);
    const WeightView q_norm = optional(m.qk_norm), k_norm = optional(m.qk_norm);
    const WeightView gate_bias = optional(m.mlp_bias), up_bias = optional(m.mlp_bias), down_bias = optional(m.mlp_bias);

    // h += Wo attention(rope(Wq n), rope(Wk n), Wv n), n = norm1(h)
    k.rms_norm(c.hidden, T, D, c.w[kNorm1], m.norm_epsilon, s.act);
    k.linear(s.act, T, c.w[kQ], q_bias, false, s.q);
    k.linear(s.act, T, c.w[kK], k_bias, false, s.k);
    k.linear(s.act, T, c.w[kV], v_bias, false, s.v);
    if (m.qk_norm) {
      k.rms_norm_heads(s.q, T, m.num_heads, m.head_size, q_norm, m.norm_epsilon);
      k.rms_norm_heads(s.k, T, m.num_kv_heads, m.head_size, k_norm, m.norm_epsilon);
    }
    k.rope(s.q, T, m.num_heads, m.head_size, c.in.positions.data(), m.inverse_frequencies, m.rope_scale);
    k.rope(s.k, T, m.num_kv_heads, m.head_size, c.in.positions.data(), m.inverse_frequencies, m.rope_scale);
    k.append_kv(s.k, s.v, c.in.slots, c.kv);
    k.attention(s.q, c.in.slots, c.kv, attention_scale(m), m.sliding_window, s.act);
    k.linear(s.act, T, c.w[kO], o_bias, true, c.hidden);

    // h += Wdown (silu(Wgate n) * Wup n), n = norm2(h)
    const int64_t act = size_bytes(k.act_dtype(), 1);
    k.rms_norm(c.hidden, T, D, c.w[kNorm2], m.norm_epsilon, s.act);
    for (int64_t first = 0; first < T; first += kFfnPanelRows) {
      const int64_t rows = std::min(kFfnPanelRows, T - first);
      const std::byte* n = s.act + first * D * act;
      k.linear(n, rows, c.w[kGate], gate_bias, false, s.gate);
      k.linear(n, rows, c.w[kUp], up_bias, false, s.up);
      k.gated_activate(s.gate, s.up, rows * m.ffn_size, m.activation, s.inner);
      k.linear(s.inner, rows, c.w[kDown], down_bias, true, c.hidden + first * D);
    }
  }

  void forward_head(LayerContext& c, float* x, int64_t num_rows, std::byte* out) const override {
    c.kernels.rms_norm(x, num_rows, c.config.hidden_size, c.w[0], c.config.norm_epsilon, out);
  }

 private:
  static float attention_scale(const ModelConfig& m) { return 1.0f / std::sqrt(static_cast<float>(m.head_size)); }
};

}  // namespace

const Architecture& llama_architecture() {
  static const Llama architecture;
  return architecture;
}

}  // namespace flexgen
