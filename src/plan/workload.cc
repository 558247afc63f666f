#include "plan/workload.h"

#include <algorithm>

namespace flexgen {

void Workload::add(int64_t prompt_tokens, int64_t max_tokens, bool sampled, bool scored) {
  if (num_sequences % sample_stride == 0)
    sample.push_back({static_cast<int32_t>(prompt_tokens), static_cast<int32_t>(max_tokens), scored});
  if (static_cast<int64_t>(sample.size()) > kMaxSample) {
    for (size_t i = 0; 2 * i < sample.size(); ++i) sample[i] = sample[2 * i];
    sample.resize((sample.size() + 1) / 2);
    sample_stride *= 2;
  }
  ++num_sequences;
  longest_sequence = std::max(longest_sequence, prompt_tokens + max_tokens);
  total_prompt_tokens += static_cast<double>(prompt_tokens);
  total_generated_tokens += static_cast<double>(max_tokens);
  samples = samples || sampled;
  scores_prompts = scores_prompts || scored;
}

}  // namespace flexgen
