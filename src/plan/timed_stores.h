#pragma once
// TimedStores: what each store adds to the time of visits, for the cost model: as schedule/stores.h has them, with amounts from the same layouts and times instead of leases. Times in seconds
// from the start of the run. One thread.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/expected_visits.h"
#include "plan/slot_walk.h"
#include "plan/timed_lanes.h"
#include "plan/weight_layouts.h"
#include "schedule/cache_store.h"
#include "schedule/first_loads.h"
#include "schedule/hidden_store.h"
#include "schedule/lookup_layout.h"
#include "schedule/stream_order.h"

namespace flexgen {

/// What a visit works with, as VisitLease has it.
struct TimedVisit {
  Visit visit;
  const LayerSpec* layer = nullptr;
  const BatchLoad* load = nullptr;            ///< of the micro-batch
  double after_s = 0, attention_after_s = 0;  ///< when all that its work waits for is there; what attention waits for
  bool stages_pages = false;                  ///< some of its pages pass through a staging buffer
  double moved_rows = 0;                      ///< of its activations, what rests elsewhere between visits
};

/// What the walk asks of each kind, as Store has it. A kind leaves out what takes no time.
struct TimedStore {
  static constexpr bool is_for_attention() { return false; }
  void begin_step(const StepLoad& load) { static_cast<void>(load); }
  void acquire(TimedVisit& visit) { static_cast<void>(visit); }
  void commit(const TimedVisit& visit, double done_s) {
    static_cast<void>(visit);
    static_cast<void>(done_s);
  }
  void prefetch(const Visit& visit) { static_cast<void>(visit); }
};

/// Resident shares once, in the first pass; streamed rows in every pass, ahead of their use.
class TimedWeights : public TimedStore {
 public:
  TimedWeights(WeightLayouts& layouts, const Policy& policy, ExpectedVisits& visits, TimedLanes& lanes);

  /// The run begins: the first layers' resident shares are loaded.
  void load_first() { load_resident(first_loads_.at_start()); }
  /// Or all of them are there already.
  void are_loaded() { first_loads_.all(); }
  const WeightLayout& layout() const { return *layout_; }

  // As WeightStore has them.
  void begin_pass(int64_t pass, bool chooses) { order_.begin_pass(pass, chooses); }
  bool chooses() const { return order_.chooses(); }
  void choose(int64_t first_unit, const std::vector<bool>& wanted) { order_.choose(first_unit, wanted); }
  void acquire(TimedVisit& visit);
  void prefetch(const Visit& visit);
  void leave(const Visit& visit);
  /// When the table's rows that are in memory are there.
  double load_table();

 private:
  size_t ring(int64_t number) const { return static_cast<size_t>(number % std::ssize(free_s_)); }
  void load_resident(std::span<const int64_t> layers);
  void issue(const StreamOrder::Loading& loading, int64_t num_pieces);

  const Model& model_;
  bool on_gpu_;
  const std::shared_ptr<const WeightLayout> layout_;
  ExpectedVisits& visits_;
  TimedLanes& lanes_;
  StreamOrder order_;
  FirstLoads first_loads_;
  std::vector<double> resident_ready_s_, host_ready_s_;  ///< a layer
  std::vector<double> free_s_, ready_s_;                 ///< a buffer
  struct Bounce {
    int64_t number = -1;
    double free_s = 0, copied_s = 0;  ///< of what had it before; of what has it
  };
  std::vector<Bounce> bounces_;  ///< a buffer
};

/// Rows of the embedding table: in memory, or read one by one.
class TimedLookup : public TimedStore {
 public:
  TimedLookup(const Model& model, const Policy& policy, TimedWeights& weights, TimedLanes& lanes);

  void acquire(TimedVisit& visit) {
    if (visit.layer->kind == LayerKind::kEmbed) look_up(visit);
  }

 private:
  void look_up(TimedVisit& visit);

  LookupLayout layout_;
  TimedWeights& weights_;
  TimedLanes& lanes_;
  double vocabulary_;
  double disk_share_ = 0;  ///< of the table's rows, what is read from disk
};

/// Pages that are not resident: those with tokens from before are loaded ahead, those that are written go back.
class TimedCache : public TimedStore {
 public:
  TimedCache(const Model& model, const Policy& policy, DType kv_dtype, TimedLanes& lanes);

  static constexpr bool is_for_attention() { return true; }
  void begin_step(const StepLoad& load);
  void acquire(TimedVisit& visit) {
    if (visit.layer->cache >= 0) acquire_pages(visit);
  }
  void commit(const TimedVisit& visit, double done_s) {
    if (visit.stages_pages) store(visit, done_s);
  }
  void prefetch(const Visit& visit) {
    if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
    while (issued_ < std::min<int64_t>(acquired_ + std::ssize(free_s_) - 1, std::ssize(visits_))) issue();
  }

 private:
  void acquire_pages(TimedVisit& visit);
  void store(const TimedVisit& visit, double done_s);
  const PageMoves& moves_of(const BatchLoad& load, int64_t cache) const {
    return load.moves[static_cast<size_t>(layout_.group_of[static_cast<size_t>(cache)])];
  }
  bool is_staged(const BatchLoad& load, int64_t cache) const { return load.rows > 0 && moves_of(load, cache).passing() > 0; }
  /// Of visit number `number` of this step's `visits_`.
  size_t ring(int64_t number) const { return static_cast<size_t>((before_ + number) % std::ssize(free_s_)); }
  void issue();

  CacheLayout layout_;
  TimedLanes& lanes_;
  struct StagedVisit {
    int64_t cache;
    const PageMoves* moves;
  };
  std::vector<StagedVisit> visits_;                 ///< of this step, in its order: those for which pages pass through a buffer
  int64_t before_ = 0, issued_ = 0, acquired_ = 0;  ///< visits of the steps before; of this one
  std::vector<double> ready_s_;                     ///< a visit that is issued
  std::vector<double> free_s_, bounce_free_s_;      ///< a buffer
};

/// Rows of activations that rest outside of the tier that computes.
class TimedHidden : public TimedStore {
 public:
  TimedHidden(const Model& model, const Policy& policy, TimedLanes& lanes);

  /// Loads queue up when the visit is due, and not as far ahead as HiddenStore::prefetch() has them.
  void acquire(TimedVisit& visit) {
    if (layout_.disk_rows + layout_.host_rows > 0 && visit.visit.group_size() > 1) acquire_moved(visit);
  }
  /// The rows rest until the next layer's visit, if there is one.
  void commit(const TimedVisit& visit, double done_s) {
    if (visit.moved_rows > 0 && visit.visit.layer + 1 < num_layers_)
      stored_s_[static_cast<size_t>(visit.visit.batch)] = last_stored_s_ = store(visit.moved_rows, done_s);
  }

 private:
  void acquire_moved(TimedVisit& visit);
  double load(double rows, double after_s);
  double store(double rows, double after_s);

  HiddenLayout layout_;
  bool on_gpu_, single_buffer_;
  int64_t num_layers_;
  TimedLanes& lanes_;
  std::vector<double> stored_s_;  ///< a micro-batch
  double last_stored_s_ = 0;      ///< of any: what frees a single buffer
};

/// The cost model is of one process: stages that send rows to each other are simulated (pipeline/predict_pipeline.h).
class TimedMessages : public TimedStore {};

/// One of each kind, for one policy. All that is referred to must live as long.
struct TimedStores {
  TimedStores(WeightLayouts& layouts, const Policy& policy, DType kv_dtype, ExpectedVisits& visits, TimedLanes& lanes);
  TimedStores(const TimedStores&) = delete;
  TimedStores& operator=(const TimedStores&) = delete;

  TimedWeights weights;
  TimedLookup lookup;
  TimedCache cache;
  TimedHidden hidden;
  TimedMessages messages;
};

}  // namespace flexgen
