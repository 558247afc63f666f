#pragma once
// StagingRing: a fixed number of buffers in the compute tier through which a stream of objects passes in a known
// order. Object number k always uses buffer k mod N, so "which buffer" is arithmetic and the number of buffers is
// the only overlap knob. Used from the host thread alone.

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/event.h"
#include "base/error.h"

namespace flexgen {

/// One buffer and who uses it. A buffer has two states: *issued* (its loads were submitted: the host can go
/// on) and *ready* (the events in `ready` are done: compute can go on).
struct StagingBuffer {
  std::span<std::byte> data;
  int64_t key = -1;           ///< the object it holds or is being filled with
  std::vector<Event> ready;   ///< loads of that object
  std::vector<Event> in_use;  ///< must be done before the buffer is filled anew
};

class StagingRing {
 public:
  StagingRing() = default;
  StagingRing(std::span<std::byte> memory, int count, int64_t buffer_bytes) {
    FLEXGEN_CHECK(static_cast<int64_t>(memory.size()) >= count * buffer_bytes);
    for (int i = 0; i < count; ++i) buffers_.push_back({memory.subspan(static_cast<size_t>(i * buffer_bytes), static_cast<size_t>(buffer_bytes)), -1, {}, {}});
  }

  int count() const { return static_cast<int>(buffers_.size()); }
  bool holds(int64_t key) const { return buffer(key).key == key; }
  /// Turns the buffer over to object `key`; returns what its first load must wait for.
  std::vector<Event> start(int64_t key) {
    StagingBuffer& target = at(key);
    FLEXGEN_CHECK(target.key < key, "ring order: holds {}, wanted {}", target.key, key);
    target.key = key;
    std::vector<Event> wait_for = std::exchange(target.in_use, {});
    // Loads of an object that nobody came for may still be under way.
    wait_for.insert(wait_for.end(), target.ready.begin(), target.ready.end());
    target.ready.clear();
    return wait_for;
  }
  StagingBuffer& at(int64_t key) { return buffers_[static_cast<size_t>(key % static_cast<int64_t>(buffers_.size()))]; }

 private:
  const StagingBuffer& buffer(int64_t key) const { return buffers_[static_cast<size_t>(key % static_cast<int64_t>(buffers_.size()))]; }
  std::vector<StagingBuffer> buffers_;
};

}  // namespace flexgen
