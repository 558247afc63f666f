#pragma once
// Stager: the buffers of the compute tier through which one kind of tensor passes, and the lanes that fill and empty them. Where a CPU computes,
// the disk fills the buffers themselves. Where a GPU does, RAM is copied to them, and what comes from disk lands first in a bounce buffer
// in RAM, one behind each of them; the way back is the same. Which objects pass in which order is the stores' business. Host thread only.

#include <span>
#include <vector>

#include "memory/arena.h"
#include "memory/staging_ring.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/visit.h"

namespace flexgen {

/// What fills or empties a buffer, or a part of one.
struct Staged {
  const char* name = "";                ///< for the trace; a literal
  Visit visit;                          ///< for the trace
  std::vector<DiskTransfer> transfers;  ///< between disk and landing(); `bytes` of them in disk_bytes
  double disk_bytes = 0;
  std::vector<Event> disk_after;  ///< beside the buffer's own events
  std::vector<Copy> copies;       ///< between RAM at large and data(), GPU only
  std::vector<Event> copies_after;
  std::vector<Copy> bounce_copies;  ///< between landing() and data(), GPU only: what the transfers read or will write
};

class Stager {
 public:
  Stager() = default;
  /// `count` buffers of `buffer_bytes` in the compute tier, bounce buffers of `bounce_bytes` in RAM (0 where a CPU computes).
  Stager(Tier compute_tier, const Arenas& arenas, Lanes& lanes, int count, int64_t buffer_bytes, int64_t bounce_bytes);

  int count() const { return ring_.count(); }
  bool holds(int64_t key) const { return ring_.holds(key); }
  /// Turns the buffer over to object `key`.
  void start(int64_t key);
  /// Where compute finds the object.
  std::byte* data(int64_t key) { return checked(key).data.data(); }
  /// Where the disk's bytes of it are: data() on a CPU, the bounce buffer else.
  std::byte* landing(int64_t key) { return on_gpu_ ? bounce_.at(key).data.data() : data(key); }
  /// Fills the buffer, or a part of it.
  void load(int64_t key, Staged what);
  /// What compute must wait for: the loads, and that the buffer is free.
  const std::vector<Event>& ready(int64_t key) { return checked(key).ready; }
  /// The buffer is in use by compute until `done`.
  void use(int64_t key, const Event& done);
  /// Brings what compute left in the buffer back to RAM and disk; after use().
  struct Stored {
    Event copied;   ///< RAM has it
    Event written;  ///< the disk has it
  };
  Stored store(int64_t key, const Event& done, Staged what);

 private:
  StagingBuffer& checked(int64_t key);

  bool on_gpu_ = false;
  Lanes* lanes_ = nullptr;
  StagingRing ring_, bounce_;
  std::vector<std::vector<Event>> free_, bounce_free_;  ///< a buffer: what fills it for its object waits for these
};

void append(std::vector<Event>* events, const std::vector<Event>& more);
/// Copies from `from` to `to`, or adds to the last of `copies` if both go on where it ends.
void add_copy(std::vector<Copy>* copies, const std::byte* from, std::byte* to, int64_t bytes);
double bytes_of(const std::vector<Copy>& copies);

}  // namespace flexgen
