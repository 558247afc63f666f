#pragma once
// AlikeLayers: which layers of a model differ in nothing but their place, and how often their experts are chosen. A mixture has thousands of units of experts of one kind or two: what a visit
// takes, and how many are chosen where all experts are alike, is asked once for each kind. Pure.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/model.h"

namespace flexgen {

class AlikeLayers {
 public:
  explicit AlikeLayers(const Model& model);

  /// Kinds are numbered in the order of the first layer that is one.
  size_t num_kinds() const { return firsts_.size(); }
  size_t kind_of(size_t layer) const { return kinds_[layer]; }
  /// Of a unit of experts, as unit_log_miss() has it.
  double log_miss(size_t layer) const { return log_misses_[layer]; }
  /// The first layer of the kind.
  size_t first(size_t kind) const { return firsts_[kind]; }
  /// Layers in a row, those that attend left out.
  struct Run {
    size_t kind = 0;
    int64_t count = 0;
  };
  /// All layers that do not attend, in their order.
  const std::vector<Run>& outer() const { return outer_; }

 private:
  std::vector<uint32_t> kinds_;     ///< a layer
  std::vector<double> log_misses_;  ///< a layer; 0 where it has no experts
  std::vector<size_t> firsts_;      ///< a kind
  std::vector<Run> outer_;
};

}  // namespace flexgen
