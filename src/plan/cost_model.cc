#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "model/scratch.h"
#include "schedule/cache_store.h"
#include "schedule/expert_hits.h"
#include "schedule/first_loads.h"
#include "schedule/hidden_store.h"
#include "schedule/lookup_layout.h"
#include "schedule/stream_order.h"
#include "schedule/weight_store.h"

namespace flexgen {
namespace {

/// When each lane and buffer is free, visit by visit, in the order in which the executor submits. Times in seconds from the start of the run.
class Timeline {
 public:
  /// `reads_logits`: as the workload says; `weights_in_place`: the resident ones need no loading.
  Timeline(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, DType kv_dtype, bool reads_logits,
           bool weights_in_place)
      : model_(model), hardware_(hardware), precision_(precision), policy_(policy), on_gpu_(policy.on_gpu()), reads_logits_(reads_logits),
        beside_(policy.attention_beside()), buffers_(policy.buffers), weights_(model, policy), lookup_(model, policy), cache_(model, policy, kv_dtype),
        hidden_(model, policy) {
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

  void step(const StepLoad& load) {
    const size_t num_batches = load.batches.size();
    int64_t active = 0;
    rows_ = 0;
    const std::vector<double> rows_before = std::exchange(batch_rows_, {});
    for (const BatchLoad& batch : load.batches) {
      active += batch.rows > 0 ? 1 : 0;
      rows_ += batch.rows;
      batch_rows_.push_back(batch.rows);
    }
    if (batch_rows_ != rows_before) hits_.clear();
    if (active == 0) return;
    const bool chooses = policy_.chooses_experts(rows_);
    cache_visits_.clear();
    for (int64_t cache = 0; cache < cache_.num_caches() && !cache_.all_resident(); ++cache)
      for (size_t b = 0; b < num_batches; ++b)
        if (stages_cache(load.batches[b], cache)) cache_visits_.push_back({cache, b});
    cache_issued_ = cache_acquired_ = 0;
    cache_ready_.clear();
    block_times_.clear();
    for (const BatchLoad& batch : load.batches)
      block_times_.push_back(batch.rows > 0 ? block_times(model_, hardware_, precision_, policy_, batch.block) : BlockTimes{});
    const int64_t cache_base = cache_keys_;
    const bool alone = num_batches == 1;
    for (size_t layer = 0; layer < weights_.layers.size(); ++layer) {
      const LayerSpec& spec = model_.layers()[layer];
      const bool is_chosen = spec.kind == LayerKind::kExperts && chooses;
      if (is_chosen && model_.layers()[layer - 1].kind != LayerKind::kExperts) choose(layer);
      if (is_chosen && !units_[layer - first_unit_].wanted) continue;
      for (size_t b = 0; b < num_batches; ++b) {
        const BatchLoad& batch = load.batches[b];
        if (layer == 0) host_s_ = std::max(host_s_, results_s_[b]);
        if (layer == 0 && b + 1 == num_batches) order_.begin_pass(step_, chooses);
        const bool visited =
            batch.rows > 0 && (spec.kind != LayerKind::kHead || batch.logit_rows > 0) && (!is_chosen || units_[layer - first_unit_].wanted_by[b]);
        const bool beside = beside_ && visited && spec.cache >= 0;
        if (!beside || (pending_ && (pending_->batch == b || buffers_ < 2))) finish_pending(num_batches);
        if (visited) {
          load_resident(first_loads_.before_visit(static_cast<int64_t>(layer)));
          double start_s = std::max(compute_free_s_, resident_ready_s_[layer]);
          if (weights_.layers[layer].ring_index >= 0) start_s = std::max(start_s, acquire_weights(layer));
          double time_s = block_times_[b].compute_s, cache_ready_s = 0;
          bool uses_cache = false;
          if (spec.cache >= 0) {
            uses_cache = !cache_.all_resident() && stages_cache(batch, spec.cache);
            if (uses_cache) {
              while (cache_issued_ <= cache_acquired_) issue_cache(load, cache_base);
              cache_ready_s = cache_ready_[static_cast<size_t>(cache_acquired_)];
              if (!beside) start_s = std::max(start_s, cache_ready_s);
            }
          } else {
            time_s = outer_visit_time_s(hardware_, precision_, policy_, spec, spec.kind == LayerKind::kHead ? batch.logit_rows : batch.rows,
                                        is_chosen ? hits_of(layer).of_batch[b] : 1);
            if (layer == 0) start_s = std::max(start_s, look_up(batch.rows));
          }
          const double hidden_rows = hidden_.disk_rows + hidden_.host_rows > 0 && batch.rows > static_cast<double>(hidden_.resident_rows) && !alone
                                         ? batch.rows - static_cast<double>(hidden_.resident_rows)
                                         : 0;
          if (hidden_rows > 0 && layer > 0) start_s = std::max(start_s, load_hidden(hidden_rows, buffers_ > 1 ? stored_s_[b] : last_stored_s_));
          if (buffers_ > 1 && !on_gpu_) time_s += hardware_.disk.compute_slowdown * std::exchange(unpaid_disk_s_, 0);
          double end_s = std::max(start_s, host_s_) + time_s;
          compute_free_s_ = end_s;
          busy_[LaneKind::kCompute] += time_s;
          if (beside) {
            const ModelConfig& config = model_.config();
            const double width = 4.0 * static_cast<double>(config.head_size) * batch.rows;
            const double down_s = copy(LaneKind::kD2h, width * static_cast<double>(config.num_heads + 2 * config.num_kv_heads), end_s);
            cpu_free_s_ = std::max({cpu_free_s_, down_s, cache_ready_s}) + block_times_[b].attention_s;
            busy_[LaneKind::kCpu] += block_times_[b].attention_s;
            end_s = cpu_free_s_;  // for the cache
            const double uploaded_s = copy_small(width * static_cast<double>(config.num_heads), cpu_free_s_);
            finish_pending(num_batches);  // only now: this visit's first stage goes before the last one's last
            pending_ = Pending{layer, b, uploaded_s, block_times_[b].after_s, hidden_rows};
          } else {
            results_s_[b] = on_gpu_ && spec.kind == LayerKind::kHead ? read_logits(spec, batch.logit_rows, end_s) : end_s;
            if (hidden_rows > 0 && layer + 1 < weights_.layers.size()) stored_s_[b] = last_stored_s_ = store_hidden(hidden_rows, end_s);
          }
          if (uses_cache) {
            store_cache(batch, spec.cache, end_s, ring(cache_base + cache_acquired_));
            ++cache_acquired_;
          }
        }
        if (!pending_) release_weights(layer, b, num_batches);
        // Loads ahead: the cache of the next visits, then a piece of a later layer.
        if (layer > 0 || b + 1 == num_batches)
          while (cache_issued_ < std::min<int64_t>(cache_acquired_ + buffers_ - 1, std::ssize(cache_visits_))) issue_cache(load, cache_base);
        prefetch_weights(static_cast<int64_t>(b), static_cast<int64_t>(num_batches), layer);
      }
    }
    finish_pending(num_batches);
    cache_keys_ += cache_acquired_;
    ++step_;
  }

 private:
  size_t ring(int64_t key) const { return static_cast<size_t>(key % buffers_); }
  const PageMoves& moves_of(const BatchLoad& batch, int64_t cache) const {
    return batch.moves[static_cast<size_t>(cache_.group_of[static_cast<size_t>(cache)])];
  }
  bool stages_cache(const BatchLoad& batch, int64_t cache) const { return batch.rows > 0 && moves_of(batch, cache).passing() > 0; }

  /// The stage of a visit that follows attention beside the GPU.
  struct Pending {
    size_t layer, batch;
    double uploaded_s, time_s, hidden_rows;
  };
  void finish_pending(size_t num_batches) {
    if (!pending_) return;
    const Pending visit = *std::exchange(pending_, std::nullopt);
    compute_free_s_ = std::max({compute_free_s_, visit.uploaded_s, host_s_}) + visit.time_s;
    busy_[LaneKind::kCompute] += visit.time_s;
    results_s_[visit.batch] = compute_free_s_;
    if (visit.hidden_rows > 0) stored_s_[visit.batch] = last_stored_s_ = store_hidden(visit.hidden_rows, compute_free_s_);
    release_weights(visit.layer, visit.batch, num_batches);
  }
  /// One lane computes in order, so the last visit's end covers the earlier ones.
  void release_weights(size_t layer, size_t batch, size_t num_batches) {
    const int64_t number = order_.number_of(step_, static_cast<int64_t>(layer));
    if (number >= 0 && batch + 1 == num_batches) weight_free_s_[ring(number)] = compute_free_s_;
  }

  /// Of a unit, in this step: the chance that it is chosen, by any row and by those of each micro-batch, and the share of its bytes that a chosen one reads from disk, and copies from the RAM beside a GPU.
  struct HitShares {
    double whole = 0, disk = 0, host = 0;
    std::vector<double> of_batch;
  };
  const HitShares& hits_of(size_t layer) {
    const LayerSpec& unit = model_.layers()[layer];
    // Where nothing is known of experts, units of as many are alike.
    const int64_t key = model_.expert_chances() ? static_cast<int64_t>(layer) : -unit.num_experts;
    auto [known, is_new] = hits_.try_emplace(key);
    HitShares& hit = known->second;
    if (!is_new) return hit;
    const WeightLayout::Layer& placed = weights_.layers[layer];
    hit.whole = unit_hit_share(model_, unit, rows_);
    if (hit.whole > 0 && !model_.expert_chances()) {
      hit.disk = hit.host = expert_hit_share(model_, rows_) / hit.whole;
    } else if (hit.whole > 0) {
      const ChosenBytes chosen = chosen_bytes(model_, unit, placed, rows_);
      if (placed.streamed_bytes > 0) hit.disk = chosen.disk / static_cast<double>(placed.streamed_bytes) / hit.whole;
      if (placed.host_bytes > 0) hit.host = chosen.host / static_cast<double>(placed.host_bytes) / hit.whole;
    }
    for (double rows : batch_rows_) hit.of_batch.push_back(unit_hit_share(model_, unit, rows));
    return hit;
  }
  /// The host waits for what the block's rows choose: as many units as are expected, evenly spread.
  void choose(size_t first_unit) {
    host_s_ = std::max(host_s_, compute_free_s_);
    first_unit_ = first_unit;
    units_.clear();
    std::vector<bool> wanted;
    auto happens = [](double& carry, double share) {
      carry += share;
      const bool whole = carry >= 1;
      if (whole) carry -= 1;
      return whole;
    };
    for (size_t layer = first_unit; layer < weights_.layers.size() && model_.layers()[layer].kind == LayerKind::kExperts; ++layer) {
      const HitShares& hit = hits_of(layer);
      ChosenUnit unit{happens(unit_carry_, hit.whole), {}};
      for (size_t b = 0; unit.wanted && b < batch_rows_.size(); ++b) unit.wanted_by.push_back(happens(batch_carries_[b], hit.of_batch[b] / hit.whole));
      wanted.push_back(unit.wanted);
      units_.push_back(std::move(unit));
    }
    order_.choose(static_cast<int64_t>(first_unit), wanted);
  }

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
      double resident_bytes = 0;
      for (const WeightLayout::Use& use : placed.uses) resident_bytes += static_cast<double>(use.resident.bytes);
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

  /// An object of the ring, as WeightStore has it.
  struct Loading {
    int64_t number = 0;
    StreamOrder::Object object;
    double disk_share = 1, host_share = 1;  ///< of the layer's bytes: of a unit those of experts that are chosen
    int64_t pieces_issued = 0;
  };
  Loading take() {
    Loading loading{order_.taken(), order_.take()};
    const LayerSpec& layer = model_.layers()[static_cast<size_t>(loading.object.layer)];
    if (layer.kind == LayerKind::kExperts && order_.chooses()) {
      const HitShares& hit = hits_of(static_cast<size_t>(loading.object.layer));
      loading.disk_share = hit.disk;
      loading.host_share = hit.host;
    }
    return loading;
  }
  void issue_weights(const Loading& loading, double share) {
    const auto layer = static_cast<size_t>(loading.object.layer);
    const int64_t key = loading.number;
    load_resident(first_loads_.before_streaming(loading.object.place));
    const WeightLayout::Layer& placed = weights_.layers[layer];
    const double from_disk = share * loading.disk_share * static_cast<double>(placed.streamed_bytes), free_s = weight_free_s_[ring(key)];
    if (!on_gpu_) {
      weight_ready_s_[ring(key)] = read(from_disk, free_s);
      return;
    }
    double ready_s = copy(LaneKind::kH2d, share * loading.host_share * static_cast<double>(placed.host_bytes), std::max(free_s, host_ready_s_[layer]));
    if (from_disk > 0) {
      // The pieces of a layer have a place each in its bounce buffer: they wait for the layer that had it before, not for each other.
      Bounce& bounce = bounces_[ring(key)];
      if (bounce.key != key) bounce = {key, bounce.copied_s, 0};
      ready_s = bounce.copied_s = copy(LaneKind::kH2d, from_disk, std::max(free_s, read(from_disk, bounce.free_s)));
    }
    weight_ready_s_[ring(key)] = std::max(ready_s, free_s);
  }
  double acquire_weights(size_t layer) {
    int64_t wanted = order_.number_of(step_, static_cast<int64_t>(layer));
    for (; wanted < 0; wanted = order_.number_of(step_, static_cast<int64_t>(layer))) issue_weights(take(), 1);
    return weight_ready_s_[ring(wanted)];
  }
  void prefetch_weights(int64_t piece, int64_t num_pieces, size_t layer) {
    const int64_t own = order_.number_of(step_, static_cast<int64_t>(layer)), furthest = own + buffers_ - 1;
    if (own < 0 || buffers_ < 2) return;
    while (order_.taken() < furthest && order_.next()) issue_weights(take(), 1);
    if (order_.taken() == furthest && order_.next()) loading_ = take();
    if (!loading_) return;
    for (; loading_->pieces_issued <= piece; ++loading_->pieces_issued) issue_weights(*loading_, 1.0 / static_cast<double>(num_pieces));
    if (loading_->pieces_issued == num_pieces) loading_.reset();
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
  const HardwareProfile& hardware_;
  const Precision& precision_;
  const Policy& policy_;
  bool on_gpu_, reads_logits_, beside_;
  int64_t buffers_;
  WeightLayout weights_;
  LookupLayout lookup_;
  CacheLayout cache_;
  HiddenLayout hidden_;
  StreamOrder order_;
  std::optional<Loading> loading_;  ///< the newest object, while some of its pieces are not issued
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
  double rows_ = 0;                    ///< of this step
  std::vector<double> batch_rows_;     ///< and of its batches
  std::map<int64_t, HitShares> hits_;  ///< of steps with these rows, as they are asked for
  /// A unit of experts of the block under way, in a step that loads those that are chosen.
  struct ChosenUnit {
    bool wanted = false;
    std::vector<bool> wanted_by;  ///< a batch
  };
  size_t first_unit_ = 0;
  std::vector<ChosenUnit> units_;
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

}  // namespace

LaneKind LaneTimes::busiest() const { return static_cast<LaneKind>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin()); }

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  Timeline timeline(model, hardware, precision, policy, precision.kv, workload.reads_logits, false),
      in_place(model, hardware, precision, policy, precision.kv, workload.reads_logits, true);
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
