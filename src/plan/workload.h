#pragma once
// Workload: what the planner must know of a job before it starts. Pure data.

#include <cstdint>

namespace flexgen {

struct Workload {
  int64_t num_sequences = 0;
  int64_t longest_sequence = 0;       ///< largest prompt + max_tokens
  double total_prompt_tokens = 0;
  double total_generated_tokens = 0;  ///< if every sequence runs to its max_tokens
  bool samples = false;               ///< some sequence draws from the whole distribution (temperature > 0)
  bool scores_prompts = false;        ///< some sequence wants the logprobs of its prompt

  double mean_prompt() const { return num_sequences ? total_prompt_tokens / static_cast<double>(num_sequences) : 0; }
  double mean_generated() const {
    return num_sequences ? total_generated_tokens / static_cast<double>(num_sequences) : 0;
  }
  /// Counts one more sequence in.
  void add(int64_t prompt_tokens, int64_t max_tokens, bool sampled, bool scored);
};

}  // namespace flexgen
