#include "plan/workload.h"

#include <algorithm>

namespace flexgen {

void Workload::add(int64_t prompt_tokens, int64_t max_tokens, bool sampled, bool scored) {
  ++num_sequences;
  longest_sequence = std::max(longest_sequence, prompt_tokens + max_tokens);
  total_prompt_tokens += static_cast<double>(prompt_tokens);
  total_generated_tokens += static_cast<double>(max_tokens);
  samples = samples || sampled;
  scores_prompts = scores_prompts || scored;
}

}  // namespace flexgen
