#pragma once
// CacheStore: what layers keep of sequences (StateSpec), in pages, some in the memory of the tier where attention runs, the rest (where that is a GPU) in RAM and in a preallocated
// spill file. A visit gets pointers to all pages of its slots: resident pages in place, others in a staging buffer
// that was filled ahead; of these, pages it wrote to go back afterwards. Host thread only.

#include <algorithm>
#include <array>
#include <map>
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

/// Pure arithmetic over the model, shared with the planner. For each of Model::states() a micro-batch has a pool of page ids
/// resident in the tier where attention runs, then (if that is a GPU) in RAM, then on disk; an id stands for that page in every layer that keeps such a state. The ids after these, in the
/// same order of tiers, are of prefix pages, which all micro-batches have in common. Layers with a window have fewer pages: none that all sequences are past, and of prefixes those alone that are seen from
/// where they end.
class CacheLayout {
 public:
  CacheLayout(const Model& model, const Policy& policy, DType dtype);

  /// Tokens a page holds, in all layers: a function of the model alone, since results depend on it in their last bits.
  static int64_t page_tokens(const Model& model, DType dtype);

  /// Where a page rests: in which share, and at which of a layer's places there.
  enum class Share { kResident, kHost, kDisk };
  static constexpr size_t kNumShares = 3;
  struct Place {
    Share share = Share::kResident;
    int64_t index = 0;
    auto operator<=>(const Place&) const = default;
  };

  /// The layers that keep the same state.
  struct Group {
    StateSpec state;
    KvGeometry geometry;
    int64_t num_layers = 0;                           ///< of this process; a pipeline stage may have none
    int64_t page_stride = 0;                          ///< bytes a page takes, a multiple of kDirectAlignment
    std::array<int64_t, kNumShares> own{}, prefix{};  ///< pages a layer in each share: of a micro-batch, and of prefixes
    std::array<int64_t, kNumShares> begins{};         ///< bytes from the start of a share to this group's
    bool keeps_ends =
        false;  ///< of prefixes it keeps what is seen from where they end, in places of its own; else all, in those that all such groups number alike

    int64_t num_pages() const { return own[0] + own[1] + own[2]; }
    int64_t prefix_pages() const { return prefix[0] + prefix[1] + prefix[2]; }
    bool is_prefix(int64_t page) const { return page >= num_pages(); }
    /// Those that pass through staging buffers.
    int64_t staged_pages() const { return own[1] + own[2] + prefix[1] + prefix[2]; }
  };

  DType dtype = DType::kBF16;
  int64_t tokens_per_page = 0;
  int64_t num_batches = 0;
  int64_t pages_per_micro_batch = 0;                ///< Policy's: pages that its sequences may have together where nothing is given back
  std::array<int64_t, kNumShares> prefix_shares{};  ///< Policy::prefix_pages, as groups have them that keep all
  std::vector<Group> groups;                        ///< a state of the model
  std::vector<int64_t> cache_of;                    ///< of each of the model's layers, LayerSpec::cache
  std::vector<int64_t> group_of;                    ///< of each cache, index into groups
  Tier tier = Tier::kCpu;                           ///< Policy::attention_tier
  int64_t buffer_bytes = 0;                         ///< one staging buffer, in `tier`
  int64_t bounce_bytes = 0;                         ///< the RAM behind it, if that is a GPU

  int64_t num_caches() const { return std::ssize(group_of); }
  const Group& group_of_cache(int64_t cache) const { return groups[static_cast<size_t>(group_of[static_cast<size_t>(cache)])]; }
  /// Of prefixes in layers that keep all of them, if there are any; 0: nothing is shared.
  int64_t prefix_pages() const { return prefix_shares[0] + prefix_shares[1] + prefix_shares[2]; }
  bool all_resident() const {
    return std::all_of(groups.begin(), groups.end(), [](const Group& group) { return group.staged_pages() == 0; });
  }
  /// What it takes of each tier.
  std::vector<MemoryItem> memory(const Policy& policy) const;
  int64_t file_bytes() const { return share_bytes(Share::kDisk); }

  Place place_of(int64_t group, int64_t batch, int64_t page) const;
  /// AttentionSlot::shared of `b`, which comes after `a` in a plan.
  int64_t shared_positions(int64_t group, const SlotRows& a, const SlotRows& b) const;
  /// Bytes from the start of its share.
  int64_t offset_of(int64_t cache, const Place& place) const {
    const Group& group = group_of_cache(cache);
    return group.begins[static_cast<size_t>(place.share)] +
           (layer_in_group_[static_cast<size_t>(cache)] * layer_pages(group, place.share) + place.index) * group.page_stride;
  }
  /// Bytes of a share, all layers together.
  int64_t share_bytes(Share share) const;

 private:
  int64_t layer_pages(const Group& group, Share share) const {
    return num_batches * group.own[static_cast<size_t>(share)] + group.prefix[static_cast<size_t>(share)];
  }

  std::vector<int64_t> layer_in_group_;  ///< of each cache
};

class CacheStore : public Store {
 public:
  /// `file` is the preallocated spill file (null if the layout has no disk pages).
  CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file, const Arenas& arenas, Lanes& lanes);

  const CacheLayout& layout() const { return layout_; }
  bool is_for_attention() const override { return true; }
  /// The pages that the visit may read and append to, if its layer has a cache.
  void acquire(VisitLease& lease) override;
  /// Writes the pages that the visit changed back to where they rest.
  void commit(VisitLease& lease, const Event& done) override;
  /// Visits of this step, up to buffers - 1 ahead.
  void prefetch(const Visit& visit, const Ahead& ahead) override;

 private:
  struct Passing {                                   ///< what of a plan goes through a staging buffer
    using Places = std::vector<CacheLayout::Place>;  ///< in ascending order, each once
    Places pages;                                    ///< pages that are not resident; index = place in the buffer
    Places old;                                      ///< those that hold tokens from before this step
    Places dirty;                                    ///< those that this step writes to
    int64_t num_host = 0;                            ///< of `pages`, the first so many are in RAM
  };
  const Passing& passing(int64_t group, const BatchPlan& plan);
  /// Whether something passes through a buffer for a visit that carries out `plan`; null: it does not take place.
  bool uses_ring(const Visit& visit, const BatchPlan* plan);
  int64_t cache_of(const Visit& visit) const { return layout_.cache_of[static_cast<size_t>(visit.layer)]; }
  int64_t group_of(const Visit& visit) const { return layout_.group_of[static_cast<size_t>(cache_of(visit))]; }
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
  std::vector<std::vector<Write>> writes_;                                      ///< a layer: stores that may still be under way
  std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, Passing>> passing_;  ///< a group and batch: (step, what of its plan passes)
};

}  // namespace flexgen
