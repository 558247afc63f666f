#pragma once
// ChoicePrompts: an answer that is one of some texts, by what the model gives them: the fields of a batch line that asks for it, and which one a record says. One thread.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// What is done to a prompt that the model has not enough positions for.
enum class Truncation { kRefuse, kLeft, kRight };

class ChoicePrompts {
 public:
  /// `choices`: what may be answered. `tokenizer` must live as long.
  ChoicePrompts(std::vector<std::string> choices, const Tokenizer& tokenizer, int64_t max_positions, Truncation truncation);

  /// The fields that ask for the logprobs of each choice behind `prompt`. `chat`: a template has written it out, special tokens and all; else a blank stands between the two.
  /// Where each choice is one token more, and there are no more than a line may name, that is one step with logprob_token_ids; else each choice
  /// is a prompt of its own that is scored. A prompt that the tokenizer does not take, or that leaves no token before the choices, becomes a line that is refused for it.
  /// Throws Error{user} for choices that no tokens tell apart.
  nlohmann::ordered_json fields(const std::string& prompt, bool chat) const;

  /// The choice whose tokens have the largest sum of logprobs; the first of equals. `asked`: the line that fields() made; `choices`: of the answer's body.
  const std::string& chosen(const nlohmann::json& asked, const nlohmann::json& choices) const;

 private:
  std::vector<std::string> choices_;
  const Tokenizer& tokenizer_;
  int64_t max_positions_;
  size_t num_behind_;  ///< tokens that the tokenizer puts behind every text
  Truncation truncation_;
};

}  // namespace flexgen
