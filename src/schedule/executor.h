#pragma once
// Executor: the one loop. Walks the schedule, leases what each visit needs, enqueues its compute, and lets every
// kind of tensor run ahead. Runs in the caller's thread (the host thread).

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "backend/kernels.h"
#include "model/model.h"
#include "schedule/batch_plan.h"
#include "schedule/cache_store.h"
#include "schedule/hidden_store.h"
#include "schedule/lanes.h"
#include "schedule/weight_store.h"

namespace flexgen {

/// Work done so far, as the bound needs it.
struct WorkDone {
  double linear_flops = 0, attention_flops = 0, kv_read_bytes = 0;
  int64_t steps = 0, visits = 0, rows = 0;
};

class Executor {
 public:
  Executor(const Model& model, const Policy& policy, Kernels& kernels, Lanes& lanes, WeightStore& weights,
           CacheStore& cache, HiddenStore& hidden, std::span<std::byte> scratch);

  /// Runs steps until the source is finished or `stop` is set, then drains the lanes. Throws the first error of
  /// any lane, after the drain.
  void run(StepSource& source, const std::atomic<bool>& stop);
  const WorkDone& work_done() const { return work_done_; }

 private:
  /// One step of the block: all layers, all micro-batches, group by group.
  void run_step(StepSource& source, int64_t step);
  void run_pass(StepSource& source, int64_t first_visit, int64_t end_visit);
  Event forward(const Visit& visit, const std::shared_ptr<BatchPlan>& plan, bool alone, bool needed_later);

  const Model& model_;
  Policy policy_;
  Kernels& kernels_;
  Lanes& lanes_;
  WeightStore& weights_;
  CacheStore& cache_;
  HiddenStore& hidden_;
  std::span<std::byte> scratch_;
  Schedule schedule_;
  int64_t pass_ = 0;  ///< passes begun that had something to do
  std::vector<std::shared_ptr<BatchPlan>> plans_;  ///< a batch: what it does in this step, or null
  Event last_done_;  ///< of the newest visit; the compute lane is in order, so it covers all before
  WorkDone work_done_;
};

}  // namespace flexgen
