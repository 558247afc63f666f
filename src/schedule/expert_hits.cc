#include "schedule/expert_hits.h"

#include <cmath>

namespace flexgen {

double expert_hit_share(const Mixture& mixture, double rows) { return unit_hit_share(mixture, 1, rows); }

double unit_hit_share(const Mixture& mixture, int64_t num_experts, double rows) {
  if (rows <= 0) return 0;
  double log_miss = 0;  // of one row
  for (int64_t i = 0; i < mixture.experts_per_row; ++i) {
    const auto others = static_cast<double>(mixture.num_experts - num_experts - i);
    if (others <= 0) return 1;
    log_miss += std::log(others / static_cast<double>(mixture.num_experts - i));
  }
  return -std::expm1(rows * log_miss);
}

double product_rows(const LayerSpec& layer, double rows) {
  if (rows <= 0 || layer.row_share >= 1) return rows;
  return layer.row_share * rows / -std::expm1(rows * std::log1p(-layer.row_share));
}

}  // namespace flexgen
