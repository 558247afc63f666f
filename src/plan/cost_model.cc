#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "model/scratch.h"
#include "plan/weight_layouts.h"
#include "schedule/cache_store.h"
#include "schedule/expert_hits.h"
#include "schedule/first_loads.h"
#include "schedule/hidden_store.h"
#include "schedule/lookup_layout.h"
#include "schedule/pass_walk.h"
#include "schedule/stream_order.h"
#include "schedule/weight_layout.h"

namespace flexgen {
namespace {

/// When each lane and buffer is free, visit by visit, in the order in which the executor submits. Times in seconds from the start of the run.
class Timeline {
 public:
  /// `reads_logits`: as the workload says; `weights_in_place`: the resident ones need no loading.
  Timeline(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, bool reads_logits, bool weights_in_place)
      : model_(layouts.model()), alike_(layouts.alike()), hardware_(hardware), precision_(precision), policy_(policy), on_gpu_(policy.on_gpu()),
        reads_logits_(reads_logits), beside_(policy.attention_beside()), buffers_(policy.buffers), layout_(layouts.layout(policy)), weights_(*layout_),
        lookup_(model_, policy), cache_(model_, policy, precision.kv), hidden_(model_, policy) {
    const Model& model = model_;
    const auto num_batches = static_cast<size_t>(policy.num_micro_batches);
    weight_free_s_.assign(static_cast<size_t>(buffers_), 0);
    weight_ready_s_.assign(static_cast<size_t>(buffers_), 0);
    cache_free_s_.assign(static_cast<size_t>(buffers_), 0);
    bounces_.resize(static_cast<size_t>(buffers_));
    cache_bounce_free_s_.assign(static_cast<size_t>(buffers_), 0);
    results_s_.assign(num_batches, 0);
    stored_s_.assign(num_batches, 0);
    std::vector<int64_t> streamed;
    for (size_t layer = 0; layer < weights_.layers.size(); ++layer)
      if (weights_.layers[layer].ring_index >= 0) streamed.push_back(static_cast<int64_t>(layer));
    order_ = StreamOrder(model, streamed, buffers_, policy.max_choosing_rows > 0);
    batch_carries_.assign(num_batches, kHalf);
    hits_.resize(model.expert_chances() ? model.layers().size() : alike_.num_kinds());
    if (lookup_.table) {
      const int table = model.layers().front().uses[*lookup_.table].weight;
      auto resident = static_cast<double>(lookup_.resident_rows + lookup_.host_rows);
      for (size_t layer = 0; layer < model.layers().size(); ++layer)
        for (size_t use = 0; model.layers()[layer].kind == LayerKind::kHead && use < weights_.layers[layer].uses.size(); ++use)
          if (model.layers()[layer].uses[use].weight == table)
            resident += static_cast<double>(weights_.layers[layer].uses[use].resident_rows + weights_.layers[layer].uses[use].host_rows);
      lookup_share_ =
          (on_gpu_ ? lookup_.bounce_bytes : lookup_.row_bytes) > 0 ? std::max(0.0, 1 - resident / static_cast<double>(model.config().vocab_size)) : 0;
    }
    resident_ready_s_.assign(weights_.layers.size(), 0);
    host_ready_s_.assign(weights_.layers.size(), 0);
    first_loads_ = FirstLoads(model, std::move(streamed));
    if (weights_in_place) first_loads_.all();
    else load_resident(first_loads_.at_start());
  }

  double now_s() const { return std::max({compute_free_s_, write_free_s_, read_free_s_, h2d_free_s_, d2h_free_s_, cpu_free_s_, host_s_}); }
  double loaded_bytes() const { return static_cast<double>(weights_.resident_bytes + weights_.host_bytes); }
  double read_bytes() const { return read_bytes_; }
  double write_bytes() const { return write_bytes_; }
  const LaneTimes& busy() const { return busy_; }

  void step(const StepLoad& load);

 private:
  struct Pass;
  size_t ring(int64_t key) const { return static_cast<size_t>(key % buffers_); }
  const PageMoves& moves_of(const BatchLoad& batch, int64_t cache) const {
    return batch.moves[static_cast<size_t>(cache_.group_of[static_cast<size_t>(cache)])];
  }
  bool stages_cache(const BatchLoad& batch, int64_t cache) const { return batch.rows > 0 && moves_of(batch, cache).passing() > 0; }

  /// The stage of a visit that follows attention beside the GPU.
  struct Pending {
    Visit visit;
    double uploaded_s, time_s, hidden_rows;
  };
  void finish_pending() {
    if (!pending_) return;
    const Pending stage = *std::exchange(pending_, std::nullopt);
    compute_free_s_ = std::max({compute_free_s_, stage.uploaded_s, host_s_}) + stage.time_s;
    busy_[LaneKind::kCompute] += stage.time_s;
    results_s_[static_cast<size_t>(stage.visit.batch)] = compute_free_s_;
    computed(stage.visit, stage.hidden_rows, compute_free_s_);
    release_weights(stage.visit);
  }
  /// The visit's rows rest until the next layer's, if there is one.
  void computed(const Visit& visit, double hidden_rows, double end_s) {
    if (hidden_rows > 0 && visit.layer + 1 < std::ssize(weights_.layers))
      stored_s_[static_cast<size_t>(visit.batch)] = last_stored_s_ = store_hidden(hidden_rows, end_s);
  }
  /// One lane computes in order, so the last visit's end covers the earlier ones.
  void release_weights(const Visit& visit) {
    if (!visit.last_of_layer()) return;
    const int64_t number = order_.number_of(visit.pass, visit.layer);
    if (number >= 0) weight_free_s_[ring(number)] = compute_free_s_;
  }

  /// Of a unit, in this step: the chance that it is chosen, by any row and by those of each micro-batch, what a visit of these then takes, and the share of its bytes that a chosen one reads from
  /// disk, and copies from the RAM beside a GPU.
  struct HitShares {
    bool is_known = false;
    double whole = 0, disk = 0, host = 0;
    std::vector<double> of_batch, visit_s;
  };
  const HitShares& hits_of(size_t layer) {
    // Where nothing is known of experts, one layer says it of all that are alike.
    HitShares& hit = hits_[model_.expert_chances() ? layer : alike_.kind_of(layer)];
    if (hit.is_known) return hit;
    hit.is_known = true;
    hit.disk = hit.host = 0;
    hit.of_batch.clear();
    hit.visit_s.clear();
    const LayerSpec& unit = model_.layers()[layer];
    const WeightLayout::Layer& placed = weights_.layers[layer];
    const double log_miss = alike_.log_miss(layer);
    hit.whole = hit_share_of(log_miss, rows_);
    if (hit.whole > 0 && !model_.expert_chances()) {
      hit.disk = hit.host = expert_hit_share(model_, rows_) / hit.whole;
    } else if (hit.whole > 0) {
      const ChosenBytes chosen = chosen_bytes(model_, unit, placed, rows_);
      if (placed.streamed_bytes > 0) hit.disk = chosen.disk / static_cast<double>(placed.streamed_bytes) / hit.whole;
      if (placed.host_bytes > 0) hit.host = chosen.host / static_cast<double>(placed.host_bytes) / hit.whole;
    }
    for (double rows : batch_rows_) {
      const double share = hit_share_of(log_miss, rows);
      hit.of_batch.push_back(share);
      hit.visit_s.push_back(share > 0 ? outer_visit_time_s(hardware_, precision_, policy_, unit, rows, share) : 0);
    }
    return hit;
  }
  /// Of a visit of all the micro-batch's rows to a layer that does not attend, in this step.
  double outer_visit_s(size_t layer, size_t batch) {
    double& known_s = outer_visit_s_[alike_.kind_of(layer) * batch_rows_.size() + batch];
    if (known_s < 0) {
      const LayerSpec& spec = model_.layers()[layer];
      known_s = outer_visit_time_s(hardware_, precision_, policy_, spec, spec.kind == LayerKind::kHead ? batch_logit_rows_[batch] : batch_rows_[batch]);
    }
    return known_s;
  }
  /// The host waits for what the block's rows choose: as many units as are expected, evenly spread.
  void choose(size_t first_unit) {
    host_s_ = std::max(host_s_, compute_free_s_);
    first_unit_ = first_unit;
    wanted_.clear();
    wanted_by_.clear();
    auto happens = [](double& carry, double share) {
      carry += share;
      const bool whole = carry >= 1;
      if (whole) carry -= 1;
      return whole;
    };
    for (size_t layer = first_unit; layer < weights_.layers.size() && model_.layers()[layer].kind == LayerKind::kExperts; ++layer) {
      const HitShares& hit = hits_of(layer);
      wanted_.push_back(happens(unit_carry_, hit.whole));
      for (size_t b = 0; b < batch_rows_.size(); ++b) wanted_by_.push_back(wanted_.back() && happens(batch_carries_[b], hit.of_batch[b] / hit.whole));
    }
    order_.choose(static_cast<int64_t>(first_unit), wanted_);
  }
  bool is_wanted(size_t layer) const { return wanted_[layer - first_unit_]; }
  bool is_wanted_by(size_t layer, size_t batch) const { return wanted_by_[(layer - first_unit_) * batch_rows_.size() + batch]; }

  /// A piece of work in the disk read lane; returns when it is done.
  double read(double bytes, double after_s) {
    double time_s = hardware_.disk.request_s + bytes / hardware_.disk.read_bytes_per_s;
    unpaid_disk_s_ += time_s;
    time_s += hardware_.disk.write_share_of_read * std::exchange(unpaid_write_s_, 0);
    read_free_s_ = std::max({read_free_s_, host_s_, after_s}) + time_s;
    busy_[LaneKind::kDiskRead] += time_s;
    read_bytes_ += bytes;
    return read_free_s_;
  }
  double write(double bytes, double after_s) {
    const double time_s = hardware_.disk.request_s + bytes / hardware_.disk.write_bytes_per_s;
    unpaid_disk_s_ += time_s;
    unpaid_write_s_ += time_s;
    write_free_s_ = std::max({write_free_s_, host_s_, after_s}) + time_s;
    busy_[LaneKind::kDiskWrite] += time_s;
    write_bytes_ += bytes;
    return write_free_s_;
  }
  /// A copy between RAM and a GPU; returns when it is done.
  double copy(LaneKind lane, double bytes, double after_s) {
    if (bytes <= 0) return after_s;
    const double time_s = hardware_.copy_s + bytes / (lane == LaneKind::kH2d ? hardware_.h2d_bytes_per_s : hardware_.d2h_bytes_per_s);
    double& free_s = lane == LaneKind::kH2d ? h2d_free_s_ : d2h_free_s_;
    free_s = std::max({free_s, host_s_, after_s}) + time_s;
    busy_[lane] += time_s;
    return free_s;
  }
  /// A copy to a GPU that does not queue behind the large ones; it takes its share of the bus from them.
  double copy_small(double bytes, double after_s) {
    const double time_s = hardware_.copy_s + bytes / hardware_.h2d_bytes_per_s;
    h2d_small_free_s_ = std::max({h2d_small_free_s_, host_s_, after_s}) + time_s;
    h2d_free_s_ += time_s;
    busy_[LaneKind::kH2d] += time_s;
    return h2d_small_free_s_;
  }
  /// Logits, or the largest of each row, go down to the processor beside the GPU panel by panel; returns when all are read.
  double read_logits(const LayerSpec& head, double rows, double after_s) {
    for (double left = rows; left > 0; left -= kLogitPanelRows) {
      const double panel = std::min<double>(left, kLogitPanelRows), logits = panel * static_cast<double>(head.vocab_count);
      const double down_s = copy(LaneKind::kD2h, logit_bytes_down(head, panel, reads_logits_), after_s);
      ComputeAmount amount;
      amount.logits = reads_logits_ ? logits : 0;
      const double time_s = visit_time_s(hardware_.cpu, precision_, amount);
      cpu_free_s_ = std::max({cpu_free_s_, host_s_, down_s}) + time_s;
      busy_[LaneKind::kCpu] += time_s;
    }
    return cpu_free_s_;
  }
  double load_hidden(double rows, double after_s) {
    const auto row_bytes = static_cast<double>(hidden_.row_bytes);
    const double on_host = std::min(rows, static_cast<double>(hidden_.host_rows)), on_disk = rows - on_host;
    if (!on_gpu_) return read(on_disk * row_bytes, after_s);
    double ready_s = copy(LaneKind::kH2d, on_host * row_bytes, after_s);
    if (on_disk > 0) ready_s = std::max(ready_s, copy(LaneKind::kH2d, on_disk * row_bytes, read(on_disk * row_bytes, after_s)));
    return ready_s;
  }
  double store_hidden(double rows, double after_s) {
    const auto row_bytes = static_cast<double>(hidden_.row_bytes);
    const double on_disk = rows - std::min(rows, static_cast<double>(hidden_.host_rows));
    if (on_gpu_) after_s = copy(LaneKind::kD2h, rows * row_bytes, after_s);
    return on_disk > 0 ? write(on_disk * row_bytes, after_s) : after_s;
  }
  /// Pages that a visit wrote go back; buffer `at` is free then.
  void store_cache(const BatchLoad& batch, int64_t cache, double after_s, size_t at) {
    const auto page_bytes = static_cast<double>(cache_.group_of_cache(cache).page_stride);
    const PageMoves& moves = moves_of(batch, cache);
    double free_s = after_s;
    if (cache_.tier == Tier::kGpu) free_s = copy(LaneKind::kD2h, (moves.dirty_disk + moves.dirty_host) * page_bytes, after_s);
    double written_s = free_s;
    if (moves.dirty_disk > 0) written_s = write(moves.dirty_disk * page_bytes, free_s);
    if (cache_.tier != Tier::kGpu) free_s = written_s;
    cache_free_s_[at] = free_s;
    cache_bounce_free_s_[at] = written_s;
  }

  void load_resident(std::span<const int64_t> layers) {
    for (int64_t index : layers) {
      const auto layer = static_cast<size_t>(index);
      const WeightLayout::Layer& placed = weights_.layers[layer];
      const auto resident_bytes = static_cast<double>(placed.resident_bytes);
      if (placed.host_bytes > 0) host_ready_s_[layer] = read(static_cast<double>(placed.host_bytes), 0);
      if (resident_bytes <= 0) continue;
      const double begun_s = std::max(read_free_s_, host_s_), there_s = read(resident_bytes, 0);
      // To a GPU in small pieces, each copied while the next ones are read.
      resident_ready_s_[layer] = on_gpu_ ? std::max(there_s, copy(LaneKind::kH2d, resident_bytes, begun_s)) : there_s;
    }
  }

  /// When the table's rows that are in memory are there, and those that are not.
  double look_up(double rows) {
    load_resident(first_loads_.before_lookup());
    double ready_s = 0;
    for (int64_t layer : first_loads_.lookup_layers())
      ready_s = std::max({ready_s, resident_ready_s_[static_cast<size_t>(layer)], host_ready_s_[static_cast<size_t>(layer)]});
    if (lookup_share_ <= 0) return ready_s;
    const auto vocabulary = static_cast<double>(model_.config().vocab_size);
    const double distinct = lookup_share_ * vocabulary * -std::expm1(rows * std::log1p(-1 / vocabulary));
    const double time_s = hardware_.disk.request_s + distinct * hardware_.disk.lookup_s;
    lookup_free_s_ = std::max(lookup_free_s_, host_s_) + time_s;
    busy_[LaneKind::kDiskLookup] += time_s;
    read_bytes_ += distinct * static_cast<double>(lookup_.row_bytes);
    return std::max(ready_s, lookup_free_s_);
  }

  void issue_weights(const StreamOrder::Loading& loading, int64_t num_pieces) {
    const auto layer = static_cast<size_t>(loading.object.layer);
    const int64_t key = loading.number;
    load_resident(first_loads_.before_streaming(loading.object.place));
    const WeightLayout::Layer& placed = weights_.layers[layer];
    const double share = 1.0 / static_cast<double>(num_pieces);
    double disk_share = 1, host_share = 1;  // of the layer's bytes: of a unit those of experts that are chosen
    if (loading.chosen_alone && model_.layers()[layer].kind == LayerKind::kExperts) {
      const HitShares& hit = hits_of(layer);
      disk_share = hit.disk;
      host_share = hit.host;
    }
    const double from_disk = share * disk_share * static_cast<double>(placed.streamed_bytes), free_s = weight_free_s_[ring(key)];
    if (!on_gpu_) {
      weight_ready_s_[ring(key)] = read(from_disk, free_s);
      return;
    }
    double ready_s = copy(LaneKind::kH2d, share * host_share * static_cast<double>(placed.host_bytes), std::max(free_s, host_ready_s_[layer]));
    if (from_disk > 0) {
      // The pieces of a layer have a place each in its bounce buffer: they wait for the layer that had it before, not for each other.
      Bounce& bounce = bounces_[ring(key)];
      if (bounce.key != key) bounce = {key, bounce.copied_s, 0};
      ready_s = bounce.copied_s = copy(LaneKind::kH2d, from_disk, std::max(free_s, read(from_disk, bounce.free_s)));
    }
    weight_ready_s_[ring(key)] = std::max(ready_s, free_s);
  }
  void issue_cache(const StepLoad& load, int64_t base) {
    const CacheVisit& visit = cache_visits_[static_cast<size_t>(cache_issued_)];
    const PageMoves& moves = moves_of(load.batches[visit.batch], visit.cache);
    const double free_s = cache_free_s_[ring(base + cache_issued_)];
    const auto page_bytes = static_cast<double>(cache_.group_of_cache(visit.cache).page_stride);
    double ready_s = free_s;
    if (cache_.tier != Tier::kGpu) {
      if (moves.old_disk > 0) ready_s = read(moves.old_disk * page_bytes, free_s);
    } else {
      ready_s = copy(LaneKind::kH2d, moves.old_host * page_bytes, free_s);
      if (moves.old_disk > 0)
        ready_s = copy(LaneKind::kH2d, moves.old_disk * page_bytes,
                       std::max(free_s, read(moves.old_disk * page_bytes, cache_bounce_free_s_[ring(base + cache_issued_)])));
    }
    cache_ready_.push_back(ready_s);
    ++cache_issued_;
  }

  const Model& model_;
  const AlikeLayers& alike_;
  const HardwareProfile& hardware_;
  const Precision& precision_;
  const Policy& policy_;
  bool on_gpu_, reads_logits_, beside_;
  int64_t buffers_;
  std::shared_ptr<const WeightLayout> layout_;
  const WeightLayout& weights_;
  LookupLayout lookup_;
  CacheLayout cache_;
  HiddenLayout hidden_;
  StreamOrder order_;
  double lookup_share_ = 0;
  FirstLoads first_loads_;
  std::vector<double> resident_ready_s_, host_ready_s_;  ///< a layer

  double host_s_ = 0, compute_free_s_ = 0, read_free_s_ = 0, write_free_s_ = 0, lookup_free_s_ = 0;
  double h2d_free_s_ = 0, h2d_small_free_s_ = 0, d2h_free_s_ = 0, cpu_free_s_ = 0;
  double unpaid_disk_s_ = 0;                                                                 ///< disk time that compute has not been slowed down for yet
  double unpaid_write_s_ = 0;                                                                ///< write time that reading has not been slowed down for yet
  std::vector<double> weight_free_s_, weight_ready_s_, cache_free_s_, cache_bounce_free_s_;  ///< a buffer
  struct Bounce {
    int64_t key = -1;
    double free_s = 0, copied_s = 0;  ///< of what had it before; of what has it
  };
  std::vector<Bounce> bounces_;               ///< of weights, a buffer
  std::vector<double> results_s_, stored_s_;  ///< a batch
  double last_stored_s_ = 0;                  ///< of any: what frees a single buffer
  int64_t step_ = 0;
  double rows_ = 0;                                    ///< of this step
  std::vector<double> batch_rows_, batch_logit_rows_;  ///< and of its batches
  // Of steps with these rows, as they are asked for.
  std::vector<HitShares> hits_;        ///< a kind of layers; a layer, where experts are not chosen as often as others
  std::vector<double> outer_visit_s_;  ///< a kind of layers and batch; below 0: not asked for yet
  // Units of experts of the block under way, from number first_unit_ on, in a step that loads those that are chosen.
  size_t first_unit_ = 0;
  std::vector<bool> wanted_, wanted_by_;  ///< a unit; a unit and batch
  static constexpr double kHalf = 0.5;
  double unit_carry_ = kHalf;  ///< what is expected, less what happened
  std::vector<double> batch_carries_;
  struct CacheVisit {
    int64_t cache;
    size_t batch;
  };
  std::vector<CacheVisit> cache_visits_;                            ///< of this step, in its order: for which pages pass through a buffer
  int64_t cache_issued_ = 0, cache_acquired_ = 0, cache_keys_ = 0;  ///< visits of this step, and of those before
  std::vector<double> cache_ready_;
  std::vector<BlockTimes> block_times_;  ///< of this step, a batch
  std::optional<Pending> pending_;
  LaneTimes busy_;
  double read_bytes_ = 0, write_bytes_ = 0;
};

/// What walk_pass() drives: times.
struct Timeline::Pass {
  Timeline& of;
  const StepLoad& load;
  // Of the visit under way.
  double start_s = 0, end_s = 0, cache_ready_s = 0, hidden_rows = 0;
  bool uses_cache = false;
  std::optional<Pending> held_back = std::nullopt;

  static size_t at(int64_t index) { return static_cast<size_t>(index); }
  const BatchLoad& batch_of(const Visit& visit) const { return load.batches[at(visit.batch)]; }
  const LayerSpec& layer_of(const Visit& visit) const { return of.model_.layers()[at(visit.layer)]; }
  bool is_unit_chosen_from(const Visit& visit) const { return layer_of(visit).kind == LayerKind::kExperts && chooses(); }

  bool plan(const Visit& visit) {
    of.host_s_ = std::max(of.host_s_, of.results_s_[at(visit.batch)]);
    return is_planned(visit);
  }
  bool is_planned(const Visit& visit) const { return batch_of(visit).rows > 0; }
  void begin_pass(const Visit& visit) { of.order_.begin_pass(visit.pass, of.policy_.chooses_experts(of.rows_)); }
  bool chooses() const { return of.order_.chooses(); }
  bool knows_choices(const Visit& visit) const { return at(visit.layer) >= of.first_unit_ && at(visit.layer) < of.first_unit_ + of.wanted_.size(); }
  void learn_choices(const Visit& visit) { of.choose(at(visit.layer)); }
  bool is_chosen(const Visit& visit) const { return of.is_wanted(at(visit.layer)); }
  bool takes_place(const Visit& visit) const {
    return is_planned(visit) && (layer_of(visit).kind != LayerKind::kHead || batch_of(visit).logit_rows > 0) &&
           (!is_unit_chosen_from(visit) || of.is_wanted_by(at(visit.layer), at(visit.batch)));
  }

  bool is_held_back() const { return of.pending_.has_value(); }
  bool must_flush(const Visit& visit) const { return of.pending_->visit.batch == visit.batch || of.buffers_ < 2; }
  void flush() { of.finish_pending(); }

  auto issue_weights() {
    return [this](const StreamOrder::Loading& loading, int64_t num_pieces) { of.issue_weights(loading, num_pieces); };
  }
  /// As Stores::in_order has it.
  void acquire(const Visit& visit) {
    start_s = of.compute_free_s_;
    uses_cache = false;
    acquire_weights(visit);
    if (layer_of(visit).cache >= 0) acquire_cache(visit);
    acquire_hidden(visit);
    if (layer_of(visit).kind == LayerKind::kEmbed) look_up(visit);
  }
  void acquire_weights(const Visit& visit) {
    of.load_resident(of.first_loads_.before_visit(visit.layer));
    start_s = std::max(start_s, of.resident_ready_s_[at(visit.layer)]);
    if (of.weights_.layers[at(visit.layer)].ring_index >= 0)
      start_s = std::max(start_s, of.weight_ready_s_[of.ring(of.order_.acquire(visit, issue_weights()))]);
  }
  void acquire_cache(const Visit& visit) {
    uses_cache = !of.cache_.all_resident() && of.stages_cache(batch_of(visit), layer_of(visit).cache);
    cache_ready_s = 0;
    if (!uses_cache) return;
    while (of.cache_issued_ <= of.cache_acquired_) of.issue_cache(load, of.cache_keys_);
    cache_ready_s = of.cache_ready_[at(of.cache_acquired_)];
  }
  /// Loads queue up when the visit is due, and not as far ahead as HiddenStore::prefetch() has them.
  void acquire_hidden(const Visit& visit) {
    const HiddenLayout& hidden = of.hidden_;
    const auto resident = static_cast<double>(hidden.resident_rows);
    const double rows = batch_of(visit).rows;
    hidden_rows = hidden.disk_rows + hidden.host_rows > 0 && rows > resident && visit.group_size() > 1 ? rows - resident : 0;
    if (hidden_rows > 0 && visit.layer > 0)
      start_s = std::max(start_s, of.load_hidden(hidden_rows, of.buffers_ > 1 ? of.stored_s_[at(visit.batch)] : of.last_stored_s_));
  }
  void look_up(const Visit& visit) { start_s = std::max(start_s, of.look_up(batch_of(visit).rows)); }

  /// In the lane that computes.
  void occupy(double time_s) {
    if (of.buffers_ > 1 && !of.on_gpu_) time_s += of.hardware_.disk.compute_slowdown * std::exchange(of.unpaid_disk_s_, 0);
    of.compute_free_s_ = end_s = std::max(start_s, of.host_s_) + time_s;
    of.busy_[LaneKind::kCompute] += time_s;
  }
  void compute(const Visit& visit) {
    const LayerSpec& layer = layer_of(visit);
    if (layer.cache >= 0) start_s = std::max(start_s, cache_ready_s);
    occupy(layer.cache >= 0             ? of.block_times_[at(visit.batch)].compute_s
           : is_unit_chosen_from(visit) ? of.hits_of(at(visit.layer)).visit_s[at(visit.batch)]
                                        : of.outer_visit_s(at(visit.layer), at(visit.batch)));
    of.results_s_[at(visit.batch)] = of.on_gpu_ && layer.kind == LayerKind::kHead ? of.read_logits(layer, batch_of(visit).logit_rows, end_s) : end_s;
    of.computed(visit, hidden_rows, end_s);
  }
  void finish(const Visit&) {}
  void attend_beside(const Visit& visit) {
    const HeadSizes heads = of.model_.config().heads_of(layer_of(visit).index);
    const BlockTimes& times = of.block_times_[at(visit.batch)];
    occupy(times.compute_s);
    const double q_bytes = 4.0 * static_cast<double>(heads.q_width()) * batch_of(visit).rows;
    const double down_s = of.copy(LaneKind::kD2h, q_bytes + 8.0 * static_cast<double>(heads.kv_width()) * batch_of(visit).rows, end_s);
    of.cpu_free_s_ = end_s = std::max({of.cpu_free_s_, down_s, cache_ready_s}) + times.attention_s;
    of.busy_[LaneKind::kCpu] += times.attention_s;
    held_back = Pending{visit, of.copy_small(q_bytes, end_s), times.after_s, hidden_rows};
  }
  void hold_back(const Visit&) { of.pending_ = std::exchange(held_back, std::nullopt); }
  void commit_attention(const Visit& visit) {
    if (!uses_cache) return;
    of.store_cache(batch_of(visit), layer_of(visit).cache, end_s, of.ring(of.cache_keys_ + of.cache_acquired_));
    ++of.cache_acquired_;
  }
  void leave(const Visit& visit) { of.release_weights(visit); }

  /// As Stores::loading has it, but for activations.
  void prefetch(const Visit& visit) {
    prefetch_cache(visit);
    prefetch_weights(visit);
  }
  void prefetch_cache(const Visit& visit) {
    if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
    while (of.cache_issued_ < std::min<int64_t>(of.cache_acquired_ + of.buffers_ - 1, std::ssize(of.cache_visits_))) of.issue_cache(load, of.cache_keys_);
  }
  void prefetch_weights(const Visit& visit) { of.order_.prefetch(visit, issue_weights()); }
};

void Timeline::step(const StepLoad& load) {
  const size_t num_batches = load.batches.size();
  int64_t active = 0;
  rows_ = 0;
  const std::vector<double> rows_before = std::exchange(batch_rows_, {}), logit_rows_before = std::exchange(batch_logit_rows_, {});
  for (const BatchLoad& batch : load.batches) {
    active += batch.rows > 0 ? 1 : 0;
    rows_ += batch.rows;
    batch_rows_.push_back(batch.rows);
    batch_logit_rows_.push_back(batch.logit_rows);
  }
  if (batch_rows_ != rows_before || batch_logit_rows_ != logit_rows_before) {
    for (HitShares& hit : hits_) hit.is_known = false;
    outer_visit_s_.assign(alike_.num_kinds() * num_batches, -1);
  }
  if (active == 0) return;
  cache_visits_.clear();
  for (int64_t cache = 0; cache < cache_.num_caches() && !cache_.all_resident(); ++cache)
    for (size_t b = 0; b < num_batches; ++b)
      if (stages_cache(load.batches[b], cache)) cache_visits_.push_back({cache, b});
  cache_issued_ = cache_acquired_ = 0;
  cache_ready_.clear();
  block_times_.clear();
  for (const BatchLoad& batch : load.batches)
    block_times_.push_back(batch.rows > 0 ? block_times(model_, hardware_, precision_, policy_, batch.block) : BlockTimes{});
  wanted_.clear();
  Visit first;
  first.step = first.pass = step_;
  first.group_end = static_cast<int64_t>(num_batches);
  Pass pass{*this, load};
  walk_pass(first, model_.layers(), beside_, pass);
  cache_keys_ += cache_acquired_;
  ++step_;
}

}  // namespace

LaneKind LaneTimes::busiest() const { return static_cast<LaneKind>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin()); }

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  WeightLayouts layouts(model);
  return predict(layouts, hardware, precision, policy, workload, walk);
}

Prediction predict(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  Timeline timeline(layouts, hardware, precision, policy, workload.reads_logits, false),
      in_place(layouts, hardware, precision, policy, workload.reads_logits, true);
  // The sums so far: time, steps, bytes, the bound, and every lane's busy time.
  using Sums = std::array<double, 5 + kNumPlannedLanes>;
  auto sums_of = [](const Timeline& of, double steps, double bound_s) {
    Sums sums{of.now_s(), steps, of.read_bytes(), of.write_bytes(), bound_s};
    std::copy(of.busy().seconds.begin(), of.busy().seconds.end(), sums.begin() + 5);
    return sums;
  };
  auto read_sums = [&](double steps, double bound_s) { return sums_of(timeline, steps, bound_s); };
  auto add = [](Sums& sums, const Sums& from, const Sums& to, double times) {
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += times * (to[i] - from[i]);
  };
  Sums total{}, loading{};  // `loading`: what the first step takes more than with all weights in place
  bool is_first = true;
  std::vector<std::pair<double, Sums>> by_rows{{0, total}};
  for (const StepLoad& step : walk.steps) {
    double left = step.count;
    Sums before{}, after{};
    // The first repetition shows the change, the second what a further one costs.
    for (int repetition = 0; repetition < 2 && left > 0; ++repetition, left -= 1) {
      before = is_first ? Sums{} : read_sums(0, 0);  // loading has begun before the first step
      timeline.step(step);
      if (std::exchange(is_first, false)) {
        in_place.step(step);
        add(loading, sums_of(in_place, 0, 0), read_sums(0, 0), 1);
        by_rows.front().second = loading;  // no step's pace
      }
      after = read_sums(1, 0);
      for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) after[4] = std::max(after[4], after[5 + lane] - before[5 + lane]);
      add(total, before, after, 1);
    }
    if (left > 0) add(total, before, after, left);
    by_rows.emplace_back(step.rows_done, total);
  }
  // What was not walked goes on at the pace of the middle third, one block of three at least.
  const double more = walk.whole ? 0 : rows_of(workload) - walk.rows;
  if (std::abs(more) > 0 && by_rows.size() > 1) {
    auto reached = [&](double rows) {
      auto at = std::find_if(by_rows.begin(), by_rows.end(), [&](const auto& entry) { return entry.first >= rows; });
      return at == by_rows.end() ? by_rows.back() : *at;
    };
    auto first = reached(walk.rows / 3), second = reached(2 * walk.rows / 3);
    if (second.first <= first.first) first = by_rows.front();
    add(total, first.second, second.second, more / (second.first - first.first));
  }
  Prediction result;
  result.load_time_s = loading[0];
  result.time_s = total[0];
  result.steps = total[1];
  result.generated_tokens = workload.total_generated_tokens;
  result.disk_read_bytes = total[2];
  result.disk_write_bytes = total[3];
  result.loaded_bytes = timeline.loaded_bytes();
  result.bound_s = total[4];
  std::copy(total.begin() + 5, total.end(), result.busy.seconds.begin());
  return result;
}

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload) {
  return predict(model, hardware, precision, policy, workload, walk_slots(model, policy, precision.kv, workload));
}

}  // namespace flexgen
