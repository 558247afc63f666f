#pragma once
// ExpertChances: how often rows choose each expert of a mixture, as counted in earlier runs (--expert-statistics) or as a law has it (--expert-skew). Const once made; any thread.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/config.h"

namespace flexgen {

/// How many rows chose each expert: a list for each block of the whole model, [E] long, or empty where the block has no experts or nothing was counted.
using ExpertCounts = std::vector<std::vector<int64_t>>;

class ExpertChances {
 public:
  /// An expert's chance goes by its count and 1, so that none is taken for one that nobody chooses.
  static std::shared_ptr<const ExpertChances> of_counts(const ModelConfig& config, const ExpertCounts& counts);
  /// The n-th expert of a block is chosen as often as 1 / n^exponent (Zipf's law), as far as no row can choose one twice; which is the n-th is drawn for each block, always alike. 0: all are alike.
  static std::shared_ptr<const ExpertChances> zipf(const ModelConfig& config, double exponent);

  /// That a row chooses each expert of the block, [E]; k in all.
  std::span<const double> of_block(int64_t block) const { return blocks_[static_cast<size_t>(block)].chances; }
  /// The block's experts, the one that is chosen most often first.
  std::span<const int32_t> hottest_first(int64_t block) const { return blocks_[static_cast<size_t>(block)].order; }
  /// It is known which experts are chosen most often, and not only how choices spread.
  bool are_counted() const { return counted_; }

 private:
  struct Block {
    std::vector<double> chances;
    std::vector<int32_t> order;
  };
  /// `weights`: as ExpertCounts; chances are in proportion to them.
  ExpertChances(const ModelConfig& config, const std::vector<std::vector<double>>& weights, bool counted);

  std::vector<Block> blocks_;
  bool counted_;
};

/// Different experts with these chances, which sum up to their number: systematic sampling (Madow 1949) of the experts in an order that is drawn too. The same seed gives the same experts.
void draw_experts(std::span<const double> chances, uint64_t seed, std::span<int32_t> experts);

}  // namespace flexgen
