#pragma once
// Sizes of a policy that follow from its slots and rows. Pure functions.

#include "model/model.h"
#include "plan/workload.h"
#include "schedule/policy.h"

namespace flexgen {

/// Slots, rows and the logit rows and cache pages that they need: pages for sequences of the mean length (with all of their max_tokens) and a tenth more, for the longest at least.
Policy policy_of_sizes(const Model& model, const Workload& workload, DType kv_dtype, int64_t micro_batch_size, int64_t num_micro_batches, int buffers, int64_t max_rows);

/// Rows of a step at which prompts come in at the pace at which sequences end, so that every step is alike.
double even_rows(const Workload& workload, int64_t block_size);

}  // namespace flexgen
