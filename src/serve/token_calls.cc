#include "serve/token_calls.h"

#include <nlohmann/json.hpp>

#include "batch/answer_json.h"
#include "serve/api_error.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostTokens = 1 << 20;

void check_tokenizer(const ServeContext& context) {
  if (!context.limits.tokenizer) throw ApiError{400, "the model has no tokenizer", "no_tokenizer"};
}

}  // namespace

void tokenize_call(HttpCall& call, const ServeContext& context) {
  const HttpBody read = call.body(context.most_body_bytes);  // its turn lasts until all that is made of it is gone
  check_tokenizer(context);
  const auto parsed = parse_counted_body(read.text, limits_now(context));
  if (const LineError* error = std::get_if<LineError>(&parsed)) throw api_error_of(*error);
  const CountedBody& body = std::get<CountedBody>(parsed);
  check_model(context, body.model);
  nlohmann::ordered_json answer{
      {"count", body.tokens.size()}, {"max_model_len", context.limits.max_positions}, {"tokens", body.tokens}, {"token_strs", nullptr}};
  if (body.gives_texts) {
    answer["token_strs"] = nlohmann::ordered_json::array();
    for (const int32_t token : body.tokens) answer["token_strs"].push_back(context.limits.tokenizer->token_text(token));
  }
  call.answer(200, "application/json", json_text(answer));
}

void detokenize_call(HttpCall& call, const ServeContext& context) {
  const HttpBody body = call.body(context.most_body_bytes);
  const Json json = object_body(body.text);
  if (const auto model = json.find("model"); model != json.end() && !model->is_null()) {
    if (!model->is_string()) throw ApiError{400, "model must be a string", "invalid_value", "model"};
    check_model(context, model->get<std::string>());
  }
  check_tokenizer(context);
  for (const auto& [name, value] : json.items())
    if (name != "model" && name != "tokens")
      throw ApiError{400, fmt::format("the body has the field '{}', which is not known; leave it out", name.substr(0, 80)), "unsupported_parameter",
                     name.substr(0, 80)};
  const auto found = json.find("tokens");
  if (found == json.end() || !found->is_array() || std::ssize(*found) > kMostTokens)
    throw ApiError{400, fmt::format("tokens must be a list of at most {} token ids", kMostTokens), "invalid_value", "tokens"};
  std::vector<int32_t> tokens;
  for (const Json& id : *found) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(context.limits.vocab_size))
      throw ApiError{400, fmt::format("tokens holds what is not a token id; the model has ids from 0 to {}", context.limits.vocab_size - 1), "invalid_value",
                     "tokens"};
    tokens.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  call.answer(200, "application/json", json_text({{"prompt", context.limits.tokenizer->decode(tokens, false)}}));
}

}  // namespace flexgen
