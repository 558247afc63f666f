#include "plan/policy_sizes.h"

#include <algorithm>
#include <cmath>

#include "schedule/cache_store.h"

namespace flexgen {

Policy policy_of_sizes(const Model& model, const Workload& workload, DType kv_dtype, int64_t micro_batch_size, int64_t num_micro_batches, int buffers, int64_t max_rows) {
  Policy policy;
  policy.micro_batch_size = micro_batch_size;
  policy.num_micro_batches = num_micro_batches;
  policy.buffers = buffers;
  policy.max_rows = max_rows;
  policy.max_logit_rows = workload.scores_prompts ? max_rows : std::min(micro_batch_size, max_rows);
  const auto page = static_cast<double>(CacheLayout::page_tokens(model, kv_dtype));
  const int64_t longest = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(static_cast<double>(workload.longest_sequence) / page)));
  // Pages are reserved for all that may be generated. The last one is half full on average.
  const double mean = (workload.mean_prompt() + workload.mean_max_tokens()) / page + 0.5;
  policy.pages_per_micro_batch =
      std::min(micro_batch_size * longest, std::max(longest, static_cast<int64_t>(std::ceil(1.1 * mean * static_cast<double>(micro_batch_size)))));
  return policy;
}

double even_rows(const Workload& workload, int64_t block_size) {
  return static_cast<double>(block_size) * (workload.mean_prompt() + workload.mean_generated()) / (workload.mean_generated() + 1);
}

}  // namespace flexgen
