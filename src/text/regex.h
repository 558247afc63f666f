#pragma once
// Regex: patterns of pre-tokenizers, in Oniguruma's syntax (oniguruma.h), matched by PCRE2 with Unicode classes. Immutable; match functions may be called from any thread.

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace flexgen {

class Regex {
 public:
  /// Throws Error{user} naming `where` if the pattern does not compile.
  Regex(const std::string& pattern, const std::string& where);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// Calls match(begin, end) for each match in order, byte offsets; an empty match only where the last match did not end, and
  /// the end of the text is a place too. `text` must be valid UTF-8. Throws Error{user} if matching takes absurdly many steps,
  /// memory or time (more than kBaseTimeS and kTimePerByteS of the thread's own).
  void for_each(std::string_view text, const std::function<void(size_t, size_t)>& match) const;

  static constexpr double kBaseTimeS = 2, kTimePerByteS = 2e-6;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// `text` with everything special to a regex escaped.
std::string escape_regex(std::string_view text);

}  // namespace flexgen
