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
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/store.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner.
struct MessageLayout {
  MessageLayout(const Model& model, const Policy& policy);

  int64_t row_bytes = 0;      ///< of a row what goes on to the next stage: its stream, as stages begin with blocks
  int64_t message_bytes = 0;  ///< RAM of one micro-batch for messages whose rows lie in a GPU
  /// What it takes of RAM; nothing where rows lie there anyway.
  std::vector<MemoryItem> memory(const Policy& policy) const;
};

class StageMessages : public Store {
 public:
  /// Without a port in `link` nothing is received or sent.
  StageMessages(const Model& model, const Policy& policy, const Arenas& arenas, Lanes& lanes, StageLink link);

  /// For a visit of the first local layer, after the rows: brings there what the stage before sends. The first stage receives nothing.
  void acquire(VisitLease& lease) override;
  /// For a micro-batch's last visit of a step, before the rows: sends them on. The last stage sends nothing.
  void commit(VisitLease& lease, const Event& done) override;

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
