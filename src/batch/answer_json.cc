#include "batch/answer_json.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kTextPieceBytes = 64 << 10;

}  // namespace

std::string json_text(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

OrderedJson logprob_json(float logprob) {
  if (std::isnan(logprob)) return nullptr;
  if (std::isinf(logprob)) return -9999.0;
  char digits[32];
  auto end = std::to_chars(digits, digits + sizeof(digits), logprob).ptr;
  double value = 0;
  std::from_chars(digits, end, value);
  return value;
}

std::string text_of_token(const Tokenizer* tokenizer, int32_t token) { return tokenizer ? tokenizer->token_text(token) : fmt::format("token_id:{}", token); }

void Pieces::add(std::string_view text) {
  piece_ += text;
  if (piece_.size() < kTextPieceBytes) return;
  write_(piece_);
  piece_.clear();
}

}  // namespace flexgen
