#pragma once
// LookupLayout: where the table is whose rows are looked up, and the room for rows on their way. Pure arithmetic over the model, shared with the planner.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "memory/memory_item.h"
#include "model/model.h"
#include "schedule/policy.h"

namespace flexgen {

/// Looked-up rows cost next to nothing to read, so the table takes RAM only if everything does, or if it is smaller than the room for rows on their way in. It takes
/// a GPU's memory only if everything does. All are 0 where there is no table, as in later pipeline stages.
struct LookupLayout {
  LookupLayout(const Model& model, const Policy& policy);

  std::optional<size_t> table;  ///< which of the first layer's uses it is
  int64_t resident_rows = 0;    ///< of the table in the tier that computes, for look-ups alone: all or none
  int64_t host_rows = 0;        ///< of it in RAM beside a GPU: all or none
  int64_t row_bytes = 0;        ///< staging for one row in the compute tier; 0: all rows are resident
  int64_t bounce_bytes = 0;     ///< and in RAM before it, if that is a GPU and rows may come from disk

  /// What rows on their way take of each tier.
  std::vector<MemoryItem> memory(const Policy& policy) const;
};

}  // namespace flexgen
