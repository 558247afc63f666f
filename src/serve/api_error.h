#pragma once
// ApiError: an answer that says what is wrong, in OpenAI's form. Pure data.

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "batch/batch_line.h"

namespace flexgen {

/// Thrown by whatever serves a call; becomes {"error": {message, type, param, code}}.
struct ApiError {
  int status = 400;
  std::string message;
  std::string code = {};     ///< empty: null
  std::string param = {};    ///< the field at fault; empty: null
  int retry_after_s = 0;     ///< after which it may be tried again; 0: not said
  std::string allowed = {};  ///< with 405: the methods that there are

  /// {"error": ...}
  std::string body() const;
};

/// 405: `path` takes `takes`, and got `method`. `allowed`: what Allow says; empty: the same.
ApiError wrong_method(const std::string& path, const std::string& method, const std::string& takes, const std::string& allowed = "");

/// A small body that is an object, no name twice in it. Throws ApiError.
nlohmann::json object_body(const std::string& text);

/// What is said of a line that is no good, for a call whose body it is.
ApiError api_error_of(const LineError& error);

}  // namespace flexgen
