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
  /// The model must live as long.
  explicit AlikeLayers(const Model& model);

  /// Kinds are numbered in the order of the first layer that is one.
  size_t num_kinds() const { return ones_.size(); }
  size_t kind_of(size_t layer) const { return kinds_[layer]; }
  /// A layer of the kind.
  const LayerSpec& one(size_t kind) const { return *ones_[kind]; }
  /// Layers in a row, those that attend left out.
  struct Run {
    size_t kind = 0;
    int64_t count = 0;
  };
  /// All layers that do not attend, in their order.
  const std::vector<Run>& outer() const { return outer_; }

 private:
  std::vector<uint32_t> kinds_;  ///< a layer
  std::vector<const LayerSpec*> ones_;
  std::vector<Run> outer_;
};

}  // namespace flexgen
