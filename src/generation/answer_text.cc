#include "generation/answer_text.h"
#include "text/unicode.h"

#include <algorithm>

namespace flexgen {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// Text at the end of which a character may be incomplete, without that.
std::string complete(std::string text) {
  while (text.ends_with(kReplacement)) text.resize(text.size() - kReplacement.size());
  return text;
}

}  // namespace

AnswerText::AnswerText(const Tokenizer& tokenizer, const SamplingParams& params, std::span<const int32_t> prompt)
    : tokenizer_(tokenizer), params_(params),
      decoder_(tokenizer, params.skip_special_tokens,
               params.answers_afresh ? std::span<const int32_t>() : end_of_prompt(tokenizer, prompt, params.skip_special_tokens)) {}

std::string AnswerText::text_if_left_out(int32_t token) const {
  if (!params_.skip_special_tokens || !tokenizer_.decode({&token, 1}, true).empty()) return "";
  return tokenizer_.decode({&token, 1}, false);
}

bool AnswerText::add(int32_t token) {
  ++num_tokens_;
  const std::string piece = decoder_.push(token);
  if (params_.stop.empty()) {
    text_ += piece;
    return false;
  }
  // A special token also ends a run of single bytes: then it comes behind their text.
  const std::string hidden = text_if_left_out(token);
  // What the decoder holds back as it may yet change is what the reader would see if the answer ended here.
  const std::string held = piece.empty() && hidden.empty() ? complete(StreamDecoder(decoder_).finish()) : "";
  if (extend(piece + held, hidden)) return true;
  text_.resize(text_.size() - held.size());
  full_.resize(full_.size() - held.size());
  return false;
}

bool AnswerText::add_last(int32_t token) {
  if (params_.include_stop) return add(token);
  ++num_tokens_;
  if (params_.stop.empty()) return false;
  const std::string held = complete(StreamDecoder(decoder_).finish());
  if (extend(held, text_if_left_out(token))) return true;
  text_.resize(text_.size() - held.size());
  return false;
}

/// Adds what is shown and then what is left out. True if a stop string ends in either.
bool AnswerText::extend(const std::string& shown, const std::string& hidden) {
  const size_t text_before = text_.size(), full_before = full_.size();
  text_ += shown;
  full_ += shown;
  if (!hidden.empty()) hidden_.push_back({full_.size(), hidden.size()});
  full_ += hidden;
  return num_tokens_ > params_.min_tokens && search(text_before, full_before);
}

bool AnswerText::search(size_t text_before, size_t full_before) {
  size_t first = std::string::npos;
  auto look = [&](const std::string& in, size_t before, auto place) {
    for (const std::string& stop : params_.stop) {
      const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
      for (size_t at = in.find(stop, from); at != std::string::npos; at = in.find(stop, at + 1)) {
        const std::optional<size_t> cut = place(at, stop.size());
        if (!cut) continue;
        if (*cut < first) first = *cut, found_ = stop;
        break;
      }
    }
  };
  look(text_, text_before, [](size_t at, size_t) { return std::optional(at); });
  if (!hidden_.empty()) look(full_, full_before, [&](size_t at, size_t size) { return shown_place(at, size); });
  if (found_.empty()) return false;
  text_.resize(first);
  if (params_.include_stop) text_ += found_;
  return true;
}

/// Where the text is cut for a match in full_. It must have special tokens in it, each as a whole: a part of what nobody sees is no match.
std::optional<size_t> AnswerText::shown_place(size_t at, size_t size) const {
  size_t left_out = 0;
  bool any = false;
  for (const Hidden& hidden : hidden_) {
    if (hidden.at >= at + size) break;
    const size_t end = hidden.at + hidden.size;
    if (end <= at) {
      left_out += hidden.size;
    } else if (hidden.at >= at && end <= at + size) {
      any = true;
    } else {
      return std::nullopt;
    }
  }
  return any ? std::optional(at - left_out) : std::nullopt;
}

std::string_view AnswerText::settled() const {
  size_t longest = 1;
  for (const std::string& stop : params_.stop) longest = std::max(longest, stop.size());
  size_t end = text_.size() - std::min(text_.size(), longest - 1);
  while (end > 0 && end < text_.size() && is_continuation(text_[end])) --end;  // no part of a character
  return std::string_view(text_).substr(0, end);
}

std::string AnswerText::take() {
  if (found_.empty()) text_ += decoder_.finish();
  return std::move(text_);
}

}  // namespace flexgen
