#pragma once
// Request and Completion: what the engine is asked and what it answers, in tokens. Pure data.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flexgen {

struct SamplingParams {
  int64_t max_tokens = 16;    ///< 0 with echo: score the prompt only
  double temperature = 1.0;   ///< 0: greedy
  double top_p = 1.0;         ///< in (0, 1]
  int64_t top_k = 0;          ///< 0: off
  uint64_t seed = 0;          ///< the random numbers of a sequence depend on this and the position alone
  int64_t top_logprobs = -1;  ///< -1: no logprobs; 0: of the chosen token alone; k: of the k best too
  bool echo = false;          ///< prompt logprobs too (if asked for), and the prompt's text before the answer
  std::vector<std::string> stop;
  bool ignore_eos = false;    ///< benchmarks: always generate max_tokens

  /// Whether a token is drawn from a part of the distribution, for which all of its logits must be kept.
  bool keeps_logits() const { return temperature > 0 && (top_p < 1 || top_k > 1); }
};

/// One sequence to generate.
struct Request {
  int64_t key = 0;  ///< the caller's; comes back in the Completion
  std::vector<int32_t> prompt;
  SamplingParams params;
  int64_t ends_after = 0;      ///< simulations, whose tokens mean nothing: the answer ends after so many, as if by an end token; 0: off
  bool sparse_prompt = false;  ///< with sparse attention: the prompt's rows are sparse as generated ones are (perplexity wants to see the price)
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  ///< NaN for the first token of a prompt
  std::vector<std::pair<int32_t, float>> top;  ///< best first
};

/// Bytes that the logprobs of one sequence take until it is done, at the most.
inline int64_t logprob_bytes(const SamplingParams& params, int64_t prompt_tokens) {
  if (params.top_logprobs < 0) return 0;
  constexpr int64_t kListBytes = 2 * sizeof(TokenLogprob);  // a list that grows has up to twice the room
  constexpr int64_t kHeapBytes = 16;                        // the allocator's own
  const int64_t tokens = params.max_tokens + (params.echo ? prompt_tokens : 0);
  return tokens * (kListBytes + kHeapBytes + params.top_logprobs * static_cast<int64_t>(sizeof(std::pair<int32_t, float>)));
}

enum class FinishReason { kStop, kLength };

struct Completion {
  int64_t key = 0;
  std::vector<int32_t> tokens;  ///< generated (eos and stop-string tokens included)
  std::string text;             ///< generated text, cut before a stop string (empty without a tokenizer)
  FinishReason reason = FinishReason::kLength;
  std::vector<TokenLogprob> prompt_logprobs;  ///< with echo and logprobs
  std::vector<TokenLogprob> logprobs;
};

}  // namespace flexgen
