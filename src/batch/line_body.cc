#include "batch/line_body.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace flexgen {

using Json = nlohmann::json;

void refuse(std::string code, std::string param, std::string message) { throw Refusal{std::move(code), std::move(message), std::move(param)}; }

void refuse_value(const std::string& param, const std::string& message) { refuse("invalid_value", param, param + " " + message); }

std::string quote_text(std::string_view text) {
  std::string out = "'";
  for (char c : text.substr(0, kQuotedBytes)) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  return out + (text.size() > kQuotedBytes ? "...'" : "'");
}

std::string shown_value(const Json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return value.dump();
}

const Json* LineBody::find(const char* name) const {
  auto found = json_.find(name);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

Json whole_number(const Json& value) {
  constexpr double kMost = 9e15;  // of which a double knows each
  const double number = value.is_number_float() ? value.get<double>() : 0.5;
  if (std::floor(number) != number || std::abs(number) >= kMost) return value;
  if (number < 0) return static_cast<int64_t>(number);
  return static_cast<uint64_t>(number);
}

int64_t LineBody::integer(const char* name, int64_t otherwise, int64_t least, int64_t most) const {
  const Json* given = find(name);
  if (!given) return otherwise;
  const Json value = whole_number(*given);
  bool in_range = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(most) && static_cast<int64_t>(value.get<uint64_t>()) >= least
                                             : value.is_number_integer() && value.get<int64_t>() >= least && value.get<int64_t>() <= most;
  if (!in_range) refuse_value(path(name), fmt::format("must be an integer from {} to {}, not {}", least, most, shown_value(*given)));
  return value.get<int64_t>();
}

double LineBody::number(const char* name, double otherwise, double least, double most) const {
  const Json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most))
    refuse_value(path(name), fmt::format("must be a number from {} to {}, not {}", least, most, shown_value(*value)));
  return value->get<double>();
}

bool LineBody::flag(const char* name, bool otherwise) const {
  const Json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_boolean()) refuse_value(path(name), fmt::format("must be true or false, not {}", shown_value(*value)));
  return value->get<bool>();
}

}  // namespace flexgen
