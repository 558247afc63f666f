#pragma once
// AnswerText: the text of an answer as its tokens come, and the stop strings in it. A stop string is found in what the reader sees, and where special tokens
// are left out, in the text with them too. One thread.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generation/request.h"
#include "text/tokenizer.h"

namespace flexgen {

class AnswerText {
 public:
  /// The first two must outlive it. Of the parameters: stop, min_tokens, include_stop, skip_special_tokens, answers_afresh.
  AnswerText(const Tokenizer& tokenizer, const SamplingParams& params, std::span<const int32_t> prompt = {});

  /// Adds a generated token. True once a stop string is there: then the text is what is before it (with include_stop: up to its end) and stays so.
  bool add(int32_t token);
  /// Adds the token that ends the answer: to the text with include_stop alone, yet a stop string may end in it.
  bool add_last(int32_t token);
  /// The stop string that was found; empty: none.
  const std::string& found() const { return found_; }
  /// The beginning of the text that no later token changes: what may yet be a part of a stop string is left out. Valid until the next call.
  std::string_view settled() const;
  /// The text, at the end.
  std::string take();

 private:
  /// A special token that the text leaves out.
  struct Hidden {
    size_t at = 0, size = 0;  ///< bytes of full_
  };
  bool extend(const std::string& shown, const std::string& hidden);
  bool search(size_t text_before, size_t full_before);
  std::optional<size_t> shown_place(size_t at, size_t size) const;
  std::string text_if_left_out(int32_t token) const;

  const Tokenizer& tokenizer_;
  const SamplingParams& params_;
  StreamDecoder decoder_;
  int64_t num_tokens_ = 0;
  std::string text_;  ///< what is shown
  std::string full_;  ///< with what is left out; kept where there are stop strings
  std::vector<Hidden> hidden_;
  std::string found_;
};

}  // namespace flexgen
