#include "model/parts/feed_forward.h"

#include "model/parts/attention.h"

namespace flexgen {
namespace {

/// h += sigmoid(Wshared_gate x) * Wdown inner for the rows of a panel.
void add_gated(const LayerContext& c, const BlockScratch& s, const std::byte* x, int64_t first, int64_t rows) {
  const int64_t D = c.config.hidden_size;
  c.kernels.linear(x, rows, c[Role::kSharedGate], {}, false, s.shared_gate);
  c.kernels.linear(s.inner, rows, c[Role::kDown], {}, false, s.branch);
  c.kernels.add_gated_rows(s.branch, rows, D, s.shared_gate, c.config.residual_scale, c.hidden + first * D);
}

}  // namespace

void compute_inner(const LayerContext& c, const BlockScratch& s, const std::byte* x, int64_t rows) {
  const ModelConfig& m = c.config;
  const int64_t F = c[Role::kUp].rows;
  Kernels& k = c.kernels;
  if (m.gated_ffn) k.linear(x, rows, c[Role::kGate], c[Role::kGateBias], false, s.gate);
  k.linear(x, rows, c[Role::kUp], c[Role::kUpBias], false, s.up);
  if (m.gated_ffn) k.gated_activate(s.gate, s.up, rows * F, m.activation, s.inner);
  else if (c.has(Role::kInnerScales)) k.divided_activate(s.up, rows, F, m.activation, c[Role::kInnerScales], s.inner);
  else k.activate(s.up, rows * F, m.activation, s.inner);
}

void add_feed_forward(const LayerContext& c, const BlockScratch& s, const std::byte* x) {
  const int64_t T = c.in.num_rows, row_bytes = size_bytes(c.kernels.act_dtype(), c.config.hidden_size);
  for (int64_t first = 0; first < T; first += kFfnPanelRows) {
    const int64_t rows = std::min(kFfnPanelRows, T - first);
    const std::byte* panel = x + first * row_bytes;
    compute_inner(c, s, panel, rows);
    if (c.has(Role::kSharedGate)) add_gated(c, s, panel, first, rows);
    else add_product(c, s, s.inner, first, rows, Role::kDown, Role::kPostNorm2);
  }
}

}  // namespace flexgen
