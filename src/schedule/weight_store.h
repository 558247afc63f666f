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
#include "model/model.h"
#include "schedule/first_loads.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/stager.h"
#include "schedule/store.h"
#include "schedule/stream_order.h"
#include "schedule/visit.h"
#include "schedule/weight_layout.h"

namespace flexgen {

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
  const std::vector<std::shared_ptr<File>>& files() const { return files_; }
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
