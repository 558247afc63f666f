#include "serve/serve_api.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/version.h"
#include "batch/answer_json.h"
#include "batch/line_body.h"
#include "serve/answer_call.h"
#include "serve/api_error.h"
#include "serve/token_calls.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kJson = "application/json";

void only(const HttpCall& call, const char* method) {
  if (call.method() != method && !(std::string_view(method) == "GET" && call.method() == "HEAD"))
    throw wrong_method(call.path(), call.method(), method, std::string_view(method) == "GET" ? "GET, HEAD" : "");
}

/// What a query asks for that nothing comes of is refused.
void check_query(const HttpCall& call) {
  const bool lists_files = call.path() == "/v1/files" && call.method() == "GET", lists_batches = call.path() == "/v1/batches" && call.method() == "GET";
  std::vector<std::string> known;
  if (lists_files || lists_batches) known = {"after", "limit"};
  if (lists_files) known.insert(known.end(), {"order", "purpose"});
  if (const std::string name = call.wrong_query(known); !name.empty())
    throw ApiError{400, fmt::format("the query has {}, which is not known here, or comes twice; leave it out", quote_text(name)), "unsupported_parameter",
                   name.substr(0, kQuotedBytes)};
}

/// In a time that does not tell how much of it is right.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i % std::max<size_t>(1, b.size())]);
  return difference == 0;
}

OrderedJson model_json(const ServeContext& context) {
  return {{"id", context.model_name},
          {"object", "model"},
          {"created", context.started_s},
          {"owned_by", "flexgen"},
          {"max_model_len", context.limits.max_positions}};
}

}  // namespace

void ServeApi::check_key(const HttpCall& call) const {
  if (keys_.empty()) return;
  const std::string given = call.header("Authorization");
  static constexpr std::string_view kScheme = "bearer ";  // in any case (RFC 9110, 11.1)
  bool right = false;
  const bool has_scheme =
      given.size() > kScheme.size() && std::equal(kScheme.begin(), kScheme.end(), given.begin(), [](char wanted, char c) { return wanted == (c | 0x20); });
  if (has_scheme)
    for (const std::string& key : keys_) right |= same_secret(std::string_view(given).substr(kScheme.size()), key);
  if (!right) throw ApiError{401, "the API key is missing or wrong; send 'Authorization: Bearer KEY' with one of the server's --api-key", "invalid_api_key"};
}

void ServeApi::dispatch(HttpCall& call) {
  const std::string& path = call.path();
  if (path == "/health" || path == "/ping") {
    only(call, "GET");
    return call.answer(200, kJson, "{}");
  }
  if (path == "/version") {
    only(call, "GET");
    return call.answer(200, kJson, json_text({{"version", kVersion}}));
  }
  if (path == "/metrics") {
    only(call, "GET");
    return call.answer(200, "text/plain; version=0.0.4", context_.metrics.text({context_.queue.num_running(), context_.queue.num_waiting(), connections_()}));
  }
  check_key(call);
  check_query(call);
  if (path == "/v1/models") {
    only(call, "GET");
    return call.answer(200, kJson, json_text({{"object", "list"}, {"data", OrderedJson::array({model_json(context_)})}}));
  }
  if (path.starts_with("/v1/models/")) {
    only(call, "GET");
    const std::string model = path.substr(std::string_view("/v1/models/").size());
    if (model.empty()) throw ApiError{404, "a model's name is missing behind /v1/models/; leave out the last slash for the list", "model_not_found", "model"};
    check_model(context_, model);
    return call.answer(200, kJson, json_text(model_json(context_)));
  }
  if (path == "/v1/completions" || path == "/v1/chat/completions") {
    only(call, "POST");
    return answer_call(call, path == "/v1/completions" ? Endpoint::kText : Endpoint::kChat, context_);
  }
  if (path == "/tokenize") {
    only(call, "POST");
    return tokenize_call(call, context_);
  }
  if (path == "/detokenize") {
    only(call, "POST");
    return detokenize_call(call, context_);
  }
  if (files_ && files_->handle(call)) return;
  if (!files_ && (path.starts_with("/v1/files") || path.starts_with("/v1/batches")))
    throw ApiError{404, "this server keeps no files and batches; give it a folder for them with --state DIR", "not_found"};
  throw ApiError{404, fmt::format("there is no {}; see docs/serve.md for what there is", path.substr(0, 200)), "not_found"};
}

void ServeApi::handle(HttpCall& call) {
  int status = 200;
  const auto answer = [&](const ApiError& error) {
    status = error.status;
    std::vector<std::pair<std::string, std::string>> headers;
    if (error.retry_after_s > 0) headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
    if (!error.allowed.empty()) headers.emplace_back("Allow", error.allowed);
    if (error.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
    call.answer(error.status, kJson, error.body(), headers);
  };
  try {
    dispatch(call);
  } catch (const ApiError& error) {
    answer(error);
  } catch (const Error& error) {
    spdlog::error("{} {}: {}", call.method(), call.path(), error.what());
    answer({500, error.what(), "failed"});
  } catch (const std::bad_alloc&) {
    answer({503, "no memory is left for this call; try again later", "out_of_memory", "", 10});
  } catch (const std::exception& error) {
    spdlog::error("{} {}: {}", call.method(), call.path(), error.what());
    answer({500, "the call has failed; the server's log says why", "failed"});
  }
  context_.metrics.count_response(status);
}

std::string ServeApi::refusal(int status) {
  switch (status) {
    case 431: return ApiError{status, "the request's line and headers are too long", "headers_too_long"}.body();
    case 414: return ApiError{status, "the path is too long", "path_too_long"}.body();
    case 501: return ApiError{status, "this transfer encoding is not supported; send the body as it is, or chunked", "unsupported_encoding"}.body();
    default: return ApiError{status, status < 500 ? "this is no HTTP request that can be understood" : "the call has failed", "bad_request"}.body();
  }
}

}  // namespace flexgen
