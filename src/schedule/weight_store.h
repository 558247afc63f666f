#pragma once
// WeightStore: the weights of all layers, partly resident in RAM, the rest streamed from the checkpoint's own
// files (aligned supersets by direct I/O; no second copy on disk). Host thread only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/staging_ring.h"
#include "model/model.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
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

/// Which rows of each layer's weights are where; pure arithmetic over the model, shared with the planner.
class WeightLayout {
 public:
  struct Use {
    int64_t resident_rows = 0, streamed_rows = 0;
    AlignedExtent resident, streamed;  ///< of the checkpoint's file
    int64_t resident_at = 0;           ///< offset in the resident memory
    int64_t streamed_at = 0;           ///< offset in the staging buffer
    bool lookup = false;
  };
  struct Layer {
    std::vector<Use> uses;
    int64_t streamed_bytes = 0;  ///< what a pass over the layer reads
    int64_t ring_index = -1;     ///< which of the streamed layers this is; -1: nothing is streamed
  };

  WeightLayout(const Model& model, const Policy& policy);
  std::vector<Layer> layers;
  int64_t resident_bytes = 0;
  int64_t buffer_bytes = 0;          ///< one staging buffer
  int64_t num_streamed_layers = 0;
  int64_t streamed_bytes_per_step = 0;
  int64_t lookup_row_bytes = 0;      ///< staging for one embedding row; 0: the table is resident
  /// RAM for everything: resident, ring, lookup rows.
  int64_t arena_bytes(const Policy& policy) const;
};

struct WeightLease {
  std::vector<WeightView> views;  ///< one per use; empty for lookups
  std::vector<Event> after;       ///< compute must wait for these
};

class WeightStore {
 public:
  /// Takes its memory from the arena and starts loading the resident share through `lanes.disk_read`.
  WeightStore(const Model& model, const Policy& policy, FileSystem& files, Arena& arena, Lanes& lanes);

  /// The layer's weights for a visit; issues what was not prefetched.
  WeightLease acquire(const Visit& visit);
  /// Called after the visit's compute was enqueued.
  void commit(const Visit& visit, const Event& done);
  /// Issues this visit's share of the loads ahead: one piece of a later layer a visit, so that cache loads
  /// do not queue behind a whole layer.
  void prefetch(const Visit& visit);

  /// Pointers to the embedding rows of `tokens` for the batch's next embed visit; `after` gets what to wait for.
  std::vector<const std::byte*> lookup(const Visit& visit, std::span<const int32_t> tokens,
                                       std::vector<Event>* after);
  /// Called after the embed visit was enqueued: its staged rows are in use until `done`.
  void commit_lookup(int64_t batch, const Event& done);
  /// Blocks until the resident share is loaded; throws its error.
  void wait_resident();

  const WeightLayout& layout() const { return layout_; }

 private:
  int64_t key(int64_t pass, int64_t layer) const;
  void issue(int64_t key, int64_t piece, int64_t num_pieces);

  const Model& model_;
  WeightLayout layout_;
  Lanes& lanes_;
  std::vector<std::shared_ptr<File>> files_;
  std::span<std::byte> resident_;
  StagingRing ring_;
  int64_t issued_key_ = -1;          ///< every key up to this one is fully issued
  int64_t pieces_issued_ = 0;        ///< of key issued_key_ + 1
  std::vector<int64_t> ring_layers_; ///< layer of each ring index
  std::vector<Event> resident_ready_;
  std::vector<std::span<std::byte>> lookup_memory_;  ///< a batch
  std::vector<Event> lookup_in_use_;                 ///< a batch
};

}  // namespace flexgen
