#pragma once
// AnswerJson: what the writers of answers share: values as JSON, pieces that are large enough. Pure functions.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace flexgen {

using WritePiece = std::function<void(std::string_view)>;

/// Valid UTF-8 whatever is in it, and without line ends.
std::string json_text(const nlohmann::ordered_json& json);
/// A logprob with the digits that a float has; JSON knows no infinity, and OpenAI writes -9999 for it.
nlohmann::ordered_json logprob_json(float logprob);
/// "token_id:7" without a tokenizer.
std::string text_of_token(const Tokenizer* tokenizer, int32_t token);

/// Collects what is written into pieces that are large enough.
class Pieces {
 public:
  explicit Pieces(const WritePiece& write) : write_(write) {}
  void add(std::string_view text);
  void finish() { write_(piece_); }

 private:
  const WritePiece& write_;
  std::string piece_;
};

}  // namespace flexgen
