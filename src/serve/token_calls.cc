#include "serve/token_calls.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "batch/answer_json.h"
#include "batch/batch_fields.h"
#include "io/checked_json.h"
#include "serve/api_error.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMostTokens = 1 << 20;

/// With its names as they came: templates write out objects in their order.
OrderedJson object_of(const std::string& text, const ServeContext& context) {
  object_body(text);  // which refuses what is no such body
  OrderedJson json = parse_json<OrderedJson>(text, "the body");
  if (json.contains("model") && !json["model"].is_null()) {
    if (!json["model"].is_string()) throw ApiError{400, "model must be a string", "invalid_value", "model"};
    check_model(context, json["model"].get<std::string>());
  }
  if (!context.limits.tokenizer) throw ApiError{400, "the model has no tokenizer", "no_tokenizer"};
  return json;
}

}  // namespace

void tokenize_call(HttpCall& call, const ServeContext& context) {
  const HttpBody body = call.body(context.most_body_bytes);  // its turn lasts until all that is made of it is gone
  OrderedJson json = object_of(body.text, context);
  bool texts = false;
  if (json.contains("return_token_strs")) {
    if (!json["return_token_strs"].is_boolean()) throw ApiError{400, "return_token_strs must be true or false", "invalid_value", "return_token_strs"};
    texts = json["return_token_strs"].get<bool>();
    json.erase("return_token_strs");
  }
  // Whatever is too long or too short for an answer may be counted.
  const bool is_empty = json.contains("prompt") && json["prompt"] == "";
  if (is_empty) json["prompt"] = "x";  // the other fields are checked as ever
  ModelLimits limits = limits_now(context);
  limits.max_positions = std::numeric_limits<int32_t>::max();
  for (const char* length : {"max_completion_tokens", "min_tokens"}) json.erase(length);
  json["max_tokens"] = 1;
  auto parsed = parse_call_body(json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace), json.contains("messages") ? Endpoint::kChat : Endpoint::kText,
                                "tokenize", limits);
  if (const LineError* error = std::get_if<LineError>(&parsed)) throw api_error_of(*error);
  const std::vector<BatchPrompt>& prompts = std::get<CallBody>(parsed).request.prompts;
  if (prompts.size() != 1) throw ApiError{400, "prompt must be one text", "invalid_value", "prompt"};
  const bool adds = !json.contains("add_special_tokens") || json["add_special_tokens"] != false;
  const std::vector<int32_t> tokens = is_empty ? context.limits.tokenizer->encode("", adds) : prompts.front().tokens;
  nlohmann::ordered_json answer{{"count", tokens.size()}, {"max_model_len", context.limits.max_positions}, {"tokens", tokens}, {"token_strs", nullptr}};
  if (texts) {
    answer["token_strs"] = nlohmann::ordered_json::array();
    for (const int32_t token : tokens) answer["token_strs"].push_back(context.limits.tokenizer->token_text(token));
  }
  call.answer(200, "application/json", json_text(answer));
}

void detokenize_call(HttpCall& call, const ServeContext& context) {
  const HttpBody body = call.body(context.most_body_bytes);
  const Json json = object_of(body.text, context);  // in which nothing depends on the order
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
