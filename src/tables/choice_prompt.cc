#include "tables/choice_prompt.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "batch/answer_json.h"
#include "batch/batch_line.h"
#include "batch/special_tokens.h"
#include "tables/row_prompt.h"

namespace flexgen {
namespace {

/// Tokens of a prompt, and of each choice behind it.
struct SplitTokens {
  std::vector<int32_t> prompt;
  std::vector<std::vector<int32_t>> choices;
};

/// How many tokens the tokenizer puts behind every text, as it does behind this one.
size_t count_behind(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> around = tokenizer.encode("", true), own = tokenizer.encode(text, false), whole = tokenizer.encode(text, true);
  for (size_t behind = 0; behind <= around.size(); ++behind) {
    const auto before = static_cast<std::ptrdiff_t>(around.size() - behind);
    std::vector<int32_t> made(around.begin(), around.begin() + before);
    made.insert(made.end(), own.begin(), own.end());
    made.insert(made.end(), around.begin() + before, around.end());
    if (made == whole) return behind;
  }
  return 0;
}

/// A token may lie across the end of the prompt, so it ends for all where one of them differs from it. `prompt_tokens`: of `prompt`.
SplitTokens split_tokens(const std::string& prompt, std::vector<int32_t> prompt_tokens, const std::vector<std::string>& choices, std::string_view gap,
                         const std::function<std::vector<int32_t>(const std::string&)>& encode) {
  SplitTokens split;
  split.prompt = std::move(prompt_tokens);
  size_t common = split.prompt.size();
  for (const std::string& choice : choices) {
    split.choices.push_back(encode(fmt::format("{}{}{}", prompt, gap, choice)));
    const std::vector<int32_t>& whole = split.choices.back();
    common = static_cast<size_t>(std::mismatch(whole.begin(), whole.end(), split.prompt.begin(),
                                               split.prompt.begin() + static_cast<std::ptrdiff_t>(std::min(common, split.prompt.size())))
                                     .second -
                                 split.prompt.begin());
  }
  split.prompt.resize(common);
  for (std::vector<int32_t>& whole : split.choices) whole.erase(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(common));
  return split;
}

void truncate(std::vector<int32_t>& prompt, int64_t room, Truncation truncation, const Tokenizer& tokenizer) {
  if (std::ssize(prompt) <= room || truncation == Truncation::kRefuse || room < 1) return;
  if (truncation == Truncation::kRight) prompt.resize(static_cast<size_t>(room));
  else cut_to_last(&tokenizer, room, &prompt);
}

double logprob_of_token(const nlohmann::json& top, const Tokenizer& tokenizer, int32_t token) {
  // Of two tokens with the same text one is written by its number.
  for (const std::string& name : {fmt::format("token_id:{}", token), text_of_token(&tokenizer, token)})
    if (const auto found = top.find(name); found != top.end()) return found->get<double>();
  fail_user("an answer has no logprob for token {}; --overwrite makes the answers anew", token);
}

}  // namespace

ChoicePrompts::ChoicePrompts(std::vector<std::string> choices, const Tokenizer& tokenizer, int64_t max_positions, Truncation truncation)
    : choices_(std::move(choices)), tokenizer_(tokenizer), max_positions_(max_positions), num_behind_(count_behind(tokenizer, choices_.front())),
      truncation_(truncation) {}

nlohmann::ordered_json ChoicePrompts::fields(const std::string& prompt, bool chat) const {
  // What comes behind a text would stand between the prompt and a choice, or count as a part of the choice.
  const auto encode = [&](const std::string& text) {
    std::vector<int32_t> tokens = tokenizer_.encode(text, !chat);
    if (!chat) tokens.resize(tokens.size() - num_behind_);
    return tokens;
  };
  std::vector<int32_t> tokens;
  try {
    tokens = encode(prompt);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUser) throw;
    return {{"prompt", prompt}, {"add_special_tokens", !chat}};
  }
  SplitTokens split = split_tokens(prompt, std::move(tokens), choices_, chat ? "" : gap_behind(prompt), encode);
  if (split.prompt.empty()) return {{"prompt", nlohmann::ordered_json::array()}};
  size_t longest = 0;
  bool single = choices_.size() <= kMaxLogprobTokenIds;
  for (size_t i = 0; i < choices_.size(); ++i) {
    longest = std::max(longest, split.choices[i].size());
    single = single && split.choices[i].size() == 1;
    for (size_t j = 0; j < i; ++j)
      if (split.choices[i] == split.choices[j]) fail_user("--choices: '{}' and '{}' are the same tokens for this model", choices_[j], choices_[i]);
  }
  truncate(split.prompt, max_positions_ - static_cast<int64_t>(longest), truncation_, tokenizer_);
  nlohmann::ordered_json fields;
  if (single) {
    std::vector<int32_t> ids;
    for (const auto& tokens : split.choices) ids.push_back(tokens.front());
    fields["prompt"] = split.prompt;
    fields["max_tokens"] = 1;
    fields["temperature"] = 0;
    fields["logprobs"] = 0;
    fields["logprob_token_ids"] = ids;
    return fields;
  }
  auto& prompts = fields["prompt"] = nlohmann::ordered_json::array();
  for (const auto& tokens : split.choices) {
    std::vector<int32_t> whole = split.prompt;
    whole.insert(whole.end(), tokens.begin(), tokens.end());
    prompts.push_back(std::move(whole));
  }
  fields["max_tokens"] = 0;
  fields["echo"] = true;
  fields["logprobs"] = 0;
  return fields;
}

const std::string& ChoicePrompts::chosen(const nlohmann::json& asked, const nlohmann::json& choices) const {
  std::vector<double> sums(choices_.size(), 0);
  if (const auto ids = asked.find("logprob_token_ids"); ids != asked.end()) {
    const nlohmann::json& top = choices.at(0).at("logprobs").at("top_logprobs").at(0);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = logprob_of_token(top, tokenizer_, ids->at(i).get<int32_t>());
  } else {
    // What all of them begin with counts for each the same.
    for (const nlohmann::json& choice : choices) {
      double& sum = sums.at(choice.at("index").get<size_t>());
      for (const nlohmann::json& logprob : choice.at("logprobs").at("token_logprobs"))
        if (!logprob.is_null()) sum += logprob.get<double>();
    }
  }
  return choices_[static_cast<size_t>(std::max_element(sums.begin(), sums.end()) - sums.begin())];
}

}  // namespace flexgen
