#pragma once
// Where the stages of a pipeline get their steps from. The first stage has the batcher; what it plans goes down the stages beside the hidden rows, and the tokens
// that the last stage finds come back to it. So all stages walk the same schedule in the same order, each over its own layers. Host thread of the stage.

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "generation/batcher.h"
#include "net/port.h"
#include "pipeline/plan_message.h"

namespace flexgen {

/// The batcher's plans, told to the next stage; results are put where the batcher looks for them.
class LeadSteps : public StepSource {
 public:
  /// `stop` ends the run after the step under way, for all stages.
  LeadSteps(Batcher& batcher, StageLink link, const std::atomic<bool>& stop) : batcher_(batcher), link_(link), stop_(stop) {}
  ~LeadSteps() override;

  std::shared_ptr<BatchPlan> next(int64_t step, int64_t batch) override;
  bool finished() override;
  void submitted(const std::shared_ptr<BatchPlan>& plan) override;
  void failed(std::exception_ptr error) override;
  /// Takes the results that are still on their way, after the run.
  void settle();

 private:
  struct Expected {
    std::shared_ptr<LogitReader> reader;
    std::vector<std::byte> message;
    Event arrived;
  };
  void take(int64_t batch);

  Batcher& batcher_;
  StageLink link_;
  const std::atomic<bool>& stop_;
  std::vector<std::shared_ptr<Expected>> expected_;  ///< a batch: results of its newest plan, or null
};

/// The plans of the first stage, as a later stage gets them and hands them on.
class FollowSteps : public StepSource {
 public:
  /// `logit_store`: as the batcher's, on the last stage. `before_step` may throw; may be empty.
  FollowSteps(StageLink link, int64_t num_batches, int64_t vocab_size, std::span<float> logit_store, std::function<void()> before_step = nullptr);

  std::shared_ptr<BatchPlan> next(int64_t step, int64_t batch) override;
  bool finished() override;
  void submitted(const std::shared_ptr<BatchPlan>& plan) override;
  void failed(std::exception_ptr error) override;

 private:
  PlanMessage receive();

  StageLink link_;
  int64_t vocab_size_;
  std::function<void()> before_step_;
  std::vector<std::span<float>> logit_stores_;     ///< a batch
  std::vector<std::shared_ptr<BatchPlan>> plans_;  ///< a batch: the newest
};

/// What an exception says.
std::string message_of(std::exception_ptr error);

}  // namespace flexgen
