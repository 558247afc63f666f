#include "model/config.h"

#include <algorithm>

namespace flexgen {

int64_t ModelConfig::widest_ffn() const {
  const bool all_sparse = is_mixture() && std::find(mixture.sparse.begin(), mixture.sparse.end(), false) == mixture.sparse.end();
  return std::max(all_sparse ? 0 : ffn_size, mixture.shared_size);
}

int64_t ModelConfig::kept_row_floats() const { return (is_mixture() ? 2 : 1) * hidden_size; }

}  // namespace flexgen
