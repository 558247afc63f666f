#include "model/parts/feed_forward.h"

#include "model/parts/attention.h"

namespace flexgen {

void add_feed_forward(const LayerContext& c, const BlockScratch& s, const std::byte* x) {
  const ModelConfig& m = c.config;
  const int64_t T = c.in.num_rows, row_bytes = size_bytes(c.kernels.act_dtype(), m.hidden_size);
  Kernels& k = c.kernels;
  for (int64_t first = 0; first < T; first += kFfnPanelRows) {
    const int64_t rows = std::min(kFfnPanelRows, T - first);
    const std::byte* panel = x + first * row_bytes;
    if (m.gated_ffn) k.linear(panel, rows, c[Role::kGate], c[Role::kGateBias], false, s.gate);
    k.linear(panel, rows, c[Role::kUp], c[Role::kUpBias], false, s.up);
    if (m.gated_ffn) k.gated_activate(s.gate, s.up, rows * m.ffn_size, m.activation, s.inner);
    else k.activate(s.up, rows * m.ffn_size, m.activation, s.inner);
    add_product(c, s, s.inner, first, rows, Role::kDown, Role::kPostNorm2);
  }
}

}  // namespace flexgen
