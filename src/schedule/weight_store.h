#pragma once
// WeightStore: the weights of all layers, partly resident in the tier that computes, the rest streamed: from the checkpoint's own
// files (aligned supersets by direct I/O; no second copy on disk), and to a GPU from RAM. Host thread only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/memory_item.h"
#include "model/model.h"
#include "schedule/first_loads.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/stager.h"
#include "schedule/store.h"
#include "schedule/stream_order.h"
#include "schedule/visit.h"

namespace flexgen {

/// A byte range of a file as direct I/O can read it: the aligned superset of what is wanted.
struct AlignedExtent {
  int file = 0;
  int64_t offset = 0;  ///< aligned
  int64_t bytes = 0;   ///< aligned
  int64_t skip = 0;    ///< wanted bytes start here

  static AlignedExtent around(int file, int64_t offset, int64_t bytes);
};

/// Which rows of each layer's weights are where; pure arithmetic over the model, shared with the planner. Rows in order: resident in the tier
/// that computes, then (where that is a GPU) in RAM, then on disk; the latter two pass through the staging buffers. A mixture's experts take of the faster tiers what its other weights leave,
/// evenly or (Policy::hottest_first) expert after expert.
///
/// On a CPU the disk fills memory directly, so everything lies there as aligned supersets; in a GPU rows are packed, at multiples of kDeviceAlignment.
class WeightLayout {
 public:
  /// A tensor beside a quantized matrix's codes: what of it belongs to the rows that lie there. One that belongs to all rows is in RAM or on disk, not both.
  struct Beside {
    AlignedExtent resident, host, streamed;
    int64_t resident_wanted = 0, host_wanted = 0, streamed_wanted = 0;     ///< bytes
    int64_t resident_at = 0, host_at = 0, streamed_at = 0, staged_at = 0;  ///< as Use has them
  };
  struct Use {
    int64_t resident_rows = 0, host_rows = 0, streamed_rows = 0;
    AlignedExtent resident, host, streamed;  ///< of the checkpoint's file
    int64_t resident_at = 0;                 ///< of the first resident row in the resident memory
    int64_t host_at = 0;                     ///< of the first row in RAM
    int64_t streamed_at = 0;                 ///< of the extent's first byte where the disk's bytes land
    int64_t staged_at = 0;                   ///< of the first host or streamed row in the staging buffer
    std::vector<Beside> beside;              ///< as CodeTensors has them; none of other weights
    bool lookup = false;                     ///< rows are looked up (RowLookup), never streamed
  };
  struct Layer {
    std::vector<Use> uses;
    int64_t streamed_bytes = 0;           ///< what a pass over the layer reads from disk
    int64_t host_at = 0, host_bytes = 0;  ///< its part of the RAM beside a GPU, extents one after the other
    int64_t staged_bytes = 0;             ///< of the staging buffer; on a GPU also (but for some padding) what a pass copies to it
    int64_t ring_index = -1;              ///< which of the staged layers this is; -1: all of it is resident
  };

  WeightLayout(const Model& model, const Policy& policy);
  std::vector<Layer> layers;
  Tier compute_tier = Tier::kCpu;
  int64_t resident_bytes = 0;     ///< in the compute tier
  int64_t host_bytes = 0;         ///< in RAM beside a GPU, lookup tables included
  int64_t buffer_bytes = 0;       ///< one staging buffer, in the compute tier
  int64_t bounce_bytes = 0;       ///< the RAM behind it, if that is a GPU
  int64_t load_buffer_bytes = 0;  ///< one of kLoadBuffers through which a GPU's resident share is loaded at the start
  int64_t num_streamed_layers = 0;
  int64_t streamed_bytes_per_step = 0;  ///< from disk
  int64_t staged_bytes_per_step = 0;    ///< through the staging buffers; on a GPU: host to device
  static constexpr int kLoadBuffers = 3;
  /// What it takes of each tier.
  std::vector<MemoryItem> memory(const Policy& policy) const;

 private:
  /// Places the tensors beside a matrix's codes.
  void place_beside(const CodeTensors& tensors, const WeightUse& wanted, Use* use, Layer* layer);
};

/// The trace's name for what brings the resident share to where it stays.
inline constexpr const char* kLoadResident = "load resident weights";

class WeightStore : public Store {
 public:
  /// Takes its memory from the arenas. The first pass loads the resident share through `lanes.disk_read`, each layer's just before its streamed rows, so that
  /// computing begins with the first layer and not with the last; loading the first layers begins here.
  WeightStore(const Model& model, const Policy& policy, FileSystem& files, const Arenas& arenas, Lanes& lanes);

  /// The rows of a pass are known: it loads all experts, ahead of their use, or (`chooses`) of each block those that choose() names.
  void begin_pass(int64_t pass, bool chooses) { order_.begin_pass(pass, chooses); }
  /// In a pass that chooses, before the block's first unit of experts is acquired: how many rows chose each expert [E]. Units of which none was chosen are not to be acquired, but for a pipeline stage's last layer; of the others the
  /// chosen experts are loaded, and what the views of the rest show means nothing.
  void choose(int64_t first_unit, std::span<const int32_t> rows_of_expert);

  void acquire(VisitLease& lease) override;
  /// Called for every visit of a layer of which some takes place, whether or not it does itself: all compute enqueued so far is over once `done` is.
  void leave(const Visit& visit, const Event& done);
  /// One piece of a later layer a visit, so that cache loads do not queue behind a whole layer.
  void prefetch(const Visit& visit, const Ahead& ahead) override;

  // For who looks rows up.
  /// Where a row lies that stays in memory: in the tier that computes, or in RAM beside a GPU.
  struct RowPlace {
    const std::byte *resident = nullptr, *host = nullptr;
  };
  /// Row `row` of what the layer reads as uses[use]; both null if it is on disk.
  RowPlace place_of_row(int64_t layer, size_t use, int64_t row) const;
  /// Issues the loads of those layers' shares that hold rows to be looked up; adds what is to be waited for, in the tier that computes and in RAM beside a GPU.
  void load_table(std::vector<Event>* resident, std::vector<Event>* host);
  /// The checkpoint's file of this number, open; null if no layer here reads it.
  const std::shared_ptr<File>& file(int number) const { return files_[static_cast<size_t>(number)]; }
  const WeightLayout& layout() const { return layout_; }

 private:
  using Loading = StreamOrder::Loading;
  /// Issues the next piece of `num_pieces`.
  void issue(const Loading& loading, int64_t num_pieces);
  /// Whether what the object's layer reads as uses[use] is to be loaded.
  bool is_wanted(const Loading& loading, size_t use) const;
  /// Issues the loads of these layers' resident shares.
  void load_resident(std::span<const int64_t> layers);
  void load_in_place(int64_t layer);
  void load_resident_gpu(int64_t layer);

  const Model& model_;
  WeightLayout layout_;
  Lanes& lanes_;
  std::vector<std::shared_ptr<File>> files_;
  std::span<std::byte> resident_, host_;
  Stager stager_;
  StagingRing load_ring_;
  int64_t load_key_ = 0;
  StreamOrder order_;
  std::vector<int32_t> rows_of_expert_;  ///< of the block under way, in a pass that chooses
  FirstLoads first_loads_;
  std::vector<std::vector<Event>> resident_ready_,
      host_ready_;  ///< a layer: its loads into the compute tier, and into RAM beside a GPU; none once they are done
};

}  // namespace flexgen
