#include "cli/config_file.h"

#include <toml++/toml.h>
#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

constexpr int64_t kMostBytes = 1 << 20;

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

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  std::vector<ConfigEntry> entries;
  try {
    add_entries(toml::parse(read_whole_file(path, kMostBytes)), "", path, &entries);
  } catch (const toml::parse_error& error) {
    fail_user("--config {}: line {}: this is no TOML: {}", path, line_of(error.source()), error.description());
  } catch (const Error& error) {
    const std::string text = error.what();
    fail_user("{}{}", text.starts_with("--config") ? "" : "--config ", text);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const ConfigEntry& a, const ConfigEntry& b) { return a.line < b.line; });
  return entries;
}

}  // namespace flexgen
