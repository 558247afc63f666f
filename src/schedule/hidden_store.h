#pragma once
// HiddenStore: the residual streams of the micro-batches between layers: the first rows of each in RAM, the rest in a
// spill file. Where everything is in RAM a lease is the buffer itself; else rows pass through staging
// buffers, except when the next visit is of the same micro-batch, which takes them over in place. Between pipeline stages they come from the stage before
// and go on to the next one. Host thread only.

#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/staging_ring.h"
#include "dist/port.h"
#include "schedule/batch_plan.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/visit.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner.
class HiddenLayout {
 public:
  HiddenLayout(const Model& model, const Policy& policy);

  int64_t row_bytes = 0;
  int64_t cpu_rows = 0, disk_rows = 0;  ///< of a micro-batch's max_rows
  int64_t num_batches = 0;
  int64_t resident_bytes = 0;  ///< RAM of one micro-batch
  int64_t buffer_bytes = 0;    ///< one staging buffer; 0 if nothing is on disk
  int64_t file_stride = 0;     ///< disk of one micro-batch

  int64_t arena_bytes(const Policy& policy) const;
  int64_t file_bytes() const { return num_batches * file_stride; }
};

struct HiddenLease {
  float* rows = nullptr;  ///< [T, D]
  /// Rows that live in RAM but not in the staging buffer: copied in before the visit and out after it.
  std::byte* resident = nullptr;
  int64_t copy_in_bytes = 0, copy_out_bytes = 0;
  std::vector<Event> after;
};

class HiddenStore {
 public:
  HiddenStore(const Model& model, const Policy& policy, std::shared_ptr<File> file, Arena& arena, Lanes& lanes, StageLink link = {});

  const HiddenLayout& layout() const { return layout_; }

  /// `alone`: no other micro-batch is active in this pass, so the rows can stay where they are.
  HiddenLease acquire(const Visit& visit, const BatchPlan& plan, bool alone);
  void commit(const Visit& visit, const BatchPlan& plan, bool alone, bool needed_later, const Event& done);
  void prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans, int64_t last_layer);

 private:
  bool staged(const BatchPlan& plan) const { return plan.num_rows() > layout_.cpu_rows; }
  int64_t issue(const Visit& visit, const BatchPlan& plan, bool load);
  /// From the stage before, once everything in `free` is done; to the next stage, once `done` is.
  Event receive(const Visit& visit, const BatchPlan& plan, std::byte* rows, std::vector<Event> free);
  Event send(const Visit& visit, const BatchPlan& plan, const std::byte* rows, const Event& done);
  DiskTransfer transfer(bool write, const BatchPlan& plan, std::byte* buffer) const;

  HiddenLayout layout_;
  Lanes& lanes_;
  StageLink link_;
  std::shared_ptr<File> file_;
  std::vector<std::span<std::byte>> resident_;  ///< a batch
  std::vector<Event> computed_, sent_;          ///< a batch: its newest visit, and its newest message to the next stage
  StagingRing ring_;
  int64_t next_key_ = 0;
  int64_t first_head_layer_ = 0;
  struct Held {
    int64_t step = -1, layer = -1, key = -1;
  };
  std::vector<Held> held_;      ///< a batch: the visit whose buffer was issued last
  std::vector<Event> stored_;   ///< a batch: its last store
};

}  // namespace flexgen
