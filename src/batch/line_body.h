#pragma once
// LineBody: what the readers of a batch line share: its refusal, values for messages, the body's fields. Pure functions; any thread.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace flexgen {

/// Thrown: why a line is refused. As in LineError.
struct Refusal {
  std::string code, message, param;
};

[[noreturn]] void refuse(std::string code, std::string param, std::string message);
/// "invalid_value": `message` goes on where the field's name stands.
[[noreturn]] void refuse_value(const std::string& param, const std::string& message);

/// User text for a message: short, on one line.
std::string quote_text(std::string_view text);
/// The value for a message, short. Large values are never written out whole.
std::string shown_value(const nlohmann::json& value);

/// 5.0 as 5: tables whose column has gaps are written so. Any other number as it is.
nlohmann::json whole_number(const nlohmann::json& value);

/// Of a name, for a message.
inline constexpr size_t kQuotedBytes = 80;

/// Fields of the body. A field that is null counts as left out, as in OpenAI's API. Throws Refusal for values of another kind or range.
class LineBody {
 public:
  explicit LineBody(const nlohmann::json& json) : json_(json) {}
  const nlohmann::json* find(const char* name) const;
  int64_t integer(const char* name, int64_t otherwise, int64_t least, int64_t most) const;
  double number(const char* name, double otherwise, double least, double most) const;
  bool flag(const char* name, bool otherwise = false) const;
  static std::string path(const std::string& name) { return "body." + name; }

 private:
  const nlohmann::json& json_;
};

}  // namespace flexgen
