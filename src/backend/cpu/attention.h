#pragma once
// Attention of the cpu backend: one kernel for prompts and generation, over keys and values where
// they lie. Pure function of its task; thread-safe.

#include "backend/kernels.h"

namespace flexgen {

/// Some new rows of one slot and all query heads of one kv head.
struct AttentionTask {
  const float* q = nullptr;  ///< [T, A, H]
  const AttentionSlot* slot = nullptr;
  const KvGeometry* geometry = nullptr;
  int64_t kv_head = 0;
  int64_t first_row = 0, num_rows = 0;  ///< within the slot's new rows
  float scale = 1;
  int64_t window = 0;
  DType out_dtype = DType::kF32;
  std::byte* out = nullptr;  ///< [T, A, H]
};

/// New rows of a slot that one task should take: enough to use a key several times while it is in
/// the nearest cache.
int64_t attention_task_rows(const KvGeometry& geometry);
/// Floats of scratch that attend() needs for tasks of attention_task_rows() rows.
int64_t attention_scratch_floats(const KvGeometry& geometry);
/// Computes the task's rows of `out`. scratch: attention_scratch_floats(), 64-byte aligned.
void attend(const AttentionTask& task, float* scratch);

}  // namespace flexgen
