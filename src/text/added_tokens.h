#pragma once
// AddedTokens: tokens that are found in a text before the model sees it, by the rules of PyPI tokenizers 0.23. Immutable after
// finish(); any thread.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/token_matcher.h"

namespace flexgen {

/// A token with its flags, as tokenizer.json's `added_tokens` has them.
struct AddedToken {
  std::string content;
  bool special = false;      ///< decode() may leave it out
  bool normalized = false;   ///< found in the normalized text, in its normalized form
  bool lstrip = false;       ///< takes the spaces before it
  bool rstrip = false;       ///< takes the spaces behind it
  bool single_word = false;  ///< only between characters that are not of words
  bool operator==(const AddedToken&) const = default;
};

class AddedTokens {
 public:
  /// Which id the model has for a text.
  using FindInModel = std::function<std::optional<int32_t>(const std::string&)>;

  /// A token that is there already takes the new flags; one that the model knows has the model's id; any other gets the
  /// next free id above `model_size`, the number of the model's tokens. Returns the id; none for an empty content.
  std::optional<int32_t> add(const AddedToken& token, int64_t model_size, const FindInModel& find);
  /// Builds the matchers. `normalize` gives a content its normalized form.
  void finish(const std::function<std::string(const std::string&)>& normalize);

  std::optional<int32_t> find(const std::string& content) const;
  const std::map<int32_t, AddedToken>& tokens() const { return tokens_; }
  /// Whether any add() called this content special.
  bool is_special(const std::string& content) const { return special_.contains(content); }

  using OnText = std::function<void(size_t begin, size_t end)>;
  using OnToken = std::function<void(int32_t id)>;
  /// Calls text() and token() in the order of `text`, valid UTF-8. Linear. skip_special: special tokens are ordinary text.
  void scan_raw(std::string_view text, bool skip_special, const OnText& on_text, const OnToken& on_token) const {
    scan(raw_, raw_ids_, text, skip_special, on_text, on_token);
  }
  void scan_normalized(std::string_view text, bool skip_special, const OnText& on_text, const OnToken& on_token) const {
    scan(normalized_, normalized_ids_, text, skip_special, on_text, on_token);
  }

 private:
  void scan(const TokenMatcher& matcher, const std::vector<int32_t>& ids, std::string_view text, bool skip_special, const OnText& on_text,
            const OnToken& on_token) const;

  std::map<int32_t, AddedToken> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_set<std::string> special_;
  TokenMatcher raw_, normalized_;
  std::vector<int32_t> raw_ids_, normalized_ids_;  ///< of each pattern of a matcher
};

}  // namespace flexgen
