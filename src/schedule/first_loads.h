#pragma once
// FirstLoads: in which order the layers' resident shares are loaded in the first pass, and which must be on their way before what. WeightStore loads by it, and the
// cost model counts time by it. Pure.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace flexgen {

class FirstLoads {
 public:
  FirstLoads() = default;
  /// The layer that looks rows up and those that hold the same table as a tied head come first, then the others as they are computed. `streamed`: the layers
  /// of which some rows are read in every pass.
  FirstLoads(const Model& model, std::vector<int64_t> streamed);

  // Each gives the layers to load now, in order; no layer is given twice.
  /// When the run begins: all if nothing is streamed, else up to the first layer that is.
  std::span<const int64_t> at_start();
  std::span<const int64_t> before_visit(int64_t layer) { return up_to(position_[static_cast<size_t>(layer)] + 1); }
  std::span<const int64_t> before_lookup() { return up_to(num_lookup_); }
  /// Before streamed rows are read, for the `key`-th time since the start. Layers behind the last streamed one have nobody else to load them.
  std::span<const int64_t> before_streaming(int64_t key);
  std::span<const int64_t> all() { return up_to(order_.size()); }

  /// Where rows that are looked up may lie.
  std::span<const int64_t> lookup_layers() const { return std::span(order_).first(num_lookup_); }

 private:
  std::span<const int64_t> up_to(size_t count) {
    const size_t from = std::min(given_, count);
    given_ = std::max(given_, count);
    return std::span(order_).subspan(from, count - from);
  }

  std::vector<int64_t> order_, streamed_;
  std::vector<size_t> position_;  ///< of each layer in order_
  size_t num_lookup_ = 0, given_ = 0;
};

}  // namespace flexgen
