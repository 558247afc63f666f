#include "model/parts/attention.h"

#include "model/parts/norm.h"

namespace flexgen {
namespace {

/// One product whose rows are, for each kv head, its query heads, then its key, then its value (of models without grouped heads: q, k and v of head after head).
void project_fused(const LayerContext& c, const BlockScratch& s) {
  const HeadSizes heads = c.heads();
  const int64_t T = c.in.num_rows, G = heads.kv_heads, H = heads.head_size, queries = heads.heads / G * H, group = queries + 2 * H;
  c.kernels.linear(s.act, T, c[Role::kQkv], c[Role::kQkvBias], false, s.fused);
  c.kernels.pick_columns(s.fused, T, G, group, 0, queries, s.q);
  c.kernels.pick_columns(s.fused, T, G, group, queries, H, s.k);
  c.kernels.pick_columns(s.fused, T, G, group, queries + H, H, s.v);
}

void normalize_heads(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  const auto [A, G, H] = c.heads();
  const int64_t T = c.in.num_rows;
  if (!c.has(Role::kQNorm)) return;
  if (m.qk_norm == QkNorm::kHead) {
    c.kernels.rms_norm_heads(s.q, T, A, H, c[Role::kQNorm], m.norm_rule());
    c.kernels.rms_norm_heads(s.k, T, G, H, c[Role::kKNorm], m.norm_rule());
  } else {
    c.kernels.rms_norm_heads(s.q, T, 1, A * H, c[Role::kQNorm], m.norm_rule());
    c.kernels.rms_norm_heads(s.k, T, 1, G * H, c[Role::kKNorm], m.norm_rule());
  }
}

void clamp_heads(const LayerContext& c, const BlockScratch& s) {
  if (!c.config.qkv_limit) return;
  const HeadSizes heads = c.heads();
  c.kernels.clamp(s.q, c.in.num_rows * heads.q_width(), *c.config.qkv_limit);
  for (float* x : {s.k, s.v}) c.kernels.clamp(x, c.in.num_rows * heads.kv_width(), *c.config.qkv_limit);
}

void turn_heads(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  const int table = m.attention[static_cast<size_t>(c.layer.index)].rope;
  if (table < 0) return;
  const Rope& rope = m.ropes[static_cast<size_t>(table)];
  const RopeRule rule{rope.inverse_frequencies, rope.scale, m.rope_interleaved};
  const auto [A, G, H] = c.heads();
  c.kernels.rope(s.q, c.in.num_rows, A, H, c.in.positions.data(), rule);
  c.kernels.rope(s.k, c.in.num_rows, G, H, c.in.positions.data(), rule);
}

}  // namespace

void project_attention_inputs(const LayerContext& c, const BlockScratch& s) {
  const int64_t T = c.in.num_rows;
  if (c.config.fused_qkv) {
    project_fused(c, s);
  } else {
    c.kernels.linear(s.act, T, c[Role::kQ], c[Role::kQBias], false, s.q);
    c.kernels.linear(s.act, T, c[Role::kK], c[Role::kKBias], false, s.k);
    const int64_t width = c.heads().kv_width();
    if (c.config.attention[static_cast<size_t>(c.layer.index)].keys_are_values) c.kernels.pick_columns(s.k, T, 1, width, 0, width, s.v);
    else c.kernels.linear(s.act, T, c[Role::kV], c[Role::kVBias], false, s.v);
  }
  if (c.config.value_norm) c.kernels.rms_norm_heads(s.v, T, c.heads().kv_heads, c.heads().head_size, {}, c.config.norm_epsilon);
  if (!c.config.norm_after_rope) normalize_heads(c, s);
  clamp_heads(c, s);
  turn_heads(c, s);
  if (c.config.norm_after_rope) normalize_heads(c, s);
}

void add_product(const LayerContext& c, const BlockScratch& s, const std::byte* x, int64_t first, int64_t num_rows, Role weight, Role norm) {
  const int64_t D = c.config.hidden_size;
  float* const h = c.hidden + first * D;
  if (!c.config.adds_apart()) return c.kernels.linear(x, num_rows, c[weight], c[bias_of(weight)], true, h);
  c.kernels.linear(x, num_rows, c[weight], c[bias_of(weight)], false, s.branch);
  normalize_in_place(c, norm, s.branch, num_rows);
  c.kernels.add_scaled(s.branch, num_rows * D, c.config.residual_scale, h);
}

void add_attention(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  if (!m.adds_apart()) return add_product(c, s, s.act, 0, c.in.num_rows, Role::kO, Role::kPostNorm1);
  const int64_t row_bytes = size_bytes(c.kernels.act_dtype(), c.heads().q_width());
  for (int64_t first = 0; first < c.in.num_rows; first += kFfnPanelRows)
    add_product(c, s, s.act + first * row_bytes, first, std::min(kFfnPanelRows, c.in.num_rows - first), Role::kO, Role::kPostNorm1);
}

}  // namespace flexgen
