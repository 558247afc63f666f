#pragma once
// Executor: carries out the one loop, whose order is walk_pass()'s: leases what each visit needs, enqueues its compute, and lets every
// kind of tensor run ahead. Runs in the caller's thread (the host thread).
//
// On a CPU, and mostly on a GPU, a visit is one piece of work for the compute lane. On a GPU the head's visits send their logits (or the largest of each
// row, if nobody wants more) to the cpu lane panel by panel, and where attention runs on the processor beside it a block's visit has three stages; its last one is enqueued after the
// next visit's first, so that the GPU has work while the processor attends.

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/kernels.h"
#include "model/model.h"
#include "schedule/batch_plan.h"
#include "schedule/expert_choices.h"
#include "schedule/lanes.h"
#include "schedule/run_ahead.h"
#include "schedule/stores.h"

namespace flexgen {

/// Work done so far, as the bound needs it.
struct WorkDone {
  double linear_flops = 0, attention_flops = 0, kv_read_bytes = 0;
  double beside_kv_read_bytes = 0;  ///< of kv_read_bytes, by the processor beside a GPU
  double weight_read_bytes =
      0;  ///< a layer's weights once for all its visits in turn, of experts as many as the micro-batch that chose the most, or is expected to
  int64_t steps = 0, visits = 0, rows = 0;

  double own_kv_read_bytes() const { return kv_read_bytes - beside_kv_read_bytes; }  ///< by the tier that computes
};

class Executor {
 public:
  /// `cpu_kernels` of the processor beside a GPU, if attention runs there.
  Executor(const Model& model, const Policy& policy, Kernels& kernels, Lanes& lanes, Stores& stores, std::span<std::byte> scratch,
           Kernels* cpu_kernels = nullptr);

  /// Runs steps until the source is finished or `stop` is set, then drains the lanes. Throws the first error of
  /// any lane, after the drain.
  void run(StepSource& source, const std::atomic<bool>& stop);
  const WorkDone& work_done() const { return work_done_; }
  /// Simulations: rows choose their experts at random. Before run().
  void imagine_choices(uint64_t seed) { choices_.imagine(seed); }
  /// From run() on adds to `counts` which experts the rows choose; a list [E] for each sparse block of this process must be there. To be read after run().
  void count_choices_in(ExpertCounts* counts) { counts_ = counts; }

 private:
  /// One step of the block: all layers, all micro-batches, group by group.
  void run_step(StepSource& source, int64_t step);
  struct Pass;
  /// Every micro-batch of the pass is planned: decides whether it loads all experts, or those that are chosen.
  void begin_pass(const Visit& visit);
  /// Before the first visit of a block's experts, in a pass that loads those that are chosen: waits until all of the block's rows have chosen. The host thread waits for nothing else
  /// but the tokens of the step before, and room for page tables (RunAhead).
  void learn_choices(const Visit& visit);
  TakesPlace takes_place(const Visit& visit) const;
  /// Whether the micro-batch has visits of later layers of this process.
  bool is_needed_later(Visit visit) const;
  struct Pending {
    std::shared_ptr<VisitLease> lease;
    Exchange::Pair pair;
    Work work;       ///< the stage after attention
    Event attended;  ///< the pages are as they will be
    Event uploaded;  ///< the result of attention is on the device
  };
  /// The visit's work, but for what it runs: after all that its lease waits for. The cache's pages are for whoever attends.
  Work work_of(VisitLease& lease);
  /// The stores whose part is for attention alone commit, or the others.
  void commit(VisitLease& lease, const Event& done, bool attention);
  // Enqueue the visit; set last_done_ and the plan's `done`.
  void forward_whole(const std::shared_ptr<VisitLease>& lease);
  void forward_head(const std::shared_ptr<VisitLease>& lease);
  /// Enqueues the visit but for the stage after attention.
  Pending forward_beside(const std::shared_ptr<VisitLease>& lease);
  /// Enqueues the stage that is left of the newest visit, if one is.
  void flush(StepSource& source);
  /// The visit's part in the compute lane is enqueued up to `done`.
  void computed(VisitLease& lease, const Event& done);
  /// In the compute lane, after a visit's attention: counts which experts its rows chose, where that is asked for.
  void count_choices(const VisitLease& lease);
  /// What the visit computes; counts it as work done.
  ComputeAmount amount_of(const VisitLease& lease);
  void copy_in(const VisitLease& lease);
  void copy_out(const VisitLease& lease);

  const Model& model_;
  Policy policy_;
  Kernels& kernels_;
  Lanes& lanes_;
  Stores& stores_;
  std::span<std::byte> scratch_;
  Kernels* cpu_kernels_;
  Schedule schedule_;
  ExpertChoices choices_;
  ExpertCounts* counts_ = nullptr;                 ///< the compute lane's
  int64_t pass_ = 0;                               ///< passes begun that had something to do
  std::vector<std::shared_ptr<BatchPlan>> plans_;  ///< a batch: what it does in this step, or null
  Ahead ahead_;
  RunAhead run_ahead_;
  Event last_done_;  ///< of the newest visit; the compute lane is in order, so it covers all before
  std::optional<Pending> pending_;
  std::pair<int64_t, int64_t> read_{-1, -1};  ///< step and layer of the newest visit
  double share_read_ = 0;                     ///< of that layer's weights
  std::vector<double> weight_bytes_;          ///< a layer: Model::weight_bytes()
  WorkDone work_done_;
};

}  // namespace flexgen
