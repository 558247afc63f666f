#pragma once
// Sizes of a policy that follow from its slots and rows. Pure functions.

#include "model/model.h"
#include "plan/workload.h"
#include "schedule/policy.h"

namespace flexgen {

/// Slots, rows and the logit rows and cache pages that they need: pages for what sequences of the mean length (with all of their max_tokens) have of their own and a tenth more, for the
/// longest sequence at least, and for the prefixes of the sequences that are in the block together.
Policy policy_of_sizes(const Model& model, const Workload& workload, DType kv_dtype, int64_t micro_batch_size, int64_t num_micro_batches, int buffers,
                       int64_t max_rows);

/// Pages of the distinct prefixes that `sequences` sequences in a row of the job's order have together, at the most.
int64_t prefix_pages(const Workload& workload, int64_t page_tokens, int64_t sequences);

/// Places where the prefixes that a block of this policy keeps in its prefix_pages end. 0: not known, as of sequences whose sharers nobody knows yet.
int64_t prefix_ends(const Workload& workload, int64_t page_tokens, const Policy& policy);

/// Prompt tokens that the job computes under this policy: without pages for prefixes, all of every prompt.
double computed_prompt_tokens(const Workload& workload, const Policy& policy);

/// Rows of a step at which prompts come in at the pace at which sequences end, so that every step is alike.
double even_rows(const Workload& workload, int64_t block_size);

}  // namespace flexgen
