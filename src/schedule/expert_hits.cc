#include "schedule/expert_hits.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace flexgen {
namespace {

/// A log_miss: no row chooses none.
constexpr double kAlwaysHit = -std::numeric_limits<double>::infinity();

}  // namespace

double expert_hit_share(const Mixture& mixture, double rows) { return unit_hit_share(mixture, 1, rows); }

double unit_hit_share(const Mixture& mixture, int64_t num_experts, double rows) { return hit_share_of(unit_log_miss(mixture, num_experts), rows); }

double unit_log_miss(const Mixture& mixture, int64_t num_experts) {
  double log_miss = 0;
  for (int64_t i = 0; i < mixture.experts_per_row; ++i) {
    const auto others = static_cast<double>(mixture.num_experts - num_experts - i);
    if (others <= 0) return kAlwaysHit;
    log_miss += std::log(others / static_cast<double>(mixture.num_experts - i));
  }
  return log_miss;
}

double hit_share_of(double log_miss, double rows) { return rows <= 0 ? 0 : 0 - std::expm1(rows * log_miss); }

namespace {

/// Of an expert that a row chooses with this chance.
double hit_share(double chance, double rows) { return chance >= 1 ? 1 : -std::expm1(rows * std::log1p(-chance)); }

}  // namespace

double expert_hit_share(const Model& model, double rows) {
  const ModelConfig& config = model.config();
  if (!model.expert_chances()) return expert_hit_share(config.mixture, rows);
  if (rows <= 0) return 0;
  double sum = 0, count = 0;
  for (int64_t block = 0; block < config.num_layers; ++block)
    for (double chance : model.expert_chances()->of_block(block)) {
      sum += hit_share(chance, rows);
      ++count;
    }
  return sum / count;
}

double unit_hit_share(const Model& model, const LayerSpec& unit, double rows) { return hit_share_of(unit_log_miss(model, unit), rows); }

double unit_log_miss(const Model& model, const LayerSpec& unit) {
  const Mixture& mixture = model.config().mixture;
  if (!model.expert_chances()) return unit_log_miss(mixture, unit.num_experts);
  const std::span<const double> chances =
      model.expert_chances()->of_block(unit.index).subspan(static_cast<size_t>(unit.first_expert), static_cast<size_t>(unit.num_experts));
  const auto count = static_cast<double>(unit.num_experts);
  const double mean = std::accumulate(chances.begin(), chances.end(), 0.0) / count;
  if (mean <= 0) return 0;
  double log_miss = 0;  // if each expert were chosen whatever else is
  for (double chance : chances) {
    if (chance >= 1) return kAlwaysHit;
    log_miss += std::log1p(-chance);
  }
  // But who chooses others does not choose these: as in a mixture of so many experts that all are chosen as often as these on average.
  const double of = static_cast<double>(mixture.experts_per_row) / mean;
  double log_miss_of_these = 0;
  for (int64_t i = 0; i < mixture.experts_per_row; ++i) {
    const double others = of - count - static_cast<double>(i);
    if (others <= 0) return kAlwaysHit;
    log_miss_of_these += std::log(others / (of - static_cast<double>(i)));
  }
  return log_miss + log_miss_of_these - count * std::log1p(-mean);
}

ChosenBytes chosen_bytes(const Model& model, const LayerSpec& unit, const WeightLayout::Layer& placed, double rows) {
  if (!model.expert_chances()) {
    const double hit = expert_hit_share(model.config().mixture, rows);
    return {hit * static_cast<double>(placed.streamed_bytes), hit * static_cast<double>(placed.host_bytes)};
  }
  ChosenBytes sum;
  if (rows <= 0) return sum;
  const std::span<const double> chances = model.expert_chances()->of_block(unit.index);
  for (size_t i = 0; i < placed.uses.size(); ++i) {
    int64_t disk_bytes = placed.uses[i].streamed.bytes, host_bytes = placed.uses[i].host.bytes;
    for (const WeightLayout::Beside& beside : placed.uses[i].beside) {
      disk_bytes += beside.streamed.bytes;
      host_bytes += beside.host.bytes;
    }
    if (disk_bytes + host_bytes == 0) continue;
    const double hit = hit_share(chances[static_cast<size_t>(unit.expert_of_use(i))], rows);
    sum.disk += hit * static_cast<double>(disk_bytes);
    sum.host += hit * static_cast<double>(host_bytes);
  }
  return sum;
}

double product_rows(const LayerSpec& layer, double rows) {
  if (rows <= 0 || layer.row_share >= 1) return rows;
  return layer.row_share * rows / -std::expm1(rows * std::log1p(-layer.row_share));
}

}  // namespace flexgen
