#pragma once
// WeightOrder: which weight is multiplied after which. A job goes through the same weights in the same order in each step, so what came after one the last time is what will be read next. Not for two threads at once.

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "tensor/weight_view.h"

namespace flexgen {

class WeightOrder {
 public:
  /// Where a weight's first rows lie. May be out of date: for asking memory for them, which is no access.
  struct Place {
    const std::byte* data = nullptr;
    int64_t rows = 0, row_bytes = 0;
  };

  /// This weight is multiplied now; returns the one that followed it the last time, no rows if none is known.
  Place next_after(const WeightView& weight) {
    const Place now{weight.pieces.front().data, weight.pieces.front().rows, row_bytes(weight.dtype, weight.cols)};
    // Buffers through which weights pass have few places, so this is for callers who multiply what comes and goes.
    if (next_.size() > kMostWeights) next_.clear();
    if (before_ != nullptr) next_[before_] = now;
    before_ = now.data;
    const auto known = next_.find(now.data);
    return known == next_.end() ? Place() : known->second;
  }

 private:
  static constexpr size_t kMostWeights = 1 << 16;

  std::unordered_map<const std::byte*, Place> next_;
  const std::byte* before_ = nullptr;
};

}  // namespace flexgen
