#pragma once
// WordLevel: a word is a token or unknown. Immutable; any thread.

#include <string>
#include <unordered_map>
#include <vector>

#include "text/token_model.h"

namespace flexgen {

class WordLevel : public TokenModel {
 public:
  /// `unknown` need not be in the vocabulary; words that are not there are an error then.
  WordLevel(std::unordered_map<std::string, int32_t> vocab, std::string unknown, std::string source);

  void encode(std::string_view word, std::vector<int32_t>& out) const override;
  std::optional<int32_t> find(const std::string& token) const override;
  int64_t size() const override { return static_cast<int64_t>(vocab_.size()); }
  void for_each(const std::function<void(const std::string&, int32_t)>& take) const override;

 private:
  std::unordered_map<std::string, int32_t> vocab_;
  std::string unknown_, source_;
};

}  // namespace flexgen
