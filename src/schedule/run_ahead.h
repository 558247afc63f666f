#pragma once
// RunAhead: how far the host thread enqueues visits ahead of their computation. Each holds tables of its sequences' cache pages, which no memory plan
// knows: many sequences with long contexts have megabytes of them a visit, and a step has a visit for each layer. Host thread only.

#include <cstdint>
#include <deque>

#include "backend/event.h"

namespace flexgen {

class RunAhead {
 public:
  /// Tables of all visits under way; two visits may be, whatever theirs take.
  static constexpr int64_t kMostBytes = int64_t{16} << 20;

  /// Before a visit's tables are made: waits until those before it leave room. Rethrows the error of a visit.
  void wait_for_room() {
    forget_done();
    while (bytes_ > kMostBytes && under_way_.size() > 1) {
      under_way_.front().done.wait();
      forget_done();
    }
  }
  /// A visit with tables of `bytes` was enqueued, and is over once `done` is.
  void add(const Event& done, int64_t bytes) {
    under_way_.push_back({done, bytes});
    bytes_ += bytes;
  }

 private:
  struct Tables {
    Event done;
    int64_t bytes = 0;
  };
  void forget_done() {
    for (; !under_way_.empty() && under_way_.front().done.done(); under_way_.pop_front()) bytes_ -= under_way_.front().bytes;
  }

  std::deque<Tables> under_way_;  ///< oldest first
  int64_t bytes_ = 0;
};

}  // namespace flexgen
