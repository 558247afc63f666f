#pragma once
// HiddenStore: the residual streams of the micro-batches between layers, and what a mixture's experts need beside them: the first rows of each in the tier that computes, the rest (where that is
// a GPU) in RAM and in a spill file. Where everything is resident a lease is the buffer itself; else rows pass through staging
// buffers, except when the next visit is of the same micro-batch, which takes them over in place. Host thread only.

#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/memory_item.h"
#include "schedule/batch_plan.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/stager.h"
#include "schedule/store.h"
#include "schedule/visit.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner.
class HiddenLayout {
 public:
  HiddenLayout(const Model& model, const Policy& policy);

  int64_t row_bytes = 0;  ///< ModelConfig::kept_row_floats
  Tier compute_tier = Tier::kCpu;
  int64_t resident_rows = 0, host_rows = 0, disk_rows = 0;  ///< of a micro-batch's max_rows; host: RAM beside a GPU
  int64_t num_batches = 0;
  int64_t resident_bytes = 0;   ///< of one micro-batch, in the compute tier
  int64_t host_bytes = 0;       ///< of one micro-batch, in RAM beside a GPU
  int64_t buffer_bytes = 0;     ///< one staging buffer, in the compute tier; 0 if everything is resident
  int64_t bounce_bytes = 0;     ///< the RAM behind it, if that is a GPU
  int64_t file_stride = 0;      ///< disk of one micro-batch
  int64_t choices_per_row = 0;  ///< Mixture::experts_per_row; choices stay in RAM
  int64_t choice_bytes = 0;     ///< RAM of one micro-batch for them

  /// What it takes of each tier.
  std::vector<MemoryItem> memory(const Policy& policy) const;
  int64_t file_bytes() const { return num_batches * file_stride; }
};

class HiddenStore : public Store {
 public:
  HiddenStore(const Model& model, const Policy& policy, std::shared_ptr<File> file, const Arenas& arenas, Lanes& lanes);

  const HiddenLayout& layout() const { return layout_; }

  /// The rows that the visit may read and write.
  void acquire(VisitLease& lease) override;
  void commit(VisitLease& lease, const Event& done) override;
  /// Up to the first visit of which it is not known whether it takes place.
  void prefetch(const Visit& visit, const Ahead& ahead) override;

 private:
  bool staged(const BatchPlan& plan) const { return plan.num_rows() > layout_.resident_rows; }
  void issue(const Visit& visit, const BatchPlan& plan, bool load);
  /// What moves the rows that are not resident between the buffer of `key` and where they rest.
  Staged moves(bool write, const Visit& visit, const BatchPlan& plan, int64_t key);

  HiddenLayout layout_;
  std::shared_ptr<File> file_;
  std::vector<std::span<std::byte>> resident_, host_, choices_;  ///< a batch
  Stager stager_;
  std::vector<Event> free_;  ///< a batch: nobody reads the rows of its newest visit any more
  int64_t next_key_ = 0;
  struct Held {
    int64_t step = -1, layer = -1, key = -1;
    bool committed = false;  ///< its compute was enqueued
  };
  std::vector<Held> held_;              ///< a batch: the visit whose buffer was issued last
  std::vector<Stager::Stored> stored_;  ///< a batch: its last store
};

}  // namespace flexgen
