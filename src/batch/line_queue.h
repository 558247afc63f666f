#pragma once
// LineQueue: which line of a batch comes next. One process takes them in order; replicas draw them from one counter, a few that share at a time, so that a slow one takes fewer. One thread.

#include <cstdint>
#include <memory>
#include <optional>

#include "batch/line_order.h"
#include "net/port.h"

namespace flexgen {

class LineQueue {
 public:
  virtual ~LineQueue() = default;
  virtual std::optional<LineToDo> next() = 0;
  /// Sequences of the lines that next() will still give; of a shared queue this process's share of what is left, about. 0 only at the end.
  virtual int64_t sequences_left() const = 0;
};

/// All of `lines`, which must outlive the queue.
std::unique_ptr<LineQueue> own_lines(const LineOrder& lines);
/// The same lines on all of `num_replicas` processes, each line given to one of them.
std::unique_ptr<LineQueue> shared_lines(const LineOrder& lines, Port& port, int num_replicas);

}  // namespace flexgen
