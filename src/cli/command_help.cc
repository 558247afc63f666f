// What --help and man say of a command.

#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/command_spec.h"
#include "cli/options.h"

namespace flexgen {
namespace {

constexpr size_t kWidth = 80, kIndent = 28;

struct ExitCodeText {
  ExitCode code;
  const char* meaning;
};
constexpr ExitCodeText kExitCodeTexts[] = {
    {kExitDone, "done (bad lines of a batch have become error records)"},
    {kExitFailed, "failed; the message says why, finished answers are kept (also: the logits of a line were not finite, a line of chat was refused)"},
    {kExitUsage, "the command line is wrong; nothing was done"},
    {kExitBadLines, "lines of a batch were bad and none was answered, or any was bad with --fail-on-bad-lines"},
    {kExitStopped, "stopped by SIGINT, SIGTERM or SIGHUP; the same command goes on where it stopped"},
};

/// `text` in lines of kWidth; `used` columns of the first are taken, the others begin at `indent`.
std::string wrapped(const std::string& text, size_t used, size_t indent) {
  std::string out;
  size_t column = used;
  bool begins = true;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!begins && column + 1 + word.size() > kWidth) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
      begins = true;
    }
    out += (begins ? "" : " ") + word;
    column += word.size() + (begins ? 0 : 1);
    begins = false;
    at = end + 1;
  }
  return out;
}

std::string type_of(const FlagSpec& flag) {
  constexpr size_t kLongest = 24;
  const std::string choices = fmt::format("{}", fmt::join(flag.choices, "|"));
  return flag.choices.empty() || choices.size() > kLongest || flag.type.find(',') != std::string::npos ? flag.type : choices;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string names_of(const FlagSpec& flag) {
  std::string text = fmt::format("{}", fmt::join(flag.names, ", "));
  if (text.empty()) return upper(flag.positional);
  if (!flag.positional.empty()) text = upper(flag.positional) + ", " + text;
  const std::string type = type_of(flag);
  return type.empty() ? text : text + (type.starts_with('[') ? "" : " ") + type;
}

/// The description and what follows from the flag's own rules.
std::string facts_of(const FlagSpec& flag) {
  std::string text = flag.description;
  if (flag.required) text += " (required)";
  else if (!flag.default_value.empty() && text.find("(default:") == std::string::npos) text += " (default: " + flag.default_value + ")";
  return text;
}

std::string flag_lines(const FlagSpec& flag) {
  std::string head = "  " + names_of(flag);
  const bool beside = head.size() + 2 <= kIndent;
  if (beside) head.resize(kIndent, ' ');
  else head += "\n" + std::string(kIndent, ' ');
  return head + wrapped(facts_of(flag), kIndent, kIndent) + "\n";
}

std::string usage_of(const CommandSpec& command) {
  std::string text = "flexgen " + command.name + " [FLAGS]";
  for (const FlagSpec& flag : command.flags)
    if (flag.required && flag.positional.empty()) text += fmt::format(" {} {}", flag.names.front(), flag.type);
  for (const FlagSpec& flag : command.flags)
    if (!flag.positional.empty())
      text += flag.required ? " " + upper(flag.positional) : fmt::format(" [{}{}]", upper(flag.positional), flag.repeatable ? "..." : "");
  return text;
}

/// Groups in the order in which they first appear.
std::vector<std::string> groups_of(const CommandSpec& command) {
  std::vector<std::string> groups;
  for (const FlagSpec& flag : command.flags)
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  return groups;
}

std::string exit_codes() {
  std::string text = "Exit codes:\n";
  for (const auto& [code, meaning] : kExitCodeTexts) text += fmt::format("  {:<4}{}\n", static_cast<int>(code), wrapped(meaning, 6, 6));
  return text;
}

std::string roff(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\\') out += "\\e";
    else if (c == '-') out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += std::string("\\&") + c;
    else out += c;
  }
  return out;
}

std::string man_header(const std::string& name, const std::string& description, const std::string& version) {
  return fmt::format(".TH {} 1 \"\" \"flexgen {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n", roff(upper(name)), version, roff(name), roff(description));
}

std::string man_exit_codes() {
  std::string text = ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : kExitCodeTexts) text += fmt::format(".TP\n.B {}\n{}\n", static_cast<int>(code), roff(meaning));
  return text;
}

constexpr const char* kVariables =
    "Every flag can be given as an environment variable (--cpu-memory as FLEXGEN_CPU_MEMORY) or in a TOML file (--config FILE: cpu-memory = \"6GiB\"). "
    "The command line comes before the environment, and that before the file.";

}  // namespace

std::string command_help(const CommandSpec& command, bool all) {
  std::string text = wrapped(fmt::format("flexgen {}: {}", command.name, command.description), 0, 0) + "\n\nUsage: " + wrapped(usage_of(command), 7, 9) + "\n";
  bool hidden = false;
  for (const std::string& group : groups_of(command)) {
    std::string lines;
    for (const FlagSpec& flag : command.flags) {
      if (flag.group != group) continue;
      if (flag.advanced && !all) hidden = true;
      else lines += flag_lines(flag);
    }
    if (!lines.empty()) text += "\n" + group + ":\n" + lines;
  }
  if (hidden)
    text += "\n" + wrapped(fmt::format("flexgen {} --help-all shows the flags for placement, batching and precision too.", command.name), 0, 0) + "\n";
  return text + "\n" + wrapped(kVariables, 0, 0) + "\n\n" + exit_codes();
}

std::string program_help(const ProgramSpec& program, bool all) {
  std::string text = wrapped(program.description, 0, 0) + "\n\nUsage: flexgen COMMAND [FLAGS]\n\nCommands:\n";
  for (const CommandSpec& command : program.commands) {
    std::string head = "  " + command.name;
    head.resize(16, ' ');
    text += head + wrapped(command.description, 16, 16) + "\n";
  }
  text +=
      "\nflexgen help COMMAND, or flexgen COMMAND --help, lists the flags of a command;\n--help-all lists all of them. flexgen --version says which version this is.\n"
      "flexgen completion bash, zsh or fish prints completions for a shell.\n\n" +
      exit_codes();
  if (all)
    for (const CommandSpec& command : program.commands) text += "\n\n" + command_help(command, true);
  return text;
}

std::string program_man_page(const ProgramSpec& program, const std::string& version) {
  std::string text = man_header("flexgen", "high-throughput inference of language models that are larger than the memory", version);
  text += ".SH SYNOPSIS\n.B flexgen\n.I COMMAND\n[\\fIFLAGS\\fR]\n.SH DESCRIPTION\n" + roff(program.description) + "\n.SH COMMANDS\n";
  for (const CommandSpec& command : program.commands) text += fmt::format(".TP\n.BR flexgen\\-{} (1)\n{}\n", roff(command.name), roff(command.description));
  return text + ".SH ENVIRONMENT\n" + roff(kVariables) + "\n" + man_exit_codes();
}

std::string command_man_page(const CommandSpec& command, const std::string& version) {
  std::string text = man_header("flexgen-" + command.name, command.description, version);
  text += ".SH SYNOPSIS\n.B " + roff(usage_of(command)) + "\n.SH DESCRIPTION\n" + roff(command.description) + ".\n.SH OPTIONS\n";
  for (const std::string& group : groups_of(command)) {
    text += ".SS \"" + roff(group) + "\"\n";
    for (const FlagSpec& flag : command.flags)
      if (flag.group == group)
        text += fmt::format(".TP\n.B {}\n{}{}\n", roff(names_of(flag)), roff(facts_of(flag)),
                            flag.variable.empty() ? "" : fmt::format("\n(environment: {})", roff(flag.variable)));
  }
  return text + ".SH ENVIRONMENT\n" + roff(kVariables) + "\n" + man_exit_codes() + ".SH SEE ALSO\n.BR flexgen (1)\n";
}

}  // namespace flexgen
