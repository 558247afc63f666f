#pragma once
// Which of the attention kernels computes a geometry. Pure function; thread-safe.

#include "backend/cpu/attention.h"

namespace flexgen {

/// Functions as attention_scratch_floats(), attend() and attention_scores() (backend/cpu/attention.h).
struct AttentionKernel {
  int64_t (*scratch_floats)(const AttentionTask& task);
  void (*attend)(const AttentionTask& task, float* scratch);
  void (*scores)(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);
  TaskSize task_size;
};

/// By the model and the machine alone, so that all rows of a sequence are computed by the same arithmetic.
const AttentionKernel& attention_kernel(const KvGeometry& geometry, DType out_dtype);

}  // namespace flexgen
