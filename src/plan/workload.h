#pragma once
// Workload: what the planner must know of a job before it starts. Pure data.

#include <cstdint>
#include <vector>

namespace flexgen {

/// Tokens of one sequence.
struct SequenceLength {
  int32_t prompt = 0, generated = 0;
  bool scored = false;  ///< wants the logprobs of its prompt
};

struct Workload {
  int64_t num_sequences = 0;
  int64_t longest_sequence = 0;       ///< largest prompt + max_tokens
  double total_prompt_tokens = 0;
  double total_generated_tokens = 0;  ///< if every sequence runs to its max_tokens
  bool samples = false;               ///< some sequence draws from the whole distribution (temperature > 0)
  bool scores_prompts = false;        ///< some sequence wants the logprobs of its prompt
  /// Every sample_stride-th sequence in the job's order: all of a job of up to kMaxSample, evenly spread ones of a larger.
  std::vector<SequenceLength> sample;
  int64_t sample_stride = 1;
  static constexpr int64_t kMaxSample = 16384;

  double mean_prompt() const { return num_sequences ? total_prompt_tokens / static_cast<double>(num_sequences) : 0; }
  double mean_generated() const {
    return num_sequences ? total_generated_tokens / static_cast<double>(num_sequences) : 0;
  }
  /// Counts one more sequence in.
  void add(int64_t prompt_tokens, int64_t max_tokens, bool sampled, bool scored);
};

}  // namespace flexgen
