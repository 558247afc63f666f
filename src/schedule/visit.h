#pragma once
// Visit and Schedule: the order of all work as a pure value (FlexGen's zig-zag, section 4.2): for step, for
// layer, for batch. Random access by arithmetic. With pipeline stages the micro-batches form groups, each of which goes through all layers of a
// stage before the next (for step, for group, for layer, for batch): while a group is with one stage, others are with the others.

#include <cstdint>

namespace flexgen {

struct Visit {
  int64_t step = 0, layer = 0, batch = 0;
  int64_t group_first = 0, group_end = 1;  ///< the micro-batches of its group
  int64_t pass = 0;                        ///< a group's way through the layers; counted by the executor, as idle groups make none
  bool last_of_layer() const { return batch + 1 == group_end; }
  int64_t group_size() const { return group_end - group_first; }
  /// Steps on to the next visit of the pass; layer may run past the last.
  void advance() {
    if (++batch < group_end) return;
    batch = group_first;
    ++layer;
  }
  bool operator==(const Visit&) const = default;
};

/// Whether a visit that lies ahead will take place: one that does not costs nothing.
enum class TakesPlace { kYes, kNo, kNotKnown };

class Schedule {
 public:
  Schedule(int64_t num_layers, int64_t num_batches, int64_t num_groups = 1) : num_layers_(num_layers), num_batches_(num_batches), num_groups_(num_groups) {}

  /// Visit number n >= 0; the order has no end, the work has. Its `pass` is 0.
  Visit operator[](int64_t n) const {
    Visit visit;
    visit.step = n / num_batches_ / num_layers_;
    int64_t group = 0, rest = n % (num_batches_ * num_layers_);
    while (rest >= group_end(group) * num_layers_) ++group;
    visit.group_first = group_first(group);
    visit.group_end = group_end(group);
    rest -= visit.group_first * num_layers_;
    visit.layer = rest / visit.group_size();
    visit.batch = visit.group_first + rest % visit.group_size();
    return visit;
  }
  int64_t num_layers() const { return num_layers_; }
  int64_t num_batches() const { return num_batches_; }
  int64_t num_groups() const { return num_groups_; }
  int64_t group_first(int64_t group) const { return group * num_batches_ / num_groups_; }
  int64_t group_end(int64_t group) const { return group_first(group + 1); }

 private:
  int64_t num_layers_, num_batches_, num_groups_;
};

}  // namespace flexgen
