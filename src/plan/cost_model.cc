#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>

#include "schedule/cache_store.h"
#include "schedule/hidden_store.h"
#include "schedule/weight_store.h"

namespace flexgen {
namespace {

/// When each lane and buffer is free, visit by visit, in the order in which the executor submits. Times in seconds from the start of the run.
class Timeline {
 public:
  Timeline(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, DType kv_dtype)
      : model_(model), hardware_(hardware), precision_(precision), buffers_(policy.buffers), weights_(model, policy), cache_(model, policy, kv_dtype), hidden_(model, policy) {
    const auto num_batches = static_cast<size_t>(policy.num_micro_batches);
    weight_free_s_.assign(static_cast<size_t>(buffers_), 0);
    weight_ready_s_.assign(static_cast<size_t>(buffers_), 0);
    cache_free_s_.assign(static_cast<size_t>(buffers_), 0);
    results_s_.assign(num_batches, 0);
    stored_s_.assign(num_batches, 0);
    for (size_t layer = 0; layer < weights_.layers.size(); ++layer)
      if (weights_.layers[layer].ring_index >= 0) ring_layers_.push_back(layer);
    const WeightLayout::Layer& embed = weights_.layers.front();
    for (size_t i = 0; i < embed.uses.size(); ++i)
      if (embed.uses[i].lookup) {
        const int table = model.layers().front().uses[i].weight;
        double resident = static_cast<double>(embed.uses[i].resident_rows);
        for (size_t layer = 0; layer < model.layers().size(); ++layer)
          for (size_t use = 0; model.layers()[layer].kind == LayerKind::kHead && use < weights_.layers[layer].uses.size(); ++use)
            if (model.layers()[layer].uses[use].weight == table) resident += static_cast<double>(weights_.layers[layer].uses[use].resident_rows);
        lookup_share_ = weights_.lookup_row_bytes > 0 ? std::max(0.0, 1 - resident / static_cast<double>(model.config().vocab_size)) : 0;
      }
    load_s_ = static_cast<double>(weights_.resident_bytes) / hardware.disk.read_bytes_per_s;
    read_free_s_ = compute_free_s_ = host_s_ = load_s_;
    busy_[LaneKind::kDiskRead] = load_s_;
    read_bytes_ = static_cast<double>(weights_.resident_bytes);
  }

  double now_s() const { return std::max({compute_free_s_, write_free_s_, read_free_s_, host_s_}); }
  double load_s() const { return load_s_; }
  double read_bytes() const { return read_bytes_; }
  double write_bytes() const { return write_bytes_; }
  const LaneTimes& busy() const { return busy_; }

  void step(const StepLoad& load) {
    const size_t num_batches = load.batches.size();
    int64_t active = 0;
    for (const BatchLoad& batch : load.batches) active += batch.rows > 0 ? 1 : 0;
    if (active == 0) return;
    staged_batches_.clear();
    for (size_t b = 0; b < num_batches; ++b)
      if (cache_.disk_pages > 0 && load.batches[b].rows > 0 && load.batches[b].old_disk_pages + load.batches[b].dirty_disk_pages > 0) staged_batches_.push_back(b);
    cache_issued_ = cache_acquired_ = 0;
    cache_ready_.clear();
    const int64_t cache_base = cache_keys_;
    const bool alone = num_batches == 1;
    for (size_t layer = 0; layer < weights_.layers.size(); ++layer) {
      const LayerSpec& spec = model_.layers()[layer];
      for (size_t b = 0; b < num_batches; ++b) {
        const BatchLoad& batch = load.batches[b];
        if (layer == 0) host_s_ = std::max(host_s_, results_s_[b]);
        const bool visited = batch.rows > 0 && (spec.kind != LayerKind::kHead || batch.logit_rows > 0);
        if (visited) {
          double start_s = compute_free_s_;
          if (weights_.layers[layer].ring_index >= 0) start_s = std::max(start_s, acquire_weights(layer));
          ComputeAmount amount = batch.block;
          bool uses_cache = false;
          if (spec.kind == LayerKind::kBlock) {
            uses_cache = staged(b);
            if (uses_cache) {
              while (cache_issued_ <= cache_acquired_) issue_cache(load, cache_base);
              start_s = std::max(start_s, cache_ready_[static_cast<size_t>(cache_acquired_)]);
            }
          } else {
            const bool head = spec.kind == LayerKind::kHead;
            amount = {};
            amount.rows = head ? batch.logit_rows : batch.rows;
            amount.flops = spec.linear_flops_per_row * amount.rows;
            amount.logits = head ? static_cast<double>(spec.vocab_count) * amount.rows : 0;
            if (layer == 0) start_s = std::max(start_s, look_up(batch.rows));
          }
          const double hidden_bytes = hidden_.disk_rows > 0 && batch.rows > static_cast<double>(hidden_.cpu_rows) && !alone
                                          ? (batch.rows - static_cast<double>(hidden_.cpu_rows)) * static_cast<double>(hidden_.row_bytes) : 0;
          if (hidden_bytes > 0 && layer > 0) start_s = std::max(start_s, read(hidden_bytes, stored_s_[b]));
          double time_s = visit_time_s(hardware_.cpu, precision_, amount);
          if (buffers_ > 1) time_s += hardware_.disk.compute_slowdown * std::exchange(unpaid_disk_s_, 0);
          const double end_s = std::max(start_s, host_s_) + time_s;
          compute_free_s_ = end_s;
          busy_[LaneKind::kCompute] += time_s;
          results_s_[b] = end_s;
          if (hidden_bytes > 0 && layer + 1 < weights_.layers.size()) stored_s_[b] = write(hidden_bytes, end_s);
          if (uses_cache) {
            double free_s = end_s;
            if (batch.dirty_disk_pages > 0) free_s = write(batch.dirty_disk_pages * static_cast<double>(cache_.page_stride), end_s);
            cache_free_s_[ring(cache_base + cache_acquired_)] = free_s;
            ++cache_acquired_;
          }
        }
        const WeightLayout::Layer& weights = weights_.layers[layer];
        if (weights.ring_index >= 0 && b + 1 == num_batches) weight_free_s_[ring(step_ * num_ring() + weights.ring_index)] = compute_free_s_;
        // Loads ahead: the cache of the next visits, then a piece of a later layer.
        if (layer > 0 || b + 1 == num_batches)
          while (cache_issued_ < std::min<int64_t>(cache_acquired_ + buffers_ - 1, cache_visits())) issue_cache(load, cache_base);
        if (weights.ring_index >= 0 && buffers_ > 1) prefetch_weights(static_cast<int64_t>(b), static_cast<int64_t>(num_batches), weights.ring_index);
      }
    }
    cache_keys_ += cache_acquired_;
    ++step_;
  }

 private:
  int64_t num_ring() const { return static_cast<int64_t>(ring_layers_.size()); }
  size_t ring(int64_t key) const { return static_cast<size_t>(key % buffers_); }
  bool staged(size_t batch) const { return std::find(staged_batches_.begin(), staged_batches_.end(), batch) != staged_batches_.end(); }
  int64_t cache_visits() const { return static_cast<int64_t>(staged_batches_.size()) * cache_.num_layers; }

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
  double look_up(double rows) {
    if (lookup_share_ <= 0) return 0;
    const auto vocabulary = static_cast<double>(model_.config().vocab_size);
    const double distinct = lookup_share_ * vocabulary * -std::expm1(rows * std::log1p(-1 / vocabulary));
    const double time_s = hardware_.disk.request_s + distinct * hardware_.disk.lookup_s;
    lookup_free_s_ = std::max(lookup_free_s_, host_s_) + time_s;
    busy_[LaneKind::kDiskLookup] += time_s;
    read_bytes_ += distinct * static_cast<double>(weights_.lookup_row_bytes);
    return lookup_free_s_;
  }

  void issue_weights(int64_t key, double share) {
    const size_t layer = ring_layers_[static_cast<size_t>(key % num_ring())];
    weight_ready_s_[ring(key)] = read(share * static_cast<double>(weights_.layers[layer].streamed_bytes), weight_free_s_[ring(key)]);
  }
  double acquire_weights(size_t layer) {
    const int64_t wanted = step_ * num_ring() + weights_.layers[layer].ring_index;
    while (issued_key_ < wanted) issue_weights(++issued_key_, 1);
    return weight_ready_s_[ring(wanted)];
  }
  void prefetch_weights(int64_t piece, int64_t num_pieces, int64_t ring_index) {
    const int64_t furthest = step_ * num_ring() + ring_index + buffers_ - 1;
    while (issued_key_ + 1 < furthest) issue_weights(++issued_key_, 1);
    if (issued_key_ >= furthest) return;
    issue_weights(furthest, 1.0 / static_cast<double>(num_pieces));
    if (piece + 1 == num_pieces) issued_key_ = furthest;
  }
  void issue_cache(const StepLoad& load, int64_t base) {
    const BatchLoad& batch = load.batches[staged_batches_[static_cast<size_t>(cache_issued_) % staged_batches_.size()]];
    const double free_s = cache_free_s_[ring(base + cache_issued_)];
    cache_ready_.push_back(batch.old_disk_pages > 0 ? read(batch.old_disk_pages * static_cast<double>(cache_.page_stride), free_s) : free_s);
    ++cache_issued_;
  }

  const Model& model_;
  const HardwareProfile& hardware_;
  const Precision& precision_;
  int64_t buffers_;
  WeightLayout weights_;
  CacheLayout cache_;
  HiddenLayout hidden_;
  std::vector<size_t> ring_layers_;
  double lookup_share_ = 0, load_s_ = 0;

  double host_s_ = 0, compute_free_s_ = 0, read_free_s_ = 0, write_free_s_ = 0, lookup_free_s_ = 0;
  double unpaid_disk_s_ = 0;   ///< disk time that compute has not been slowed down for yet
  double unpaid_write_s_ = 0;  ///< write time that reading has not been slowed down for yet
  std::vector<double> weight_free_s_, weight_ready_s_, cache_free_s_;  ///< a buffer
  std::vector<double> results_s_, stored_s_;                           ///< a batch
  int64_t step_ = 0, issued_key_ = -1;
  std::vector<size_t> staged_batches_;  ///< of this step: whose cache is partly on disk
  int64_t cache_issued_ = 0, cache_acquired_ = 0, cache_keys_ = 0;  ///< visits of this step, and of those before
  std::vector<double> cache_ready_;
  LaneTimes busy_;
  double read_bytes_ = 0, write_bytes_ = 0;
};

}  // namespace

const char* lane_name(LaneKind kind) {
  constexpr const char* kNames[] = {"compute", "disk read", "disk lookup", "disk write"};
  return kNames[static_cast<size_t>(kind)];
}

LaneKind LaneTimes::busiest() const { return static_cast<LaneKind>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin()); }

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  Timeline timeline(model, hardware, precision, policy, precision.kv);
  // The sums so far: time, steps, bytes, the bound, and every lane's busy time.
  using Sums = std::array<double, 5 + kNumLaneKinds>;
  auto read_sums = [&](double steps, double bound_s) {
    Sums sums{timeline.now_s(), steps, timeline.read_bytes(), timeline.write_bytes(), bound_s};
    std::copy(timeline.busy().seconds.begin(), timeline.busy().seconds.end(), sums.begin() + 5);
    return sums;
  };
  auto add = [](Sums& sums, const Sums& from, const Sums& to, double times) {
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += times * (to[i] - from[i]);
  };
  Sums total = read_sums(0, timeline.load_s());
  std::vector<std::pair<double, Sums>> by_rows{{0, total}};
  for (const StepLoad& step : walk.steps) {
    double left = step.count;
    Sums before = read_sums(0, 0), after = before;
    // The first repetition shows the change, the second what a further one costs.
    for (int repetition = 0; repetition < 2 && left > 0; ++repetition, left -= 1) {
      before = read_sums(0, 0);
      timeline.step(step);
      after = read_sums(1, 0);
      for (size_t lane = 0; lane < kNumLaneKinds; ++lane) after[4] = std::max(after[4], after[5 + lane] - before[5 + lane]);
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
  result.load_time_s = timeline.load_s();
  result.time_s = total[0];
  result.steps = total[1];
  result.disk_read_bytes = total[2];
  result.disk_write_bytes = total[3];
  result.bound_s = total[4];
  std::copy(total.begin() + 5, total.end(), result.busy.seconds.begin());
  return result;
}

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload) {
  return predict(model, hardware, precision, policy, workload, walk_slots(model, policy, precision.kv, workload));
}

}  // namespace flexgen
