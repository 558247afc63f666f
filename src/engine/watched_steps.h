#pragma once
// WatchedSteps: the steps of a batcher, and an eye on the lanes: every so often, at the start of a step, it compares what they take with what the
// profile says, and where they drift it plans the remaining steps anew (plan/drift.h) and says so. Host thread only.

#include <chrono>

#include "generation/batcher.h"
#include "plan/drift.h"
#include "schedule/lanes.h"

namespace flexgen {

class WatchedSteps : public StepSource {
 public:
  WatchedSteps(Batcher& batcher, const RequestSource& source, const Model& model, const HardwareProfile& hardware, const Precision& precision,
               const Policy& policy, const Workload& workload, const Lanes& lanes);

  std::shared_ptr<BatchPlan> next(int64_t step, int64_t batch) override {
    if (batch == 0) look(step);
    return batcher_.next(step, batch);
  }
  bool finished() override { return batcher_.finished(); }

  static constexpr double kLookEveryS = 20;
  static constexpr int64_t kLookEverySteps = 4;

 private:
  using Clock = std::chrono::steady_clock;
  void look(int64_t step);
  Stretch read_lanes() const;

  Batcher& batcher_;
  const RequestSource& source_;
  const Model& model_;
  HardwareProfile hardware_;  ///< as the lanes were last seen
  Precision precision_;
  Policy policy_;
  const Workload& workload_;
  const Lanes& lanes_;
  StepLimits limits_;
  Stretch before_;   ///< sums at the last look
  LaneTimes scale_;  ///< what the lanes' own expectations (of the first profile) are multiplied by
  Clock::time_point looked_at_;
  int64_t looked_step_ = 0;
};

/// What is left of a job: the sequences that were not begun, with answers as long as the batcher's so far, or as the job expects them.
Workload rest_of(const Workload& job, int64_t sequences_left, const std::optional<double>& answer_share);

/// Tells the lanes what their work should take on this machine. The model must outlive them.
void set_expected_costs(Lanes& lanes, const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy);

}  // namespace flexgen
