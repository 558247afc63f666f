// What all commands are defined with.

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/nearest.h"
#include "cli/command_definitions.h"
#include "cli/one_prompt.h"

namespace flexgen {
namespace {

/// "cpu, cuda or reference".
std::string listed(const std::vector<std::string>& names) {
  if (names.size() < 2) return fmt::format("{}", fmt::join(names, ""));
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

std::string not_among(const std::string& text, const std::vector<std::string>& among) {
  return fmt::format("'{}' is not {}{}", text, listed(among), did_you_mean(text, among));
}

/// Values of a flag that are no names of files: - where it is read, which is the standard input, --json without one, and what its type names beside, as in FILE|auto.
std::vector<std::string> words_for_no_file(const CLI::Option& option, FileUse use) {
  std::vector<std::string> words;
  if (use == FileUse::kRead) words.emplace_back("-");
  if (option.get_name() == "--json") words.emplace_back("true");
  const std::string type = option.get_type_name();
  if (const size_t bar = type.find('|'); bar != std::string::npos) words.push_back(type.substr(bar + 1));
  return words;
}

/// A decimal number. CLI11 alone takes octal and hexadecimal ones, and NaN passes for a number within any range.
template <typename T>
bool parse_number(const std::string& text, T* value) {
  const size_t digits = text.find_first_not_of('-');
  if (digits != std::string::npos && text[digits] == '0' && digits + 1 < text.size() && text[digits + 1] >= '0' && text[digits + 1] <= '9') return false;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && rest == end;
}

CLI::Validator one_of(std::vector<std::string> among) {
  return CLI::Validator([among = std::move(among)](
                            std::string& text) { return std::find(among.begin(), among.end(), text) != among.end() ? std::string() : not_among(text, among); },
                        "");
}

/// The value of such a flag comes into prompts, answers or tables.
bool is_text(const std::string& type) { return type.starts_with("TEXT") || type.starts_with("NAME"); }

CLI::Validator valid_utf8() {
  return CLI::Validator([](std::string& text) { return utf8_problem(text); }, "");
}

}  // namespace

CommandDefinition::CommandDefinition(std::string name, std::string description) : app(std::move(description), std::move(name)) {
  app.set_help_flag();
  app.allow_extras();  // cli/command_line.cc says what is wrong with them
}

void CommandDefinition::begin_group(std::string name, bool is_advanced) {
  group_ = std::move(name);
  group_is_advanced_ = is_advanced;
}

CLI::Option* CommandDefinition::added(CLI::Option* option, const std::string& type) {
  option->group(group_);
  if (!type.empty()) option->type_name(type);
  if (group_is_advanced_) advanced.insert(option);
  if (option->get_items_expected_max() == 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  return option;
}

CLI::Option* CommandDefinition::text(const std::string& names, std::string& value, const std::string& description, const std::string& type) {
  CLI::Option* option = added(app.add_option(names, value, description), type);
  if (is_text(type)) option->check(valid_utf8());
  if (type.empty() || type == "TEXT") return option;
  // The name of a file, a model, ...: nothing is called by no name.
  return option->check(CLI::Validator([](std::string& text) { return text.empty() ? std::string("the value is empty") : std::string(); }, ""));
}

CLI::Option* CommandDefinition::texts(const std::string& names, std::vector<std::string>& values, const std::string& description, const std::string& type) {
  CLI::Option* option = added(app.add_option(names, values, description), type);
  if (is_text(type)) option->check(valid_utf8());
  return option->get_positional() ? option : one_at_a_time(option);
}

CLI::Option* CommandDefinition::one_at_a_time(CLI::Option* option) {
  // CLI11 lets an option with a vector take further words after its first, and take "[a,b]" apart.
  return option->expected(1)->allow_extra_args(false)->take_all();
}

CLI::Option* CommandDefinition::lists(const std::string& names, std::function<void(std::vector<std::string>)> take, const CLI::Validator& check,
                                      const std::string& description, const std::string& type) {
  const auto take_parts = [take = std::move(take)](const std::vector<std::string>& words) {
    std::vector<std::string> parts;
    for (const std::string& word : words)
      for (std::string& part : split_list(word)) parts.push_back(std::move(part));
    take(std::move(parts));
  };
  return one_at_a_time(added(app.add_option_function<std::vector<std::string>>(names, take_parts, description), type))
      ->check(CLI::Validator(
          [check](std::string& word) {
            std::string why;
            for (std::string& part : split_list(word))
              if (why.empty()) why = check(part);
            return why;
          },
          ""));
}

CLI::Option* CommandDefinition::whole_lists(const std::string& names, std::vector<int64_t>& values, uint64_t low, uint64_t high, const std::string& description,
                                            const std::string& type) {
  const auto take = [&values](const std::vector<std::string>& parts) {
    values.clear();
    for (const std::string& part : parts) parse_number(part, &values.emplace_back());
  };
  CLI::Option* option = lists(names, take, whole_number(low, high), description, type);
  return values.empty() ? option : option->default_str(fmt::format("{}", fmt::join(values, ",")));
}

CLI::Option* CommandDefinition::choice_lists(const std::string& names, std::vector<std::string>& values, const std::vector<std::string>& among,
                                             const std::string& description) {
  CLI::Option* option = lists(
      names, [&values](std::vector<std::string> parts) { values = std::move(parts); }, one_of(among), description, "NAME,...");
  choices[option] = among;
  return option;
}

CLI::Option* CommandDefinition::file(FileUse use, const std::string& names, std::string& value, const std::string& description, const std::string& type) {
  CLI::Option* option = text(names, value, description, type);
  file_uses[option] = use;
  return option;
}

CLI::Option* CommandDefinition::files(FileUse use, const std::string& names, std::vector<std::string>& values, const std::string& description,
                                      const std::string& type) {
  CLI::Option* option = texts(names, values, description, type);
  file_uses[option] = use;
  return option;
}

NamedFiles CommandDefinition::named_files() const {
  NamedFiles named{files_beside(), "", ""};
  for (const CLI::Option* option : app.get_options()) {
    const auto found = file_uses.find(option);
    if (found == file_uses.end()) continue;
    const std::vector<std::string> words = words_for_no_file(*option, found->second);
    for (const std::string& path : option->results())
      if (!path.empty() && std::find(words.begin(), words.end(), path) == words.end())
        named.files.push_back({option->get_lnames().empty() ? option->get_name(true) : "--" + option->get_lnames().front(), path, found->second});
  }
  const auto value_of = [&](const char* flag) {
    const CLI::Option* option = app.get_option_no_throw(flag);
    return option && option->count() > 0 ? option->results().back() : std::string();
  };
  named.model = value_of("--model");
  named.revision = value_of("--revision");
  return named;
}

CLI::Option* CommandDefinition::flag(const std::string& names, bool& value, const std::string& description) {
  return added(app.add_flag(names, value, description), "");
}

CLI::Validator CommandDefinition::whole_number(uint64_t low, uint64_t high) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        uint64_t value = 0;
        const bool whole = parse_number(text, &value);
        if (whole && value >= low && value <= high) return "";
        // An end that nobody comes near says nothing.
        const bool is_large = !whole && text.size() > 18 && text.find_first_not_of("0123456789") == std::string::npos;
        const bool shows_end = high <= uint64_t{1} << 20 || (whole && value > high) || is_large;
        return fmt::format("'{}' is not a whole number {}", text, shows_end ? fmt::format("from {} to {}", low, high) : fmt::format("of at least {}", low));
      },
      "");
}

CLI::Option* CommandDefinition::real(const std::string& names, double& value, double low, double high, const std::string& description,
                                     const std::string& type) {
  return added(app.add_option(names, value, description), type)
      ->check(CLI::Validator(
          [low, high](std::string& text) -> std::string {
            double number = 0;
            if (parse_number(text, &number) && std::isfinite(number) && number >= low && number <= high) return "";
            return fmt::format("'{}' is not a number from {} to {}", text, low, high);
          },
          ""));
}

CLI::Option* CommandDefinition::choice(const std::string& names, std::string& value, std::vector<std::string> among, const std::string& description,
                                       const std::string& type) {
  CLI::Option* option = added(app.add_option(names, value, description), type);
  option->check(one_of(among));
  choices[option] = std::move(among);
  return option;
}

CLI::Option* CommandDefinition::choice_list(const std::string& names, std::string& value, std::vector<std::string> among, const std::string& description) {
  CLI::Option* option = added(app.add_option(names, value, description), "NAME[,NAME]");
  choices[option] = among;
  return option->check(CLI::Validator(
      [among = std::move(among)](std::string& text) {
        std::vector<std::string> seen;
        for (const std::string& name : split_list(text)) {
          if (std::find(among.begin(), among.end(), name) == among.end()) return not_among(name, among);
          if (std::find(seen.begin(), seen.end(), name) != seen.end()) return fmt::format("'{}' is there twice", name);
          seen.push_back(name);
        }
        return std::string();
      },
      ""));
}

void CommandDefinition::json(bool& on, std::string& file, const std::string& what) {
  CLI::Option* option = app.add_flag("--json", json_value_, "print " + what + " as JSON, or write it to FILE");
  option->group(group_);
  option->each([&on, &file](const std::string& value) {
    on = true;
    file = value == "true" ? "" : value;
  });
  option->type_name("[=FILE]");
  file_uses[option] = FileUse::kWrittenAtEnd;
}

void CommandDefinition::add_general_flags() {
  begin_group("General");
  file(FileUse::kRead, "--config", general.config_file, "TOML file with flags: keys such as cpu-memory, for one command alone under [run-batch]", "FILE");
  CLI::Option* quiet = flag("-q,--quiet", general.quiet, "errors and warnings alone on stderr, no progress and no notes; answers and figures on stdout stay");
  CLI::Option* verbose = flag("-v,--verbose", general.verbose, "as --log-level debug");
  CLI::Option* level =
      choice("--log-level", general.log_level, {"debug", "info", "warning", "error"}, "the least that is worth a line", "LEVEL")->capture_default_str();
  quiet->excludes(verbose)->excludes(level);
  verbose->excludes(level);
}

}  // namespace flexgen
