#pragma once
// BatchFields: the fields of a request's body that have no part in answers here, as vLLM's and OpenAI's endpoints have them. Any thread.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace flexgen {

enum class Endpoint { kText, kChat };  ///< /v1/completions, /v1/chat/completions

inline constexpr const char* kUnknownField = "is not known; leave it out";

/// Why a field that flexgen does not honour is refused: because of its name, or as its value is not the one that changes nothing; kUnknownField if nobody has it. Nothing for a field that may stay.
/// Null is always left out.
std::optional<std::string> refuse_field(const std::string& name, const nlohmann::json& value, Endpoint endpoint);

/// Whether a field that refuse_field() lets stay has no part in any answer.
bool has_no_effect(const std::string& name, Endpoint endpoint);

}  // namespace flexgen
