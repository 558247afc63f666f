#pragma once
// Workload: what the planner must know of a job before it starts. Pure data. Of an answer it knows how long it may get and how long it is expected to
// get: memory goes by the first, as the batcher reserves pages for all max_tokens, and time by the second.

#include <cstdint>
#include <optional>
#include <vector>

namespace flexgen {

/// Tokens of one sequence.
struct SequenceLength {
  int32_t prompt = 0;
  int32_t max_tokens = 0;  ///< that may be generated
  int32_t generated = 0;   ///< that are expected to be
  bool scored = false;     ///< wants the logprobs of its prompt
  int32_t prefix = 0;      ///< of the prompt, in whole pages that other sequences have too
  int32_t shared = 0;      ///< of these, so many that the sequence before it has: they are not computed again
};

/// What a sequence has in common with others of its job, whose order is such that sharers stay together.
struct PrefixTokens {
  int64_t prefix = 0, shared = 0;  ///< as in SequenceLength
};

struct Workload {
  int64_t num_sequences = 0;
  int64_t longest_sequence = 0;  ///< largest prompt + max_tokens
  double total_prompt_tokens = 0;
  double total_prefix_tokens = 0;     ///< of these, in pages that several sequences have
  double total_shared_tokens = 0;     ///< and of these, not computed
  double total_max_tokens = 0;        ///< generated, if every sequence runs to its max_tokens
  double total_generated_tokens = 0;  ///< that are expected to be generated
  bool keeps_logits = false;          ///< some sequence draws from a part of the distribution: whole logits are kept
  bool scores_prompts = false;        ///< some sequence wants the logprobs of its prompt
  bool reads_logits = false;          ///< some sequence does that, or wants logprobs: of the others a GPU finds the tokens itself
  int64_t logprob_bytes = 0;          ///< that the logprobs of one sequence take until it is done, at the most
  /// Of the job's order every sample_stride-th run of kSampleRun sequences: all of a job of up to kMaxSample, evenly spread runs of a larger. Neighbours stay
  /// together, as what a sequence shares is said of the one before it.
  std::vector<SequenceLength> sample;
  int64_t sample_stride = 1;
  static constexpr int64_t kMaxSample = 16384, kSampleRun = 128;

  double mean_prompt() const { return num_sequences ? total_prompt_tokens / static_cast<double>(num_sequences) : 0; }
  /// Of the prefixes, what is computed: each token once.
  double new_prefix_tokens() const { return total_prefix_tokens - total_shared_tokens; }
  double computed_prompt_tokens() const { return total_prompt_tokens - total_shared_tokens; }
  double mean_computed_prompt() const { return num_sequences ? computed_prompt_tokens() / static_cast<double>(num_sequences) : 0; }
  double mean_prefix() const { return num_sequences ? total_prefix_tokens / static_cast<double>(num_sequences) : 0; }
  double mean_max_tokens() const { return num_sequences ? total_max_tokens / static_cast<double>(num_sequences) : 0; }
  double mean_generated() const { return num_sequences ? total_generated_tokens / static_cast<double>(num_sequences) : 0; }
  /// Whether some answer is expected to end before its max_tokens.
  bool expects_early_ends() const { return total_generated_tokens < total_max_tokens; }
  /// Counts one more sequence in; whether logprobs of answers are wanted, `reads_logits` must be told. `expected_tokens`: that it will generate, as far as max_tokens allows; nothing: all of them.
  void add(int64_t prompt_tokens, int64_t max_tokens, bool keeps, bool scored, std::optional<int64_t> expected_tokens = {}, const PrefixTokens& prefix = {});
  /// From now on every answer is expected to take this share of its max_tokens.
  void expect(double share);
  /// The same job with a cache of pages of so many tokens: what sequences share are whole pages.
  Workload in_pages(int64_t page_tokens) const;
  /// The same job with every prompt computed whole.
  Workload without_sharing() const;
};

/// The i-th of `count` <= `size` places, one in each of as many equal parts, drawn within it. At equal distances groups of one size would be met at their first sequences alone, or at none
/// of them.
size_t drawn_place(double i, double count, double size);

}  // namespace flexgen
