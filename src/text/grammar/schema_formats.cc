#include "text/grammar/schema_formats.h"

#include <limits>
#include <map>

namespace flexgen {
namespace {

constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max();

/// xgrammar's own patterns let through what is no date, such as February 31, and 1.2.3.044. February 29 is left out.
std::map<std::string, StringFormat, std::less<>> make_formats() {
  const std::string date = "[12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))";
  const std::string time = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
  const std::string byte_number = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  const std::string label = "[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,2}", host = label + "(\\." + label + "){0,2}\\.[a-z]{2,10}";
  const std::string uri_text = "[A-Za-z0-9._~-]", uri_field = "[A-Za-z0-9_]{1,20}=" + uri_text + "{0,40}";
  // RFC 3339, appendix A: parts of a time follow each other without a gap.
  const std::string seconds = "[0-9]{1,6}S", minutes = "[0-9]{1,6}M(" + seconds + ")?", hours = "[0-9]{1,6}H(" + minutes + ")?";
  const std::string of_day = "T(" + hours + "|" + minutes + "|" + seconds + ")";
  return {{"date", {date, 10, 10}},
          {"time", {time, 9, 21}},
          {"date-time", {date + "T" + time, 20, 32}},
          {"duration", {"P([0-9]{1,6}W|[0-9]{1,6}D(" + of_day + ")?|" + of_day + ")", 3, 31}},
          {"email", {"[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)+", 5, kUnbounded}},
          {"hostname", {host, 4, 199}},
          {"ipv4", {byte_number + "(\\." + byte_number + "){3}", 7, 15}},
          {"ipv6", {"([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", 15, 39}},
          {"uri", {"https?://" + host + "(:[1-9][0-9]{0,3})?(/" + uri_text + "{1,30}){0,6}/?(\\?" + uri_field + "(&" + uri_field + "){0,3})?", 11, 656}},
          {"uuid", {"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", 36, 36}},
          // Hints of OpenAPI and pydantic.
          {"password", {"", 0, kUnbounded}},
          {"path", {"", 0, kUnbounded}}};
}

const std::map<std::string, StringFormat, std::less<>>& formats() {
  static const std::map<std::string, StringFormat, std::less<>> all = make_formats();
  return all;
}

}  // namespace

const StringFormat* string_format(std::string_view name) {
  const auto found = formats().find(name);
  return found == formats().end() ? nullptr : &found->second;
}

std::string string_format_names() {
  std::string names;
  for (const auto& [name, format] : formats()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace flexgen
