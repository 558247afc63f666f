#include "model/parts/norm.h"

namespace flexgen {

void normalize(const LayerContext& c, Role role, const float* x, int64_t num_rows, std::byte* out) {
  const ModelConfig& m = c.config;
  if (!c.has(role) && m.norm_weights) return c.kernels.to_act(x, num_rows * m.hidden_size, out);
  if (m.norm == NormKind::kRms) return c.kernels.rms_norm(x, num_rows, m.hidden_size, c[role], m.norm_rule(), out);
  c.kernels.layer_norm(x, num_rows, m.hidden_size, c[role], c[bias_of(role)], m.norm_rule(), out);
}

void normalize_in_place(const LayerContext& c, Role role, float* x, int64_t num_rows) {
  const ModelConfig& m = c.config;
  if (!c.has(role)) return;
  if (m.norm == NormKind::kRms) return c.kernels.rms_norm_heads(x, num_rows, 1, m.hidden_size, c[role], m.norm_rule());
  c.kernels.layer_norm_f32(x, num_rows, m.hidden_size, c[role], c[bias_of(role)], m.norm_rule());
}

void scale_block(const LayerContext& c) {
  const ModelConfig& m = c.config;
  if (!m.block_scales.empty()) c.kernels.scale(c.hidden, c.in.num_rows * m.hidden_size, m.block_scales[static_cast<size_t>(c.layer.index)], 0);
}

}  // namespace flexgen
