#pragma once
// Visit and Schedule: the order of all work as a pure value (FlexGen's zig-zag, section 4.2): for step, for
// layer, for batch. Random access by arithmetic.

#include <cstdint>

namespace flexgen {

struct Visit {
  int64_t step = 0, layer = 0, batch = 0;
  bool operator==(const Visit&) const = default;
};

class Schedule {
 public:
  Schedule(int64_t num_layers, int64_t num_batches)
      : num_layers_(num_layers), num_batches_(num_batches) {}

  /// Visit number n >= 0; the order has no end, the work has.
  Visit operator[](int64_t n) const {
    return {n / num_batches_ / num_layers_, n / num_batches_ % num_layers_, n % num_batches_};
  }
  int64_t num_layers() const { return num_layers_; }
  int64_t num_batches() const { return num_batches_; }

 private:
  int64_t num_layers_, num_batches_;
};

}  // namespace flexgen
