#pragma once
// BatchPlan: what one micro-batch does in one step, as a plain value made by the engine at the start of the step
// and carried out by the executor. Nothing is padded: the tokens of all slots are packed into T rows.

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "backend/event.h"
#include "model/model.h"

namespace flexgen {

/// Pages of one slot in the layers of one state (Model::states()), in the order of its positions: page `first` and those that follow it.
struct SlotPages {
  int64_t first = 0;         ///< not 0: those before are behind the window
  std::vector<int32_t> ids;  ///< as CacheLayout counts them
};

/// The rows of one slot: prompt chunk or generated token.
struct SlotRows {
  int64_t first_row = 0, num_rows = 0;
  int64_t past = 0;              ///< tokens already in the cache
  std::vector<SlotPages> pages;  ///< a state: what of [0, past + num_rows) its rows see and write; those of its own rows are of no other slot that writes
  int64_t dense_until = 0;       ///< as in AttentionSlot: the prompt's size, or 0
};

struct BatchPlan {
  int64_t step = 0, batch = 0;
  std::vector<int32_t> tokens, positions;  ///< [T]
  std::vector<SlotRows> slots;
  std::vector<int32_t> logit_rows;  ///< rows of T that want logits
  std::shared_ptr<LogitSink> sink;  ///< gets them; null if there are none
  Event done;                       ///< set by the executor: all visits of this plan are over

  int64_t num_rows() const { return static_cast<int64_t>(tokens.size()); }
};

/// Where plans come from: the engine, or a synthetic load.
class StepSource {
 public:
  virtual ~StepSource() = default;
  /// The plan of (step, batch); null if the micro-batch has nothing to do. Called from the host thread when
  /// the micro-batch's previous plan has been enqueued; waits for its results itself.
  virtual std::shared_ptr<BatchPlan> next(int64_t step, int64_t batch) = 0;
  /// The plan's last visit of this process was enqueued: its `done` is final.
  virtual void submitted(const std::shared_ptr<BatchPlan>& plan) { static_cast<void>(plan); }
  /// The run has failed here; whoever waits for it elsewhere must learn of it.
  virtual void failed(std::exception_ptr error) { static_cast<void>(error); }
  /// Whether no batch will ever have anything to do again (asked after a step in which all were idle).
  virtual bool finished() = 0;
};

}  // namespace flexgen
