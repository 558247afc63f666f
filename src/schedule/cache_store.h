#pragma once
// CacheStore: keys and values in pages, some in RAM, the rest in a preallocated spill file. A visit gets pointers to
// all pages of its slots: RAM pages in place, disk pages in a staging buffer that was filled ahead; pages it
// wrote to go back to disk afterwards. Host thread only.

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/staging_ring.h"
#include "schedule/batch_plan.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/visit.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner. A micro-batch has a pool of page ids
/// [0, cpu_pages) in RAM and [cpu_pages, cpu_pages + disk_pages) on disk; an id stands for that page in every layer.
class CacheLayout {
 public:
  CacheLayout(const Model& model, const Policy& policy, DType dtype);

  /// Tokens a page holds: a function of the model alone, since results depend on it in their last bits.
  static int64_t page_tokens(const Model& model, DType dtype);

  KvGeometry geometry;
  int64_t num_layers = 0, num_batches = 0;
  int64_t first_layer = 0;  ///< the visits' number of the first layer that has a cache
  int64_t page_stride = 0;  ///< bytes a page takes, a multiple of kDirectAlignment
  int64_t cpu_pages = 0, disk_pages = 0;  ///< of a micro-batch
  int64_t buffer_bytes = 0;               ///< one staging buffer

  int64_t arena_bytes(const Policy& policy) const;
  int64_t file_bytes() const { return num_layers * num_batches * disk_pages * page_stride; }
  int64_t file_offset(int64_t layer, int64_t batch, int64_t page) const {
    return ((layer * num_batches + batch) * disk_pages + page - cpu_pages) * page_stride;
  }
};

struct CacheLease {
  /// For each slot of the plan its page pointers; AttentionSlot::pages points into these.
  std::shared_ptr<std::vector<std::vector<std::byte*>>> pages;
  std::vector<AttentionSlot> slots;
  std::vector<Event> after;
};

class CacheStore {
 public:
  /// `file` is the preallocated spill file (null if the layout has no disk pages).
  CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file, Arena& arena,
             Lanes& lanes);

  const CacheLayout& layout() const { return layout_; }

  CacheLease acquire(const Visit& visit, const BatchPlan& plan);
  /// Called after the visit's compute was enqueued: writes the pages it changed back to disk.
  void commit(const Visit& visit, const BatchPlan& plan, const Event& done);
  /// Issues the loads of visits that come after `visit` in this step, up to buffers - 1 ahead. `plans` holds the
  /// plan of each micro-batch in this step (null if idle); those of the visit's group count.
  void prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans);

 private:
  struct Staged {          ///< what of a plan goes through a staging buffer
    std::vector<int32_t> pages;  ///< disk page ids in ascending order; index = place in the buffer
    std::vector<int32_t> old;    ///< those that hold tokens from before this step
    std::vector<int32_t> dirty;  ///< those that this step writes to
  };
  const Staged& staged(const BatchPlan& plan);
  bool uses_ring(const BatchPlan* plan);
  void issue(const Visit& visit, const BatchPlan& plan);
  /// Transfers between buffer and file for `wanted`, a subset of `pages`; runs of neighbours become one.
  std::vector<DiskTransfer> transfers(bool write, const Visit& visit, const std::vector<int32_t>& pages,
                                      const std::vector<int32_t>& wanted, std::byte* buffer, double* bytes);

  struct Write {
    int64_t step;
    Event done;
  };

  CacheLayout layout_;
  Lanes& lanes_;
  std::shared_ptr<File> file_;
  std::span<std::byte> resident_;
  StagingRing ring_;
  std::map<std::pair<int64_t, int64_t>, int64_t> keys_;  ///< (layer, batch) of this step -> ring key
  int64_t next_key_ = 0;
  int64_t step_ = -1;
  std::vector<std::vector<Write>> writes_;               ///< a layer: stores that may still be under way
  std::map<int64_t, std::pair<int64_t, Staged>> staged_; ///< a batch: (step, what is staged)
};

}  // namespace flexgen
