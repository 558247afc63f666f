#include "model/expert_chances.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace flexgen {
namespace {

/// SplitMix64 (Steele et al. 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void shuffle(std::span<int32_t> items, uint64_t& state) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[next_random(state) % i]);
}

/// In proportion to the weights and `sum` in all; what would be above 1 is 1, and the others share the rest.
std::vector<double> chances_of(const std::vector<double>& weights, double sum) {
  std::vector<double> chances(weights.size(), 0);
  for (bool more = true; more;) {
    more = false;
    double left = sum, of_others = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (chances[i] >= 1) left -= 1;
      else of_others += weights[i];
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      if (chances[i] >= 1) continue;
      chances[i] = std::min(1.0, weights[i] * left / of_others);
      more = more || chances[i] >= 1;
    }
  }
  return chances;
}

}  // namespace

ExpertChances::ExpertChances(const ModelConfig& config, const std::vector<std::vector<double>>& weights, bool counted)
    : blocks_(static_cast<size_t>(config.num_layers)), counted_(counted) {
  const Mixture& mixture = config.mixture;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (!config.is_sparse(i)) continue;
    std::vector<double> own = weights[static_cast<size_t>(i)];
    own.resize(static_cast<size_t>(mixture.num_experts), own.empty() ? 1 : 0);
    Block& block = blocks_[static_cast<size_t>(i)];
    block.chances = chances_of(own, static_cast<double>(mixture.experts_per_row));
    block.order.resize(own.size());
    std::iota(block.order.begin(), block.order.end(), 0);
    std::stable_sort(block.order.begin(), block.order.end(), [&](int32_t a, int32_t b) { return own[static_cast<size_t>(a)] > own[static_cast<size_t>(b)]; });
  }
}

std::shared_ptr<const ExpertChances> ExpertChances::of_counts(const ModelConfig& config, const ExpertCounts& counts) {
  FLEXGEN_CHECK(std::ssize(counts) == config.num_layers, "counts of {} blocks, the model has {}", counts.size(), config.num_layers);
  std::vector<std::vector<double>> weights(counts.size());
  for (size_t i = 0; i < counts.size(); ++i)
    for (int64_t count : counts[i]) weights[i].push_back(static_cast<double>(count) + 1);
  return std::shared_ptr<const ExpertChances>(new ExpertChances(config, weights, true));
}

std::shared_ptr<const ExpertChances> ExpertChances::zipf(const ModelConfig& config, double exponent) {
  std::vector<std::vector<double>> weights(static_cast<size_t>(config.num_layers));
  std::vector<int32_t> ranks(static_cast<size_t>(config.mixture.num_experts));
  for (size_t i = 0; i < weights.size(); ++i) {
    std::iota(ranks.begin(), ranks.end(), 1);
    uint64_t state = i;
    shuffle(ranks, state);
    for (int32_t rank : ranks) weights[i].push_back(std::pow(rank, -exponent));
  }
  return std::shared_ptr<const ExpertChances>(new ExpertChances(config, weights, false));
}

void draw_experts(std::span<const double> chances, uint64_t seed, std::span<int32_t> experts) {
  std::vector<int32_t> order(chances.size());
  std::iota(order.begin(), order.end(), 0);
  shuffle(order, seed);
  // Chances one after the other are a ruler of length k; a comb with teeth at distance 1, laid on at random, meets k different experts.
  const double start = static_cast<double>(next_random(seed) >> 11) * 0x1p-53;
  size_t drawn = 0;
  double before = 0;
  for (size_t i = 0; i < order.size() && drawn < experts.size(); ++i) {
    before += chances[static_cast<size_t>(order[i])];
    const bool must = order.size() - i == experts.size() - drawn;  // where rounding lost the last tooth
    if (must || before > start + static_cast<double>(drawn)) experts[drawn++] = order[i];
  }
}

}  // namespace flexgen
