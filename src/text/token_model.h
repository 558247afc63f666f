#pragma once
// TokenModel: the middle of a tokenizer.json, which makes tokens of one stretch of text: BPE, Unigram or WordLevel. Immutable; any thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

class TokenModel {
 public:
  virtual ~TokenModel() = default;

  /// Appends the tokens of `word` (valid UTF-8) to `out`. Throws Error{user} for a text that the model has no token for, nor one for the unknown.
  virtual void encode(std::string_view word, std::vector<int32_t>& out) const = 0;
  /// The id of a token of the vocabulary.
  virtual std::optional<int32_t> find(const std::string& token) const = 0;
  /// Entries of the vocabulary.
  virtual int64_t size() const = 0;
  /// Calls take(token, id) for each entry, in no order.
  virtual void for_each(const std::function<void(const std::string&, int32_t)>& take) const = 0;
};

/// Of a tokenizer.json, or what stands for one. Throws Error{user} naming `source` and the field for what is broken or not supported.
std::unique_ptr<TokenModel> make_token_model(const nlohmann::json& tokenizer, const std::string& source);

}  // namespace flexgen
