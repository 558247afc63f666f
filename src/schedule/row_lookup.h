#pragma once
// RowLookup: the rows of the embedding table that a micro-batch's tokens name. What is in memory is pointed to, or copied to a GPU; other rows are read one by one in a lane of their
// own, so that a table of a gigabyte is never streamed. Host thread only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/arena.h"
#include "model/model.h"
#include "schedule/lanes.h"
#include "schedule/lookup_layout.h"
#include "schedule/policy.h"
#include "schedule/store.h"
#include "schedule/weight_store.h"

namespace flexgen {

class RowLookup : public Store {
 public:
  /// Takes its memory from the arenas. `weights` has the rows that are in memory, as the table's own or as a tied head's, and the table's file.
  RowLookup(const Model& model, const Policy& policy, WeightStore& weights, const Arenas& arenas, Lanes& lanes);

  const LookupLayout& layout() const { return layout_; }

  /// Pointers to the rows of the plan's tokens, for an embed visit.
  void acquire(VisitLease& lease) override;
  void commit(VisitLease& lease, const Event& done) override;

 private:
  /// A layer that reads the table, or a part of it.
  struct Reader {
    int64_t layer = 0;
    size_t use = 0;
    int64_t row_first = 0, rows = 0;
  };
  bool looks_up(const Visit& visit) const { return layout_.table && visit.layer == 0; }
  WeightStore::RowPlace find(int32_t row) const;

  const Model& model_;
  LookupLayout layout_;
  bool on_gpu_;
  WeightStore& weights_;
  Lanes& lanes_;
  std::vector<Reader> readers_;                         ///< the one that looks up first
  std::vector<std::span<std::byte>> staging_, bounce_;  ///< a batch
  std::vector<Event> in_use_;                           ///< a batch
};

}  // namespace flexgen
