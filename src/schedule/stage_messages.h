#pragma once
// StageMessages: micro-batches' rows on their way between pipeline stages: from the stage before to where the first local layer finds them, and on to the next stage. On a GPU they go
// through messages in RAM. Host thread only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/arena.h"
#include "memory/memory_item.h"
#include "model/model.h"
#include "net/port.h"
#include "schedule/batch_plan.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/visit.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner.
struct MessageLayout {
  MessageLayout(const Model& model, const Policy& policy);

  int64_t row_bytes = 0;      ///< of a row what goes on to the next stage: its stream, as stages begin with blocks
  int64_t message_bytes = 0;  ///< RAM of one micro-batch for messages whose rows lie in a GPU
  /// What it takes of RAM; nothing where rows lie there anyway.
  std::vector<MemoryItem> memory(const Policy& policy) const;
};

class StageMessages {
 public:
  /// Without a port in `link` nothing is received or sent.
  StageMessages(const Model& model, const Policy& policy, const Arenas& arenas, Lanes& lanes, StageLink link);

  /// For a visit of the first local layer: brings what the stage before sends to `rows`, once everything in `after` is done; then `after` is what compute must wait for. The
  /// first stage receives nothing.
  void receive(const Visit& visit, const BatchPlan& plan, std::byte* rows, std::vector<Event>* after);
  /// For a micro-batch's last visit of a step, over once `done` is: sends `rows` on, but for the last stage. Returns when they are free.
  Event send(const Visit& visit, const BatchPlan& plan, const std::byte* rows, const Event& done);

 private:
  int64_t bytes_of_rows(const BatchPlan& plan) const { return plan.num_rows() * layout_.row_bytes; }

  MessageLayout layout_;
  bool on_gpu_;
  Lanes& lanes_;
  StageLink link_;
  std::vector<std::span<std::byte>> messages_;  ///< a batch
  std::vector<Event> passed_;                   ///< a batch: its rows of the last step have left this stage
};

}  // namespace flexgen
