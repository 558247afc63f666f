#pragma once
// Attention of the cpu backend: one kernel for prompts and generation, over keys and values where
// they lie. Pure function of its task; thread-safe.

#include <cmath>
#include <span>
#include <vector>

#include "backend/kernels.h"

namespace flexgen {

/// A new row of a slot.
struct AttentionRow {
  const AttentionSlot* slot = nullptr;
  int64_t row = 0;                                      ///< within the slot's new rows
  int64_t end() const { return slot->past + row + 1; }  ///< of the positions that it attends to
};

/// Positions [begin, end) of which a task's rows [first_row, end_row) go through the same pages, those of `slot`; begin is a multiple of kAttentionSpan.
struct AttentionStretch {
  const AttentionSlot* slot = nullptr;
  int64_t first_row = 0, end_row = 0;
  int64_t begin = 0, end = 0;
};

/// Positions of one pass of the online softmax, aligned to multiples of itself, whatever the page size, so that the sums of a
/// position's row are always grouped in the same way.
inline constexpr int64_t kAttentionSpan = 64;

/// Some new rows and all query heads of some kv heads. Rows of several slots only where these have their first pages in common.
struct AttentionTask {
  const float* q = nullptr;  ///< [T, A, H]
  const KvGeometry* geometry = nullptr;
  AttentionRule rule;
  DType out_dtype = DType::kF32;
  std::byte* out = nullptr;  ///< [T, A, H]

  std::span<const AttentionRow> rows;           ///< a slot's in the order of their positions
  std::span<const AttentionStretch> stretches;  ///< those of a row in the order of their positions
  const AttentionSlot* slot = nullptr;          ///< whose pages are read: that of the only row, or of the stretch that is looked at
  int64_t first_head = 0, num_heads = 0;        ///< kv heads
  bool sparse = false;                          ///< a sparse row, alone

  int64_t num_rows() const { return std::ssize(rows); }
  int64_t queries_per_head() const { return num_rows() * (geometry->query_heads / geometry->kv_heads); }
};

/// How much of a slot's new rows a task takes.
struct TaskSize {
  int64_t queries = 32;       ///< rows (heads and tokens) of a kv head, about
  int64_t of_all_heads = 64;  ///< of all its kv heads together, unless one has more
  int64_t multiple = 1;       ///< of so many a kv head, where that takes at most twice as many
};

/// The attention of all slots of a visit, cut into tasks. Slots one after the other that have their first pages in common and few new rows go through these pages together: one pass
/// over keys and values for all of their queries.
class AttentionPlan {
 public:
  /// For `num_workers`, the longest first. `all` holds what the tasks share. `slots` must stay as long as the tasks are used.
  void make(const AttentionTask& all, const TaskSize& size, int64_t num_workers, std::span<const AttentionSlot> slots);
  std::span<const AttentionTask> tasks() const { return tasks_; }

 private:
  struct Part {
    int64_t first_row = 0;  ///< of the task's
    int64_t shared = 0;     ///< positions in common with the part before
  };
  void add_task(const AttentionTask& task, int64_t max_queries, int64_t max_heads);
  void add_stretches(std::span<const Part> parts, int64_t end_row, int64_t begin);

  std::vector<AttentionTask> tasks_;
  std::vector<AttentionRow> rows_;
  std::vector<AttentionStretch> stretches_;
  std::vector<Part> parts_;
};

/// What a query head's softmax has seen before the first position: nothing, or its sink.
struct SoftmaxStart {
  float maximum, sum;
};
inline SoftmaxStart softmax_start(const AttentionRule& rule, int64_t query_head) {
  if (rule.sinks.empty()) return {-INFINITY, 0.0f};
  return {rule.sinks[static_cast<size_t>(query_head)], 1.0f};
}

/// Floats of scratch that attend() needs for the task.
int64_t attention_scratch_floats(const AttentionTask& task);
/// Computes the task's part of `out`. scratch: attention_scratch_floats(), 64-byte aligned. For tasks that are not sparse.
void attend(const AttentionTask& task, float* scratch);

/// The scaled scores of a task's one row and of the query heads of kv head `head` (counted from the task's first): out [group, out_stride], from
/// position `first` up to the row's own. scratch: attention_scratch_floats() of the task.
void attention_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);
/// Whether finish_scores() has nothing to do but to say the rule's scale.
inline bool scores_are_plain(const AttentionRule& rule) { return rule.soft_cap == 0 && rule.slopes.empty(); }
/// scores [count] of the task's query number `query` of its kv head `head`, which stands at `position`, with the keys from position `first` on, as they
/// come from the products: makes them what the rule says, but for a factor that is left to the caller and returned.
float finish_scores(const AttentionTask& task, int64_t head, int64_t query, int64_t position, int64_t first, float* scores, int64_t count);
/// shares[i] += softmax(scores)[i]. What is left in `scores` is of no use.
void add_softmax(float* scores, int64_t count, float* shares);

}  // namespace flexgen
