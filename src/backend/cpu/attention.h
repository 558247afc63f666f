#pragma once
// Attention of the cpu backend: one kernel for prompts and generation, over keys and values where
// they lie. Pure function of its task; thread-safe.

#include <span>
#include <vector>

#include "backend/kernels.h"

namespace flexgen {

/// Some new rows of one slot and all query heads of some kv heads.
struct AttentionTask {
  const float* q = nullptr;  ///< [T, A, H]
  const KvGeometry* geometry = nullptr;
  AttentionRule rule;
  DType out_dtype = DType::kF32;
  std::byte* out = nullptr;  ///< [T, A, H]

  const AttentionSlot* slot = nullptr;
  int64_t first_row = 0, num_rows = 0;    ///< within the slot's new rows
  int64_t first_head = 0, num_heads = 0;  ///< kv heads
  bool sparse = false;                    ///< a sparse row, alone
};

/// Cuts the attention of all slots into tasks for `num_workers`, the longest first. `all` holds
/// what the tasks share.
void plan_attention(const AttentionTask& all, int64_t num_workers,
                    std::span<const AttentionSlot> slots, std::vector<AttentionTask>& tasks);
/// Floats of scratch that attend() needs for the task.
int64_t attention_scratch_floats(const AttentionTask& task);
/// Computes the task's part of `out`. scratch: attention_scratch_floats(), 64-byte aligned. For tasks that are not sparse.
void attend(const AttentionTask& task, float* scratch);

/// The scaled scores of a task's one row and of the query heads of kv head `head` (counted from the task's first): out [group, out_stride], from
/// position `first` up to the row's own. scratch: attention_scratch_floats() of the task.
void attention_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);
/// scores [count] of the task's query number `query` of its kv head `head`, which stands at `position`, with the keys from position `first` on, as they
/// come from the products: makes them what the rule says, but for a factor that is left to the caller and returned.
float finish_scores(const AttentionTask& task, int64_t head, int64_t query, int64_t position, int64_t first, float* scores, int64_t count);
/// shares[i] += softmax(scores)[i]. What is left in `scores` is of no use.
void add_softmax(float* scores, int64_t count, float* shares);

}  // namespace flexgen
