#pragma once
// CacheStore: keys and values in pages, some in the memory of the tier where attention runs, the rest (where that is a GPU) in RAM and in a preallocated
// spill file. A visit gets pointers to all pages of its slots: resident pages in place, others in a staging buffer
// that was filled ahead; of these, pages it wrote to go back afterwards. Host thread only.

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "schedule/batch_plan.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/stager.h"
#include "schedule/visit.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner. A micro-batch has a pool of page ids
/// resident in the tier where attention runs, then (if that is a GPU) in RAM, then on disk; an id stands for that page in every layer. The ids after these, in the same order of
/// tiers, are of prefix pages, which all micro-batches have in common.
class CacheLayout {
 public:
  CacheLayout(const Model& model, const Policy& policy, DType dtype);

  /// Tokens a page holds: a function of the model alone, since results depend on it in their last bits.
  static int64_t page_tokens(const Model& model, DType dtype);

  KvGeometry geometry;
  int64_t num_layers = 0, num_batches = 0;  ///< layers that have a cache
  std::vector<int64_t> cache_of;            ///< of each of the model's layers, LayerSpec::cache
  int64_t page_stride = 0;  ///< bytes a page takes, a multiple of kDirectAlignment
  Tier tier = Tier::kCpu;   ///< Policy::attention_tier
  int64_t resident_pages = 0, host_pages = 0, disk_pages = 0;  ///< of a micro-batch
  int64_t prefix_resident_pages = 0, prefix_host_pages = 0, prefix_disk_pages = 0;
  int64_t buffer_bytes = 0;               ///< one staging buffer, in `tier`
  int64_t bounce_bytes = 0;               ///< the RAM behind it, if that is a GPU

  int64_t num_pages() const { return resident_pages + host_pages + disk_pages; }
  int64_t prefix_pages() const { return prefix_resident_pages + prefix_host_pages + prefix_disk_pages; }
  bool is_prefix(int64_t page) const { return page >= num_pages(); }
  bool all_resident() const { return host_pages + disk_pages + prefix_host_pages + prefix_disk_pages == 0; }
  /// Memory of a tier: pages and staging buffers.
  int64_t arena_bytes(const Policy& policy, Tier of_tier) const;
  /// Of that, the staging buffers.
  int64_t buffers_arena_bytes(const Policy& policy, Tier of_tier) const;
  int64_t file_bytes() const { return share_bytes(Share::kDisk); }

  /// Where a page rests: in which share, and at which of a layer's places there.
  enum class Share { kResident, kHost, kDisk };
  struct Place {
    Share share = Share::kResident;
    int64_t index = 0;
    auto operator<=>(const Place&) const = default;
  };
  Place place_of(int64_t batch, int64_t page) const;
  /// AttentionSlot::shared of `b`, which comes after `a` in a plan.
  int64_t shared_positions(const SlotRows& a, const SlotRows& b) const;
  /// Bytes from the start of its share; `layer` of those that have a cache.
  int64_t offset_of(int64_t layer, const Place& place) const { return (layer * layer_pages(place.share) + place.index) * page_stride; }
  /// Bytes of a share, all layers together.
  int64_t share_bytes(Share share) const { return num_layers * layer_pages(share) * page_stride; }

 private:
  int64_t layer_pages(Share share) const {
    switch (share) {
      case Share::kResident: return num_batches * resident_pages + prefix_resident_pages;
      case Share::kHost: return num_batches * host_pages + prefix_host_pages;
      case Share::kDisk: break;
    }
    return num_batches * disk_pages + prefix_disk_pages;
  }
};

/// The pages that a visit may read and append to, until it commits.
struct CacheLease {
  /// For each slot of the plan its page pointers; AttentionSlot::pages points into these.
  std::shared_ptr<std::vector<std::vector<std::byte*>>> pages;
  std::vector<AttentionSlot> slots;
  std::vector<Event> after;
};

class CacheStore {
 public:
  /// `file` is the preallocated spill file (null if the layout has no disk pages).
  CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file, const Arenas& arenas,
             Lanes& lanes);

  const CacheLayout& layout() const { return layout_; }

  CacheLease acquire(const Visit& visit, const BatchPlan& plan);
  /// Called after the visit's compute was enqueued: writes the pages it changed back to disk.
  void commit(const Visit& visit, const BatchPlan& plan, const Event& done);
  /// Issues the loads of visits that come after `visit` in this step, up to buffers - 1 ahead. `plans` holds the
  /// plan of each micro-batch in this step (null if idle); those of the visit's group count.
  void prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans);

 private:
  struct Passing {         ///< what of a plan goes through a staging buffer
    using Places = std::vector<CacheLayout::Place>;  ///< in ascending order, each once
    Places pages;          ///< pages that are not resident; index = place in the buffer
    Places old;            ///< those that hold tokens from before this step
    Places dirty;          ///< those that this step writes to
    int64_t num_host = 0;  ///< of `pages`, the first so many are in RAM
  };
  const Passing& passing(const BatchPlan& plan);
  bool uses_ring(const BatchPlan* plan);
  int64_t cache_of(const Visit& visit) const { return layout_.cache_of[static_cast<size_t>(visit.layer)]; }
  void begin_step(int64_t step);
  void issue(const Visit& visit, const BatchPlan& plan);
  /// A page may have been written in an earlier step, by this slot or by the one that had it before: a load must see that, and a store come after it,
  /// as the disk may do two writes in either order.
  void wait_for_earlier_stores(const Visit& visit, Staged* what);
  /// What moves `wanted`, a subset of the plan's pages, between the buffer of `key` and where they rest; runs of neighbours become one.
  Staged moves(bool write, const Visit& visit, const Passing& what, const Passing::Places& wanted, int64_t key);

  struct Write {
    int64_t step;
    Event copied, written;  ///< RAM has it; the disk has it
  };

  CacheLayout layout_;
  std::shared_ptr<File> file_;
  std::span<std::byte> resident_, host_;
  Stager stager_;
  std::map<std::pair<int64_t, int64_t>, int64_t> keys_;  ///< (layer, batch) of this step -> ring key
  int64_t next_key_ = 0;
  int64_t step_ = -1;
  std::vector<std::vector<Write>> writes_;               ///< a layer: stores that may still be under way
  std::map<int64_t, std::pair<int64_t, Passing>> passing_;  ///< a batch: (step, what of its plan passes)
};

}  // namespace flexgen
