#pragma once
// Evaluation: what `flexgen eval` measures, without model or files: windows over a text and the perplexity of their scores, answers against
// references. Pure functions.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generation/request.h"

namespace flexgen {

/// Tokens [begin, end) of a text go through the model together; of these, [first_scored, end) count.
struct ScoreWindow {
  int64_t begin = 0, end = 0, first_scored = 0;
};

/// Windows of at most `window` tokens, each `stride` further than the one before; every token is scored once, in the first window that holds it, so
/// that all but the first window's have at least window - stride tokens of context. With no token before the text (`has_prefix` false) its first
/// token cannot be scored. Needs 1 <= stride <= window, and stride < window without a prefix. The usual definition: Hugging Face, "Perplexity of
/// fixed-length models".
std::vector<ScoreWindow> score_windows(int64_t num_tokens, int64_t window, int64_t stride, bool has_prefix);

/// Sums of scores; perplexity = exp(-mean log p).
struct Perplexity {
  double log_likelihood = 0;  ///< nats
  int64_t tokens = 0, bytes = 0;

  double value() const;
  double bits_per_byte() const;
};

/// Throws Error{io} that says how many of the completions, `what` they are of ("windows"), have logits that are not finite: no figure of them means anything. Error{user} for one that is
/// kDeadEnd.
void check_answered(std::span<const Completion> completions, std::string_view what);

/// How answers compare with references.
struct TaskScore {
  int64_t lines = 0, exact = 0;          ///< equal once blanks at both ends are cut, or as values
  int64_t fields = 0, fields_right = 0;  ///< of references that are JSON objects: members, and those the answer has with an equal value

  /// `is_value`: the reference is the JSON of a value that is no text, and an answer is the same if it says that value.
  void add(std::string_view answer, std::string_view reference, bool is_value = false);
};

}  // namespace flexgen
