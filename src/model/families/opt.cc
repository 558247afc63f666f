// OPT (Zhang et al. 2022): learned positions with an offset of 2, LayerNorm, biases everywhere, ReLU. opt-350m normalizes after
// the residual sum instead of before, has no final norm, and projects its narrower embeddings in and out.

#include "model/family_fields.h"
#include "model/parts/decoder.h"

namespace flexgen {
namespace {

constexpr int64_t kPositionOffset = 2;

class Opt : public Architecture {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"opt"};
    return kTypes;
  }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"model.decoder.", "decoder.", "model.model.decoder.", ""};
    return kPrefixes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "hidden_size", "num_attention_heads");
    m.norm = NormKind::kLayer;
    m.norm_bias = true;
    m.ffn_size = fields.integer("ffn_dim", 1, 1 << 24);
    m.embed_size = fields.integer_or("word_embed_proj_dim", m.hidden_size, 1, 1 << 20);
    m.activation = read_activation(fields, "activation_function", "relu");
    m.post_norm = !fields.flag_or("do_layer_norm_before", true);
    const bool removed = fields.flag_or("_remove_final_layer_norm", false);
    m.final_norm = !m.post_norm && !removed;
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.norm_epsilon = 1e-5f;                   // LayerNorm's own default; OPT has no field for it
    fields.only("learned_embeddings", true);  // Galactica: of positions, as they are
    fields.only("enable_bias", true);
    fields.only("layer_norm_elementwise_affine", true);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override {
    using W = WantedWeight;
    std::vector<W> w{W::table("embed_tokens.weight", m.vocab_size, m.embed_size),
                     W::small_table("embed_positions.weight", m.max_positions + kPositionOffset, m.hidden_size, Role::kPositions)};
    if (m.embed_size != m.hidden_size) w.push_back(W::small_matrix("project_in.weight", m.hidden_size, m.embed_size));
    return w;
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    using W = WantedWeight;
    const int64_t D = m.hidden_size, FF = m.ffn_size;
    std::string layer = "layers." + std::to_string(index) + ".";
    auto norm = [&](const std::string& name, const char* part) { return W::vector(layer + name + part, D); };
    return {norm("self_attn_layer_norm", ".weight"),
            norm("self_attn_layer_norm", ".bias"),
            W::matrix(layer + "self_attn.q_proj.weight", D, D),
            norm("self_attn.q_proj", ".bias"),
            W::matrix(layer + "self_attn.k_proj.weight", D, D),
            norm("self_attn.k_proj", ".bias"),
            W::matrix(layer + "self_attn.v_proj.weight", D, D),
            norm("self_attn.v_proj", ".bias"),
            W::matrix(layer + "self_attn.out_proj.weight", D, D),
            norm("self_attn.out_proj", ".bias"),
            norm("final_layer_norm", ".weight"),
            norm("final_layer_norm", ".bias"),
            W::matrix(layer + "fc1.weight", FF, D),
            W::vector(layer + "fc1.bias", FF),
            W::matrix(layer + "fc2.weight", D, FF),
            norm("fc2", ".bias")};
  }

  std::vector<WantedWeight> head(const ModelConfig& m) const override {
    using W = WantedWeight;
    std::vector<W> w;
    if (m.final_norm) {
      w.push_back(W::vector("final_layer_norm.weight", m.hidden_size));
      w.push_back(W::vector("final_layer_norm.bias", m.hidden_size));
    }
    if (m.embed_size != m.hidden_size) w.push_back(W::small_matrix("project_out.weight", m.embed_size, m.hidden_size));
    return w;
  }

  void forward_embed(const LayerContext& c, const EmbedScratch& s) const override {
    enum { kTokens, kPositions, kProjectIn };
    const ModelConfig& m = c.config;
    const int64_t T = c.in.num_rows;
    Kernels& k = c.kernels;
    if (m.embed_size == m.hidden_size) {
      k.gather_rows(c.in.embed_rows, c.w[kTokens].dtype, m.hidden_size, false, c.hidden);
    } else {
      k.gather_rows(c.in.embed_rows, c.w[kTokens].dtype, m.embed_size, false, s.narrow);
      k.to_act(s.narrow, T * m.embed_size, s.act);
      k.linear(s.act, T, c.w[kProjectIn], {}, false, c.hidden);
    }
    add_position_rows(c, c.w[kPositions], kPositionOffset);
  }

  void before_attention(const LayerContext& c, const BlockScratch& s) const override {
    // q = Wq n, k = Wk n, v = Wv n, n = norm1(h)
    const int64_t T = c.in.num_rows;
    enter(c, s, kNorm1);
    c.kernels.linear(s.act, T, c.w[kQ], c.w[kQBias], false, s.q);
    c.kernels.linear(s.act, T, c.w[kK], c.w[kKBias], false, s.k);
    c.kernels.linear(s.act, T, c.w[kV], c.w[kVBias], false, s.v);
  }

  void after_attention(const LayerContext& c, const BlockScratch& s) const override {
    const ModelConfig& m = c.config;
    const int64_t T = c.in.num_rows, D = m.hidden_size;
    Kernels& k = c.kernels;
    // h += Wo attention(q, k, v)
    k.linear(s.act, T, c.w[kO], c.w[kOBias], true, c.hidden);
    leave(c, kNorm1);

    // h += W2 relu(W1 n), n = norm2(h)
    const int64_t act = size_bytes(k.act_dtype(), 1);
    enter(c, s, kNorm2);
    for (int64_t first = 0; first < T; first += kFfnPanelRows) {
      const int64_t rows = std::min(kFfnPanelRows, T - first);
      k.linear(s.act + first * D * act, rows, c.w[kFc1], c.w[kFc1Bias], false, s.up);
      k.activate(s.up, rows * m.ffn_size, m.activation, s.inner);
      k.linear(s.inner, rows, c.w[kFc2], c.w[kFc2Bias], true, c.hidden + first * D);
    }
    leave(c, kNorm2);
  }

  const std::byte* forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const override {
    const ModelConfig& m = c.config;
    Kernels& k = c.kernels;
    if (m.final_norm) k.layer_norm(s.x, num_rows, m.hidden_size, c.w[0], c.w[1], m.norm_epsilon, s.act);
    else k.to_act(s.x, num_rows * m.hidden_size, s.act);
    if (m.embed_size == m.hidden_size) return s.act;
    k.linear(s.act, num_rows, c.w[m.final_norm ? 2 : 0], {}, false, s.projected);
    k.to_act(s.projected, num_rows * m.embed_size, s.narrow);
    return s.narrow;
  }

 private:
  enum { kNorm1, kNorm1Bias, kQ, kQBias, kK, kKBias, kV, kVBias, kO, kOBias, kNorm2, kNorm2Bias, kFc1, kFc1Bias, kFc2, kFc2Bias };
  /// What a sublayer reads, and what becomes of the residual stream after it.
  static void enter(const LayerContext& c, const BlockScratch& s, size_t norm) {
    const ModelConfig& m = c.config;
    if (m.post_norm) c.kernels.to_act(c.hidden, c.in.num_rows * m.hidden_size, s.act);
    else c.kernels.layer_norm(c.hidden, c.in.num_rows, m.hidden_size, c.w[norm], c.w[norm + 1], m.norm_epsilon, s.act);
  }
  static void leave(const LayerContext& c, size_t norm) {
    const ModelConfig& m = c.config;
    if (m.post_norm) c.kernels.layer_norm_f32(c.hidden, c.in.num_rows, m.hidden_size, c.w[norm], c.w[norm + 1], m.norm_epsilon);
  }
};

}  // namespace

const Architecture& opt_architecture() {
  static const Opt architecture;
  return architecture;
}

}  // namespace flexgen
