#include "text/grammar/schema_formats.h"

#include <fmt/format.h>

#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "text/grammar/pattern.h"
#include "text/grammar/pattern_relation.h"
#include "text/grammar/schema_work.h"

namespace flexgen {
namespace {

constexpr size_t kMostLookAheads = 16;
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
  const std::string local = "[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*", domain = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)";
  const std::string short_email = "[A-Za-z0-9_+-]{1,20}(\\.[A-Za-z0-9_+-]{1,20})?@([A-Za-z0-9]{1,20}\\.){1,2}[A-Za-z]{2,8}";
  const std::string plain_email = "[a-z0-9]{1,30}@[a-z0-9]{1,20}\\.[a-z]{2,8}";
  const std::string short_uri = "https?://" + label + "\\.[a-z]{2,10}(/" + uri_text + "{1,30})?";
  const std::string time_of_day = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]";
  const auto uuid_of = [](char version) { return fmt::format("[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}", version); };
  return {{"date", {{{date, 10, 10}}}},
          {"time", {{{time, 9, 21}, {time_of_day + "(\\.[0-9]{1,6})?Z", 9, 16}, {time_of_day + "Z", 9, 9}}}},
          {"date-time",
           {{{date + "T" + time, 20, 32},
             {date + "T" + time_of_day + "(\\.[0-9]{1,6})?Z", 20, 27},
             {date + "T" + time_of_day + "\\.[0-9]{3}Z", 24, 24},
             {date + "T" + time_of_day + "Z", 20, 20}}}},
          {"duration", {{{"P([0-9]{1,6}W|[0-9]{1,6}D(" + of_day + ")?|" + of_day + ")", 3, 31}}}},
          {"email",
           {{{local + "@" + domain + "+", 5, kUnbounded},
             {local + "@" + domain + "*\\.[A-Za-z]{2,20}", 6, kUnbounded},
             {short_email, 6, 92},
             {plain_email, 6, 60}}}},
          {"hostname", {{{host, 4, 199}, {label + "\\.[a-z]{2,10}", 4, 73}}}},
          {"ipv4", {{{byte_number + "(\\." + byte_number + "){3}", 7, 15}}}},
          {"ipv6", {{{"([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", 15, 39}}}},
          {"uri",
           {{{"https?://" + host + "(:[1-9][0-9]{0,3})?(/" + uri_text + "{1,30}){0,6}/?(\\?" + uri_field + "(&" + uri_field + "){0,3})?", 11, 656},
             {short_uri, 11, 112}}}},
          {"uuid",
           {{{"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", 36, 36}},
            "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"}},
          // pydantic's: an address of either kind, and UUIDs of a version.
          {"ipvanyaddress", {{{byte_number + "(\\." + byte_number + "){3}", 7, 15}}}},
          {"uuid1", {{{uuid_of('1'), 36, 36}}}},
          {"uuid3", {{{uuid_of('3'), 36, 36}}}},
          {"uuid4", {{{uuid_of('4'), 36, 36}}}},
          {"uuid5", {{{uuid_of('5'), 36, 36}}}},
          // Hints of OpenAPI and pydantic.
          {"binary", {{{"", 0, kUnbounded}}}},
          {"password", {{{"", 0, kUnbounded}}}},
          {"path", {{{"", 0, kUnbounded}}}}};
}

const std::map<std::string, StringFormat, std::less<>>& formats() {
  static const std::map<std::string, StringFormat, std::less<>> all = make_formats();
  return all;
}

}  // namespace

namespace {

/// Takes (?!...) and (?=...) off the front of a pattern.
struct LookingAhead {
  std::vector<std::pair<bool, std::string>> parts;  ///< whether a text must go on so, and how
  std::string rest;

  explicit LookingAhead(const std::string& pattern) : rest(pattern) {
    if (rest.starts_with('^')) rest.erase(0, 1);
    while (rest.starts_with("(?!") || rest.starts_with("(?=")) {
      size_t end = 3;
      int depth = 1;
      bool in_class = false;
      for (; end < rest.size() && depth > 0; ++end) {
        if (rest[end] == '\\') ++end;
        else if (in_class) in_class = rest[end] != ']';
        else if (rest[end] == '[') in_class = true;
        else if (rest[end] == '(') ++depth;
        else if (rest[end] == ')') --depth;
      }
      if (depth > 0) return;
      parts.emplace_back(rest[2] == '=', rest.substr(3, end - 4));
      rest.erase(0, end);
    }
  }
};

/// Whether all of these texts match `pattern`, as a schema has it.
bool all_are_of(const std::string& texts, const std::string& pattern) {
  const LookingAhead ahead(pattern);
  if (ahead.parts.size() > kMostLookAheads) return false;
  const auto plain = [](const std::string& text) { return plain_pattern(text, PatternPlace::kJsonString); };
  const std::string mine = plain(texts);
  // Alternatives outside of groups would have a part of what stands before them.
  const std::string rest = ahead.parts.empty() ? pattern : "(" + ahead.rest + ")";
  for (const auto& [must, part] : ahead.parts) {
    const std::string whole = plain("(" + part + ").*");
    if (part.find('$') != std::string::npos || part.find('^') != std::string::npos || (must ? !all_match(mine, whole) : !none_match(mine, whole))) return false;
  }
  return all_match(mine, plain(rest.ends_with("$)") && !rest.ends_with("\\$)") ? rest.substr(0, rest.size() - 2) + ")" : rest));
}

}  // namespace

std::optional<FormatTexts> format_texts(const StringFormat& format, const std::string& pattern, int64_t least, int64_t most) {
  for (const FormatTexts& texts : format.texts) {
    if (least > texts.least || most < texts.most) continue;
    try {
      if (pattern.empty() || all_are_of(texts.pattern, pattern)) return texts;
    } catch (const Error&) {  // a pattern that is not known
      if (SchemaWork::is_spent()) throw;
    }
  }
  if (pattern.empty() || least > format.texts.front().least || most < format.texts.front().most) return std::nullopt;
  try {
    const std::string plain = plain_pattern(pattern, PatternPlace::kJsonString), all = format.all.empty() ? format.texts.front().pattern : format.all;
    if (all_match(plain, plain_pattern(all, PatternPlace::kJsonString))) return FormatTexts{pattern, format.texts.front().least, format.texts.front().most};
  } catch (const Error&) {
    if (SchemaWork::is_spent()) throw;
  }
  return std::nullopt;
}

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
