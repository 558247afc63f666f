#include "app/batch_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "app/line_json.h"
#include "app/sha256.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kQuotedBytes = 80;
// Logits divided by less are infinite in fp32; long before that only the likeliest token is left.
constexpr double kLeastTemperature = 1e-30;

struct Refusal {
  std::string code, message, param;
};

[[noreturn]] void refuse(std::string code, std::string param, std::string message) {
  throw Refusal{std::move(code), std::move(message), std::move(param)};
}
[[noreturn]] void refuse_value(const std::string& param, const std::string& message) {
  refuse("invalid_value", param, param + " " + message);
}

/// User text for a message: short, on one line.
std::string quote_text(std::string_view text) {
  std::string out = "'";
  for (char c : text.substr(0, kQuotedBytes)) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  return out + (text.size() > kQuotedBytes ? "...'" : "'");
}

/// The value for a message, short. Large values are never written out whole.
std::string shown(const Json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return value.dump();
}

/// What makes a line no line of ours at all.
void check_json(const LineJson& json) {
  if (!json.syntax_error.empty()) refuse("invalid_json", "", json.syntax_error);
  if (json.too_deep) refuse("invalid_json", "", fmt::format("JSON is nested more than {} levels deep", kMaxLineDepth));
  if (!json.line.is_object()) refuse("invalid_json", "", "the line is not a JSON object");
  // Nobody could know which one is meant.
  if (json.twice) refuse("invalid_json", *json.twice, fmt::format("field {} comes twice", quote_text(*json.twice)));
}

/// A number that no double can hold, and a field that is too large to be kept whole.
void check_bounds(const LineJson& json) {
  if (json.overflow) refuse_value(json.overflow->first, fmt::format("is {}, which is out of range", quote_text(json.overflow->second)));
  if (json.too_large) refuse_value(*json.too_large, fmt::format("is too large: prompts apart, a line may hold {} values", kMaxLineValues));
}

/// Fields of the body. A field that is null counts as left out, as in OpenAI's API.
class Body {
 public:
  explicit Body(const Json& json) : json_(json) {}

  const Json* find(const char* name) const {
    auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  int64_t integer(const char* name, int64_t otherwise, int64_t least, int64_t most) const {
    const Json* value = find(name);
    if (!value) return otherwise;
    bool in_range = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= static_cast<uint64_t>(most) && static_cast<int64_t>(value->get<uint64_t>()) >= least
                        : value->is_number_integer() && value->get<int64_t>() >= least && value->get<int64_t>() <= most;
    if (!in_range) refuse_value(path(name), fmt::format("must be an integer from {} to {}, not {}", least, most, shown(*value)));
    return value->get<int64_t>();
  }

  double number(const char* name, double otherwise, double least, double most) const {
    const Json* value = find(name);
    if (!value) return otherwise;
    if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most))
      refuse_value(path(name), fmt::format("must be a number from {} to {}, not {}", least, most, shown(*value)));
    return value->get<double>();
  }

  bool flag(const char* name) const {
    const Json* value = find(name);
    if (!value) return false;
    if (!value->is_boolean()) refuse_value(path(name), fmt::format("must be true or false, not {}", shown(*value)));
    return value->get<bool>();
  }

  static std::string path(const std::string& name) { return "body." + name; }

 private:
  const Json& json_;
};

void check_names(const Json& body) {
  static const std::set<std::string> kKnown = {
      "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n", "logprobs", "echo", "stream",
      "stream_options", "best_of", "presence_penalty", "frequency_penalty", "logit_bias", "suffix", "user", "ignore_eos"};
  for (const auto& [name, value] : body.items())
    if (!kKnown.contains(name))
      refuse("unsupported_parameter", Body::path(name.substr(0, kQuotedBytes)),
             fmt::format("body has the field {}, which is not supported; leave it out", quote_text(name)));
}

/// Fields that are understood but may only have their default value: refused rather than ignored.
void check_unsupported(const Body& body, int64_t n) {
  auto only = [](const char* name, bool ok, const char* what) {
    if (!ok) refuse("unsupported_parameter", Body::path(name), fmt::format("{}: {}", Body::path(name), what));
  };
  only("stream", !body.flag("stream"), "batch answers are not streamed; leave it out or make it false");
  only("stream_options", !body.find("stream_options"), "batch answers are not streamed; leave it out");
  only("best_of", body.integer("best_of", n, 1, kMaxChoicesPerPrompt) == n, "only best_of equal to n is supported");
  for (const char* name : {"presence_penalty", "frequency_penalty"})
    only(name, body.number(name, 0, -2, 2) == 0, "penalties are not supported; leave it out or make it 0");
  const Json* bias = body.find("logit_bias");
  only("logit_bias", !bias || (bias->is_object() && bias->empty()), "not supported; leave it out");
  only("suffix", !body.find("suffix"), "inserting text is not supported; leave it out");
  for (const char* name : {"user", "model"})
    if (const Json* value = body.find(name); value && !value->is_string())
      refuse_value(Body::path(name), "must be a string, not " + shown(*value));
}

std::vector<std::string> parse_stop(const Body& body) {
  std::vector<std::string> stops;
  const Json* value = body.find("stop");
  if (!value) return stops;
  const std::string path = Body::path("stop");
  if (value->is_string()) stops.push_back(value->get<std::string>());
  else if (value->is_array() && value->size() <= kMaxStops)
    for (const Json& item : *value) {
      if (!item.is_string()) refuse_value(path, "must hold strings, not " + shown(item));
      stops.push_back(item.get<std::string>());
    }
  else refuse_value(path, fmt::format("must be a string or a list of at most {} strings", kMaxStops));
  for (const std::string& stop : stops)
    if (stop.empty() || stop.size() > kMaxStopBytes)
      refuse_value(path, fmt::format("has a stop string of {} bytes; from 1 to {} are allowed", stop.size(), kMaxStopBytes));
  return stops;
}

void check_length(int64_t tokens, int64_t max_tokens, const ModelLimits& limits) {
  if (tokens == 0) refuse_value("body.prompt", "is empty: the model needs at least one token to start from");
  if (tokens + max_tokens > limits.max_positions)
    refuse("context_length_exceeded", "body.prompt",
           fmt::format("the prompt has {} tokens and max_tokens is {}, {} together, but the model has {} positions; "
                       "shorten the prompt or lower max_tokens",
                       tokens, max_tokens, tokens + max_tokens, limits.max_positions));
}

BatchPrompt text_prompt(std::string&& text, const SamplingParams& params, const ModelLimits& limits) {
  BatchPrompt prompt;
  if (limits.tokenizer) {
    prompt.tokens = limits.tokenizer->encode(text, true);
  } else {
    if (limits.text_bytes_per_token == 0) refuse_value("body.prompt", "is text, but the model has no tokenizer; give token ids");
    prompt.tokens.resize(text.size() / static_cast<size_t>(limits.text_bytes_per_token) + 1);
  }
  for (int32_t token : prompt.tokens)  // some tokenizers know more tokens than their model
    if (token < 0 || token >= limits.vocab_size)
      refuse_value("body.prompt", fmt::format("becomes token {} by the tokenizer, but the model has ids from 0 to {}", token, limits.vocab_size - 1));
  check_length(static_cast<int64_t>(prompt.tokens.size()), params.max_tokens, limits);
  if (params.echo) prompt.text = std::move(text);
  return prompt;
}

std::vector<BatchPrompt> parse_prompts(PromptField&& field, const SamplingParams& params, const ModelLimits& limits) {
  using Form = PromptField::Form;
  const std::string path = Body::path("prompt");
  if (field.form == Form::kNone) refuse_value(path, "is missing");
  if (field.form == Form::kEmpty) refuse_value(path, "is empty");
  if (field.form == Form::kOther) refuse_value(path, "must be a text, a list of token ids, or a list of these");
  if (field.form == Form::kMixed) refuse_value(path, "must not mix texts and lists of token ids");
  if (field.form != Form::kIds && field.count > kMaxPromptsPerLine)
    refuse_value(path, fmt::format("holds {} prompts; a line may have {}, so use more lines", field.count, kMaxPromptsPerLine));
  if (field.no_id)
    refuse_value(path, fmt::format("holds {}, which is not a token id; the model has ids from 0 to {}", shown(*field.no_id), limits.vocab_size - 1));
  std::vector<BatchPrompt> prompts;
  for (std::string& text : field.texts) prompts.push_back(text_prompt(std::move(text), params, limits));
  for (PromptField::Ids& ids : field.ids) {
    check_length(ids.count, params.max_tokens, limits);
    prompts.push_back({"", std::move(ids.kept)});
  }
  return prompts;
}

/// SplitMix64's output function (Steele et al. 2014).
uint64_t mixed(uint64_t seed, uint64_t number) {
  uint64_t z = seed + number * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// A line without a seed still gets the same answer every time it is run.
uint64_t seed_of(const std::string& custom_id) {
  Sha256::Digest digest = Sha256::of("flexgen seed " + custom_id);
  uint64_t seed = 0;
  for (size_t i = 0; i < 8; ++i) seed = seed << 8 | digest[i];
  return seed;
}

void parse_seed(const Body& body, BatchRequest* request) {
  const Json* seed = body.find("seed");
  request->seeded = seed != nullptr;
  if (!seed) {
    request->params.seed = seed_of(request->custom_id);
    return;
  }
  if (!seed->is_number_integer()) refuse_value("body.seed", "must be an integer, not " + shown(*seed));
  request->params.seed = seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
}

BatchRequest parse_body(LineJson&& line, std::string custom_id, const ModelLimits& limits) {
  const Json& json = line.line["body"];
  if (!json.is_object()) refuse_value("body", "must be an object");
  check_names(json);
  check_bounds(line);
  Body body(json);
  BatchRequest request;
  request.custom_id = std::move(custom_id);
  SamplingParams& params = request.params;
  request.n = body.integer("n", 1, 1, kMaxChoicesPerPrompt);
  check_unsupported(body, request.n);
  params.max_tokens = body.integer("max_tokens", 16, 0, std::numeric_limits<int32_t>::max());
  params.echo = body.flag("echo");
  if (params.max_tokens == 0 && !params.echo)
    refuse_value("body.max_tokens", "is 0, which asks for nothing; with echo it scores the prompt");
  params.temperature = body.number("temperature", 1, 0, 2);
  if (params.temperature < kLeastTemperature) params.temperature = 0;
  params.top_p = body.number("top_p", 1, 0, 1);
  if (params.top_p == 0) refuse_value("body.top_p", "must be more than 0; for the likeliest token use temperature 0");
  params.top_k = std::max<int64_t>(0, body.integer("top_k", 0, -1, std::numeric_limits<int32_t>::max()));
  params.top_logprobs = body.integer("logprobs", -1, 0, 20);
  params.ignore_eos = body.flag("ignore_eos");
  params.stop = parse_stop(body);
  parse_seed(body, &request);
  request.estimated = !limits.tokenizer && !line.prompt.texts.empty();
  request.prompts = parse_prompts(std::move(line.prompt), params, limits);
  return request;
}

}  // namespace

Request BatchRequest::sequence(int64_t index) const {
  Request request;
  request.prompt = prompts[static_cast<size_t>(index / n)].tokens;
  request.params = params;
  auto number = static_cast<uint64_t>(seeded ? index % n : index);
  if (number > 0) request.params.seed = mixed(params.seed, number);
  return request;
}

LineError line_too_long() {
  return {"", "line_too_long", fmt::format("the line is longer than {}; use more lines", format_bytes(kMaxLineBytes)), ""};
}

std::variant<BatchRequest, LineError> parse_batch_line(std::string_view line, const ModelLimits& limits) {
  std::string custom_id;
  try {
    LineJson parsed = read_line_json(line, {kMaxPromptsPerLine, limits.max_positions, limits.vocab_size});
    check_json(parsed);
    Json& json = parsed.line;
    auto id = json.find("custom_id");
    if (id == json.end() || !id->is_string() || id->get_ref<const std::string&>().empty())
      refuse("invalid_custom_id", "custom_id", "custom_id is missing, or not a text; give every line one of its own");
    if (id->get_ref<const std::string&>().size() > kMaxCustomIdBytes)
      refuse("invalid_custom_id", "custom_id", fmt::format("custom_id has more than {} bytes", kMaxCustomIdBytes));
    custom_id = id->get<std::string>();

    for (const auto& [name, value] : json.items())
      if (name != "custom_id" && name != "method" && name != "url" && name != "body")
        refuse("unsupported_parameter", name.substr(0, kQuotedBytes),
               fmt::format("the line has the field {}, which is not part of the batch format", quote_text(name)));
    if (!json.contains("method") || json["method"] != "POST") refuse_value("method", "must be \"POST\"");
    if (!json.contains("url") || !json["url"].is_string()) refuse_value("url", "is missing, or not a text");
    const auto& url = json["url"].get_ref<const std::string&>();
    if (url == "/v1/chat/completions")
      refuse("unsupported_endpoint", "url", "url /v1/chat/completions: chat templates are not supported yet; write the prompt out for /v1/completions");
    if (url != "/v1/completions")
      refuse("unsupported_endpoint", "url", fmt::format("url {} is not known; only /v1/completions is", quote_text(url)));
    if (!json.contains("body")) refuse_value("body", "is missing");
    return parse_body(std::move(parsed), custom_id, limits);
  } catch (const Refusal& refusal) {
    return LineError{custom_id, refusal.code, refusal.message, refusal.param};
  }
}

}  // namespace flexgen
