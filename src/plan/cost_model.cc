#include "plan/cost_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "model/scratch.h"
#include "plan/expected_visits.h"
#include "plan/timed_lanes.h"
#include "plan/timed_stores.h"
#include "plan/weight_layouts.h"
#include "schedule/pass_walk.h"
#include "schedule/store_order.h"

namespace flexgen {
namespace {

/// Visit by visit, in the order in which the executor submits: what each waits for, and when it is done. Times in seconds from the start of the run.
class Timeline {
 public:
  /// `reads_logits`: as the workload says; `weights_in_place`: the resident ones need no loading.
  Timeline(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, bool reads_logits, bool weights_in_place)
      : model_(layouts.model()), hardware_(hardware), precision_(precision), policy_(policy), reads_logits_(reads_logits), lanes_(hardware, policy),
        visits_(layouts, hardware, precision, policy), stores_(layouts, policy, precision.kv, visits_, lanes_),
        results_s_(static_cast<size_t>(policy.num_micro_batches)) {
    weights_in_place ? stores_.weights.are_loaded() : stores_.weights.load_first();
  }

  const TimedLanes& lanes() const { return lanes_; }
  double loaded_bytes() const { return static_cast<double>(stores_.weights.layout().resident_bytes + stores_.weights.layout().host_bytes); }

  void step(const StepLoad& load);

 private:
  struct Pass;
  /// The stage of a visit that follows attention beside the GPU.
  struct Pending {
    TimedVisit lease;
    double uploaded_s, time_s;
  };
  void finish_pending() {
    if (!pending_) return;
    const Pending stage = *std::exchange(pending_, std::nullopt);
    const double end_s = results_s_[static_cast<size_t>(stage.lease.visit.batch)] = lanes_.compute(stage.time_s, stage.uploaded_s);
    commit(stage.lease, end_s, false);
    stores_.weights.leave(stage.lease.visit);
  }
  /// As Executor::commit() has it.
  void commit(const TimedVisit& lease, double done_s, bool attention) {
    for_each_store_backwards(all_stores(stores_), [&](auto& store) {
      if (store.is_for_attention() == attention) store.commit(lease, done_s);
    });
  }
  /// Logits, or the largest of each row, go down to the processor beside the GPU panel by panel; returns when all are read.
  double read_logits(const LayerSpec& head, double rows, double after_s) {
    double read_s = 0;
    for (double left = rows; left > 0; left -= kLogitPanelRows) {
      const double panel = std::min<double>(left, kLogitPanelRows);
      ComputeAmount amount;
      amount.logits = reads_logits_ ? panel * static_cast<double>(head.vocab_count) : 0;
      read_s = lanes_.use_cpu(visit_time_s(hardware_.cpu, precision_, amount), lanes_.copy_down(logit_bytes_down(head, panel, reads_logits_), after_s));
    }
    return read_s;
  }

  const Model& model_;
  const HardwareProfile& hardware_;
  const Precision& precision_;
  const Policy& policy_;
  bool reads_logits_;
  TimedLanes lanes_;
  ExpectedVisits visits_;
  TimedStores stores_;
  std::vector<double> results_s_;  ///< a micro-batch
  std::optional<Pending> pending_;
  int64_t step_ = 0;
};

/// What walk_pass() drives: times.
struct Timeline::Pass {
  Timeline& of;
  const StepLoad& load;
  TimedVisit lease;  ///< of the visit under way
  double end_s = 0;
  std::optional<Pending> held_back = std::nullopt;

  static size_t at(int64_t index) { return static_cast<size_t>(index); }
  const BatchLoad& batch_of(const Visit& visit) const { return load.batches[at(visit.batch)]; }
  const LayerSpec& layer_of(const Visit& visit) const { return of.model_.layers()[at(visit.layer)]; }
  bool is_unit_chosen_from(const Visit& visit) const { return layer_of(visit).kind == LayerKind::kExperts && chooses(); }

  bool plan(const Visit& visit) {
    of.lanes_.wait_until(of.results_s_[at(visit.batch)]);
    return is_planned(visit);
  }
  bool is_planned(const Visit& visit) const { return batch_of(visit).rows > 0; }
  void begin_pass(const Visit& visit) { of.stores_.weights.begin_pass(visit.pass, of.policy_.chooses_experts(of.visits_.rows())); }
  bool chooses() const { return of.stores_.weights.chooses(); }
  bool knows_choices(const Visit& visit) const { return of.visits_.knows_choices(at(visit.layer)); }
  void learn_choices(const Visit& visit) {
    of.lanes_.wait_until(of.lanes_.computed_s());
    of.stores_.weights.choose(visit.layer, of.visits_.choose(at(visit.layer)));
  }
  bool is_chosen(const Visit& visit) const { return of.visits_.is_wanted(at(visit.layer)); }
  bool takes_place(const Visit& visit) const {
    return is_planned(visit) && (layer_of(visit).kind != LayerKind::kHead || batch_of(visit).logit_rows > 0) &&
           (!is_unit_chosen_from(visit) || of.visits_.is_wanted_by(at(visit.batch), at(visit.layer)));
  }

  bool is_held_back() const { return of.pending_.has_value(); }
  bool must_flush(const Visit& visit) const { return of.pending_->lease.visit.batch == visit.batch || of.policy_.buffers < 2; }
  void flush() { of.finish_pending(); }

  void acquire(const Visit& visit) {
    lease = {visit, &layer_of(visit), &batch_of(visit)};
    for_each_store(all_stores(of.stores_), [&](auto& store) { store.acquire(lease); });
  }
  void compute(const Visit& visit) {
    const LayerSpec& layer = layer_of(visit);
    const size_t number = at(visit.layer), batch = at(visit.batch);
    const double time_s = layer.cache >= 0             ? of.visits_.block(batch).compute_s
                          : is_unit_chosen_from(visit) ? of.visits_.hits_of(number).visit_s[batch]
                                                       : of.visits_.outer_s(number, batch);
    end_s = of.lanes_.compute(time_s, std::max(lease.after_s, lease.attention_after_s));
    const bool sends_logits = layer.kind == LayerKind::kHead && of.policy_.on_gpu();
    of.results_s_[batch] = sends_logits ? of.read_logits(layer, batch_of(visit).logit_rows, end_s) : end_s;
    of.commit(lease, end_s, false);
  }
  void finish(const Visit&) {}
  void attend_beside(const Visit& visit) {
    const HeadSizes heads = of.model_.config().heads_of(layer_of(visit).index);
    const BlockTimes& times = of.visits_.block(at(visit.batch));
    const double q_bytes = 4.0 * static_cast<double>(heads.q_width()) * batch_of(visit).rows;
    const double kv_bytes = 8.0 * static_cast<double>(heads.kv_width()) * batch_of(visit).rows;
    const double down_s = of.lanes_.copy_down(q_bytes + kv_bytes, of.lanes_.compute(times.compute_s, lease.after_s));
    end_s = of.lanes_.use_cpu(times.attention_s, std::max(down_s, lease.attention_after_s));
    held_back = Pending{lease, of.lanes_.copy_up_small(q_bytes, end_s), times.after_s};
  }
  void hold_back(const Visit&) { of.pending_ = std::exchange(held_back, std::nullopt); }
  void commit_attention(const Visit&) { of.commit(lease, end_s, true); }
  void leave(const Visit& visit) { of.stores_.weights.leave(visit); }
  void prefetch(const Visit& visit) {
    for_each_store(loading_stores(of.stores_), [&](auto& store) { store.prefetch(visit); });
  }
};

void Timeline::step(const StepLoad& load) {
  visits_.begin_step(load);
  if (visits_.rows() <= 0) return;
  for_each_store(all_stores(stores_), [&](auto& store) { store.begin_step(load); });
  Visit first;
  first.step = first.pass = step_++;
  first.group_end = std::ssize(load.batches);
  Pass pass{*this, load, {}};
  walk_pass(first, model_.layers(), policy_.attention_beside(), pass);
}

/// Of the rows of a step, those of prompts. (A sequence that generates has one row with logits.)
double prompt_share(const StepLoad& step) {
  if (!step.prompts) return 0;
  double rows = 0, generating = 0;
  for (const BatchLoad& batch : step.batches) {
    rows += batch.rows;
    generating += batch.logit_rows;
  }
  return rows > 0 ? std::clamp(1 - generating / rows, 0.0, 1.0) : 0;
}

}  // namespace

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  WeightLayouts layouts(model);
  return predict(layouts, hardware, precision, policy, workload, walk);
}

Prediction predict(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk) {
  Timeline timeline(layouts, hardware, precision, policy, workload.reads_logits, false),
      in_place(layouts, hardware, precision, policy, workload.reads_logits, true);
  // The sums so far: time, steps, bytes, the bound, prompts' time, and every lane's busy time.
  constexpr size_t kPrompts = 5, kLanes = 6;
  using Sums = std::array<double, kLanes + kNumPlannedLanes>;
  auto sums_of = [](const Timeline& of, double steps, double bound_s) {
    const TimedLanes& lanes = of.lanes();
    Sums sums{lanes.done_s(), steps, lanes.read_bytes(), lanes.write_bytes(), bound_s};
    std::copy(lanes.busy().seconds.begin(), lanes.busy().seconds.end(), sums.begin() + kLanes);
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
      for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) after[4] = std::max(after[4], after[kLanes + lane] - before[kLanes + lane]);
      after[kPrompts] = prompt_share(step) * (after[0] - before[0]);
      add(total, before, after, 1);
    }
    if (left > 0) add(total, before, after, left);
    by_rows.emplace_back(step.rows_done, total);
  }
  // What was not walked goes on at the pace of the middle third, one block of three at least.
  const double more = walk.whole ? 0 : rows_of(workload, policy) - walk.rows;
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
  result.prompts_s = workload.scores_prompts ? 0 : total[kPrompts];
  result.steps = total[1];
  result.generated_tokens = workload.total_generated_tokens;
  result.disk_read_bytes = total[2];
  result.disk_write_bytes = total[3];
  result.loaded_bytes = timeline.loaded_bytes();
  result.bound_s = total[4];
  std::copy(total.begin() + kLanes, total.end(), result.busy.seconds.begin());
  return result;
}

Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload) {
  return predict(model, hardware, precision, policy, workload, walk_slots(model, policy, precision.kv, workload));
}

}  // namespace flexgen
