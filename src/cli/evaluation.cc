#include "cli/evaluation.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/checked_json.h"
#include "tables/judged_value.h"

namespace flexgen {
namespace {

constexpr int kMaxJsonDepth = 64;  // of references and answers that are compared field by field

std::string_view stripped(std::string_view text) {
  constexpr const char* kBlanks = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

std::vector<ScoreWindow> score_windows(int64_t num_tokens, int64_t window, int64_t stride, bool has_prefix) {
  FLEXGEN_CHECK(stride >= 1 && stride <= window - (has_prefix ? 0 : 1), "window {} stride {}", window, stride);
  std::vector<ScoreWindow> windows;
  int64_t scored = has_prefix ? 0 : 1;
  for (int64_t begin = 0; scored < num_tokens; begin += stride) {
    const int64_t end = std::min(begin + window, num_tokens);
    windows.push_back({begin, end, scored});
    scored = end;
  }
  return windows;
}

double Perplexity::value() const { return std::exp(-log_likelihood / static_cast<double>(tokens)); }

double Perplexity::bits_per_byte() const { return -log_likelihood / std::log(2.0) / static_cast<double>(bytes); }

void check_answered(std::span<const Completion> completions, std::string_view what) {
  for (const Completion& completion : completions) {
    if (!completion.grammar_failure.empty()) fail_user("the schema cannot be followed, so there is no answer: {}; simplify it", completion.grammar_failure);
    if (completion.reason == FinishReason::kDeadEnd)
      fail_user(
          "none of the model's tokens may be token {} of the answer, so there is none: the tokenizer cannot write a character that the schema wants there, or all tokens are forbidden",
          completion.failed_position - completion.prompt_tokens + 1);
  }
  const auto bad = [](const Completion& completion) { return completion.reason == FinishReason::kNotFinite; };
  const auto first = std::find_if(completions.begin(), completions.end(), bad);
  if (first == completions.end()) return;
  fail_io(
      "{} of {} {} have logits that are not finite (first: number {}, token {}, vocabulary entry {}), so there is no figure: a weight is NaN or infinite, or values "
      "overflow; check the checkpoint, or compute with more range (--compute-dtype f32)",
      std::count_if(first, completions.end(), bad), completions.size(), what, first - completions.begin() + 1, first->failed_position + 1,
      first->not_finite_entry);
}

void TaskScore::add(std::string_view answer, std::string_view reference, bool is_value) {
  ++lines;
  const std::string_view said = stripped(answer);
  if (said == stripped(reference) || (is_value && judged_answer(std::string(said)) == judged_answer(std::string(reference)))) ++exact;
  using Json = nlohmann::json;
  if (nests_deeper(reference, kMaxJsonDepth)) return;
  const Json wanted = json_or_none(reference);
  if (!wanted.is_object()) return;
  const Json given = nests_deeper(answer, kMaxJsonDepth) ? Json() : json_or_none(answer);
  for (const auto& [name, value] : wanted.items()) {
    ++fields;
    if (given.is_object() && given.contains(name) && given[name] == value) ++fields_right;
  }
}

}  // namespace flexgen
