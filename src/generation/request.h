#pragma once
// Request and Completion: what the engine is asked and what it answers, in tokens. Pure data.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flexgen {

struct GrammarSpec;

/// How a token is chosen from its logits.
struct ChoiceParams {
  double temperature = 1.0;   ///< 0: greedy
  double top_p = 1.0;         ///< in (0, 1]
  int64_t top_k = 0;          ///< 0: off
  double min_p = 0;           ///< tokens with less than this share of the likeliest one's probability are left out; 0: none
  uint64_t seed = 0;          ///< the random numbers of a sequence depend on this and the position alone
  int64_t top_logprobs = -1;  ///< -1: no logprobs; 0: of the chosen token alone; k: of the k best too

  /// Whether a token is drawn from a part of the distribution.
  bool cuts() const { return temperature > 0 && (top_p < 1 || top_k > 1 || min_p > 0); }
};

/// What is done to the logit of one token before a token is chosen, in this order; logprobs are of the logits as they were.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;        ///< is added; -infinity: the token cannot be chosen
  float repetition = 1;  ///< divides a logit above 0, and multiplies another
  float penalty = 0;     ///< is taken off
};

/// What is generated for a prompt, and when that ends.
struct SamplingParams : ChoiceParams {
  int64_t max_tokens = 16;  ///< 0 with echo: score the prompt only
  int64_t min_tokens = 0;   ///< nothing ends an answer before it has so many tokens and one more
  bool echo = false;        ///< prompt logprobs too (if asked for), and the prompt's text before the answer
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;  ///< what ended the answer is left in its text
  bool skip_special_tokens = true;
  bool answers_afresh =
      false;  ///< the answer is a text of its own, as a new message of a conversation; else it goes on where the prompt's text ends, and is decoded so
  bool ignore_eos = false;                             ///< benchmarks: always generate max_tokens
  int64_t prompt_logprobs = -1;                        ///< as top_logprobs, of the prompt's tokens
  std::vector<int32_t> logprob_token_ids;              ///< with top_logprobs: of generated tokens these take the place of the best
  double repetition_penalty = 1;                       ///< LogitEdit::repetition of all tokens of the prompt and of the answer so far
  double presence_penalty = 0, frequency_penalty = 0;  ///< are taken off the tokens of the answer so far: once, and as often as they are there
  std::vector<std::pair<int32_t, float>> logit_bias;   ///< each token once
  std::shared_ptr<const GrammarSpec> grammar;          ///< that the answer follows (text/grammar/grammar.h); null: none
  std::vector<std::vector<int32_t>> bad_words;         ///< the last token of each cannot be chosen where the answer ends in the others

  /// Whether the prompt's tokens have logprobs, and of how many of the best.
  bool scores_prompt() const { return top_prompt_logprobs() >= 0; }
  int64_t top_prompt_logprobs() const { return std::max(echo ? top_logprobs : -1, prompt_logprobs); }
  /// Whether logits are edited before a token is chosen.
  bool edits_logits() const {
    return min_tokens > 0 || repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 || !logit_bias.empty() || !bad_words.empty();
  }
  /// Whether all logits of a row must be kept until its token is chosen.
  bool keeps_logits() const { return cuts() || edits_logits() || grammar; }
};

/// One sequence to generate.
struct Request {
  int64_t key = 0;  ///< the caller's; comes back in the Completion
  std::vector<int32_t> prompt;
  SamplingParams params;
  int64_t ends_after = 0;     ///< simulations, whose tokens mean nothing: the answer ends after so many, as if by an end token; 0: off
  int64_t shared_tokens = 0;  ///< of the prompt's first tokens, so many are those of other requests too: what is computed for one is kept for the others
  /// After how many of these others go on with tokens of their own: ascending, the last of them all. Empty: after any. Layers with a window keep what is seen from there.
  std::vector<int64_t> shared_ends;
  bool sparse_prompt = false;  ///< with sparse attention: the prompt's rows are sparse as generated ones are (perplexity wants to see the price)

  /// Whether its prompt may be read from, and kept for, others' pages: scored prompts want the logits of all of their rows, and a sparse prompt's keys and values are others than a dense one's.
  bool may_share() const { return !params.scores_prompt() && !sparse_prompt; }
};

/// A token with its log-probability, by the logits as the model gave them.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;                           ///< NaN for the first token of a prompt
  std::vector<std::pair<int32_t, float>> top;  ///< best first
  int32_t not_finite = -1;                     ///< the first vocabulary entry whose logit was NaN or +infinity: then nothing else is to be believed; -1: none
  bool none_left = false;                      ///< edits or a grammar's mask left no token to choose: there is none
};

/// Bytes that the logprobs of one sequence take until it is done, at the most.
inline int64_t logprob_bytes(const SamplingParams& params, int64_t prompt_tokens) {
  const int64_t tokens = (params.top_logprobs >= 0 ? params.max_tokens : 0) + (params.scores_prompt() ? prompt_tokens : 0);
  if (tokens == 0) return 0;
  constexpr int64_t kListBytes = 2 * sizeof(TokenLogprob);  // a list that grows has up to twice the room
  constexpr int64_t kHeapBytes = 16;                        // the allocator's own
  const int64_t most = std::max<int64_t>({params.top_logprobs, params.prompt_logprobs, std::ssize(params.logprob_token_ids), 0});
  return tokens * (kListBytes + kHeapBytes + most * static_cast<int64_t>(sizeof(std::pair<int32_t, float>)));
}

/// Why an answer ended.
enum class FinishReason {
  kStop,
  kLength,
  kNotFinite,  ///< logits were NaN or infinite: there is no answer
  kDeadEnd,    ///< the request leaves no token that may come next: there is no answer
  kCancelled,  ///< RequestSource::is_cancelled(): what there was of it until then
};
inline bool has_no_answer(FinishReason reason) { return reason == FinishReason::kNotFinite || reason == FinishReason::kDeadEnd; }

struct Completion {
  int64_t key = 0;
  std::vector<int32_t> tokens;  ///< generated (eos and stop-string tokens included)
  std::string text;             ///< generated text, cut before what ended it (empty without a tokenizer)
  FinishReason reason = FinishReason::kLength;
  std::string stop_string;            ///< kStop: the stop string that ended it; empty: none did
  std::optional<int32_t> stop_token;  ///< kStop: the one of stop_token_ids that ended it
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;                  ///< of these, not computed, as other sequences had them in the cache
  int64_t failed_position = -1;               ///< has_no_answer(): of the token that could not be chosen or scored
  int32_t not_finite_entry = -1;              ///< kNotFinite: the vocabulary entry
  std::string grammar_failure;                ///< kDeadEnd: why its grammar cannot be followed; empty: it can
  std::vector<TokenLogprob> prompt_logprobs;  ///< where the prompt is scored
  std::vector<TokenLogprob> logprobs;
};

}  // namespace flexgen
