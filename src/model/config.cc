#include "model/config.h"

#include <algorithm>

namespace flexgen {

HeadSizes ModelConfig::heads_of(int64_t block) const {
  const BlockAttention& own = attention[static_cast<size_t>(block)];
  return {num_heads, own.kv_heads > 0 ? own.kv_heads : num_kv_heads, own.head_size > 0 ? own.head_size : head_size};
}

int64_t ModelConfig::widest_q() const {
  int64_t widest = 0;
  for (int64_t block = 0; block < num_layers; ++block) widest = std::max(widest, heads_of(block).q_width());
  return widest;
}

int64_t ModelConfig::widest_kv() const {
  int64_t widest = 0;
  for (int64_t block = 0; block < num_layers; ++block) widest = std::max(widest, heads_of(block).kv_width());
  return widest;
}

int64_t ModelConfig::widest_ffn() const {
  const bool all_sparse = is_mixture() && std::find(mixture.sparse.begin(), mixture.sparse.end(), false) == mixture.sparse.end();
  return std::max(all_sparse && !mixture.joined ? 0 : ffn_size, mixture.shared_size);
}

int64_t ModelConfig::kept_row_floats() const { return (mixture.joined ? 3 : is_mixture() ? 2 : 1) * hidden_size; }

}  // namespace flexgen
