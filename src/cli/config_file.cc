#include "cli/config_file.h"

#include <toml++/toml.h>
#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

constexpr int64_t kMostBytes = 1 << 20;
constexpr int kMostDots = 8;

int64_t line_of(const toml::source_region& place) { return place.begin.line; }

/// A value as it would be typed.
std::string typed(const toml::node& node, const std::string& where) {
  if (const auto* text = node.as_string()) {
    if (text->get().find('\0') != std::string::npos) fail_user("{}: a text with \\u0000 cannot be typed; leave that out", where);
    return text->get();
  }
  if (const auto* whole = node.as_integer()) return fmt::format("{}", whole->get());
  if (const auto* real = node.as_floating_point()) return fmt::format("{}", real->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  fail_user("{}: a flag takes a text, a number, true or false, or an array of these", where);
}

void add_entries(const toml::table& table, const std::string& command, const std::string& path, std::vector<ConfigEntry>* entries) {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = fmt::format("--config {}: line {}: {}", path, line_of(key.source()), name);
    if (const toml::table* inner = node.as_table(); inner && command.empty()) {
      add_entries(*inner, name, path, entries);
      continue;
    }
    ConfigEntry entry{command, name, {}, line_of(key.source())};
    if (const toml::array* array = node.as_array())
      for (const toml::node& item : *array) entry.values.push_back(typed(item, where));
    else entry.values.push_back(typed(node, where));
    entries->push_back(std::move(entry));
  }
}

/// Behind the text that begins at `at`; a text of one line ends with it.
size_t end_of_text(std::string_view toml, size_t at) {
  const char quote = toml[at];
  const std::string three(3, quote);
  const bool many_lines = toml.substr(at).starts_with(three);
  const std::string_view end = std::string_view(three).substr(0, many_lines ? 3 : 1);
  for (at += end.size(); at < toml.size(); ++at) {
    if (toml.substr(at).starts_with(end)) return at + end.size();
    if (!many_lines && toml[at] == '\n') return at;
    if (quote == '"' && toml[at] == '\\') ++at;
  }
  return toml.size();
}

/// The parser and what it makes go down a level of the stack for each dot of a key, without a bound.
void refuse_deep_keys(std::string_view toml, const std::string& path) {
  int dots = 0;
  for (size_t at = 0; at < toml.size();) {
    const char c = toml[at];
    if (c == '"' || c == '\'') {
      at = end_of_text(toml, at);
      continue;
    }
    if (c == '#') at = std::min(toml.find('\n', at), toml.size());
    else if (c == '.' && ++dots > kMostDots)
      fail_user("--config {}: line {}: a key has more than {} dots; a flag's has one at most", path,
                1 + std::count(toml.begin(), toml.begin() + static_cast<std::ptrdiff_t>(at), '\n'), kMostDots);
    else if (c == '=' || c == ',' || c == '[' || c == '{' || c == '\n') dots = 0;
    ++at;
  }
}

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  std::vector<ConfigEntry> entries;
  try {
    const std::string text = read_whole_file(path, kMostBytes);
    refuse_deep_keys(text, path);
    add_entries(toml::parse(text), "", path, &entries);
  } catch (const toml::parse_error& error) {
    fail_user("--config {}: line {}: this is no TOML: {}", path, line_of(error.source()), error.description());
  } catch (const Error& error) {
    const std::string text = error.what();
    throw Error(error.kind(), text.starts_with("--config") ? text : "--config " + text);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const ConfigEntry& a, const ConfigEntry& b) { return a.line < b.line; });
  return entries;
}

}  // namespace flexgen
