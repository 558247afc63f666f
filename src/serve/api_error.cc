#include "serve/api_error.h"

#include "base/error.h"
#include "batch/answer_json.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

/// As OpenAI's clients know them.
const char* type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
  }
}

OrderedJson text_or_null(const std::string& text) { return text.empty() ? OrderedJson(nullptr) : OrderedJson(text); }

}  // namespace

std::string ApiError::body() const {
  return json_text({{"error", {{"message", message}, {"type", type_of(status)}, {"param", text_or_null(param)}, {"code", text_or_null(code)}}}});
}

ApiError wrong_method(const std::string& path, const std::string& method, const std::string& takes, const std::string& allowed) {
  return {405, fmt::format("{} takes {}, not {}", path, takes, method), "method_not_allowed", "", 0, allowed.empty() ? takes : allowed};
}

nlohmann::json object_body(const std::string& text) {
  constexpr int kMaxDepth = 200;
  nlohmann::json json;
  try {
    json = parse_checked_json(text, kMaxDepth, "the body", "it", "correct it");
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "invalid_json"};
  }
  if (!json.is_object()) throw ApiError{400, "the body is not a JSON object", "invalid_json"};
  return json;
}

ApiError api_error_of(const LineError& error) { return {error.code == "line_too_long" ? 413 : 400, error.message, error.code, error.param}; }

}  // namespace flexgen
