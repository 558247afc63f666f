// Completions for shells: commands, flags, and the values of flags that have a fixed set of them; files and folders where a flag takes those.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/command_spec.h"

namespace flexgen {
namespace {

enum class Completes { kNone, kAny, kChoice, kFile, kFolder };

Completes completes(const FlagSpec& flag) {
  if (flag.type.empty()) return Completes::kNone;
  if (!flag.choices.empty()) return Completes::kChoice;
  if (flag.type.starts_with("DIR")) return Completes::kFolder;
  for (const char* kind : {"FILE", ".jsonl", ".html"})
    if (flag.type.find(kind) != std::string::npos) return Completes::kFile;
  return Completes::kAny;
}

std::vector<std::string> command_names(const ProgramSpec& program) {
  std::vector<std::string> names;
  for (const CommandSpec& command : program.commands) names.push_back(command.name);
  for (const char* other : {"help", "completion"}) names.push_back(other);
  return names;
}

/// In single quotes, as bash and zsh read them.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string bash_script(const ProgramSpec& program) {
  std::string text =
      "# Completion of flexgen for bash: source this file, or put it into the folder completions of bash-completion.\n"
      "_flexgen() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command='' i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case ${COMP_WORDS[i]} in -*) ;; *) command=${COMP_WORDS[i]}; break ;; esac\n"
      "  done\n";
  text += fmt::format(
      "  local commands={}\n  case $command in\n    '') COMPREPLY=($(compgen -W \"$commands --help --help-all --version\" -- \"$word\")); return ;;\n",
      quoted(fmt::format("{}", fmt::join(command_names(program), " "))));
  text +=
      "    help) COMPREPLY=($(compgen -W \"$commands\" -- \"$word\")); return ;;\n    completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$word\")); return ;;\n";
  for (const CommandSpec& command : program.commands) {
    text += "    " + command.name + ")\n      case $before in\n";
    std::vector<std::string> names;
    for (const FlagSpec& flag : command.flags) {
      names.insert(names.end(), flag.names.begin(), flag.names.end());
      const std::string pattern = fmt::format("{}", fmt::join(flag.names, "|"));
      if (pattern.empty()) continue;
      switch (completes(flag)) {
        case Completes::kNone: break;
        case Completes::kChoice:
          text += fmt::format("        {}) COMPREPLY=($(compgen -W {} -- \"$word\")); return ;;\n", pattern,
                              quoted(fmt::format("{}", fmt::join(flag.choices, " "))));
          break;
        case Completes::kFolder:
          text += fmt::format("        {}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- \"$word\")); return ;;\n", pattern);
          break;
        case Completes::kFile:
          text += fmt::format("        {}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", pattern);
          break;
        case Completes::kAny: text += fmt::format("        {}) return ;;\n", pattern); break;
      }
    }
    text += fmt::format(
        "      esac\n      case $word in\n        -*) COMPREPLY=($(compgen -W {} -- \"$word\")) ;;\n        *) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$word\")) ;;\n      esac ;;\n",
        quoted(fmt::format("{}", fmt::join(names, " "))));
  }
  return text + "  esac\n}\ncomplete -F _flexgen flexgen\n";
}

/// A description as zsh's _arguments takes it, within single quotes.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\'') out += "'\\''";
    else if (c == '[' || c == ']' || c == ':' || c == '\\') out += std::string("\\") + c;
    else out += c;
  }
  return out;
}

std::string zsh_flag(const FlagSpec& flag) {
  std::string value;
  switch (completes(flag)) {
    case Completes::kNone: break;
    case Completes::kChoice: value = fmt::format(":value:({})", fmt::join(flag.choices, " ")); break;
    case Completes::kFolder: value = ":folder:_files -/"; break;
    case Completes::kFile: value = ":file:_files"; break;
    case Completes::kAny: value = ":" + zsh_text(flag.type) + ":"; break;
  }
  if (flag.names.empty()) return fmt::format("    '{}:{}:_files' \\\n", flag.repeatable ? "*" : "1", zsh_text(flag.positional));
  std::string lines;
  for (const std::string& name : flag.names) lines += fmt::format("    '{}{}[{}]{}' \\\n", flag.repeatable ? "*" : "", name, zsh_text(flag.description), value);
  return lines;
}

std::string zsh_script(const ProgramSpec& program) {
  std::string text =
      "#compdef flexgen\n# Completion of flexgen for zsh: put this file as _flexgen into a folder of $fpath.\n_flexgen() {\n  local -a commands\n  commands=(\n";
  for (const CommandSpec& command : program.commands) text += fmt::format("    '{}:{}'\n", command.name, zsh_text(command.description));
  text +=
      "    'help:say what a command does'\n    'completion:print completions for a shell'\n  )\n"
      "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n  local command=${words[2]}\n  shift words; (( CURRENT-- ))\n  case $command in\n"
      "    help) _describe command commands ;;\n    completion) _values shell bash zsh fish ;;\n";
  for (const CommandSpec& command : program.commands) {
    text += "  " + command.name + ") _arguments -s \\\n";
    for (const FlagSpec& flag : command.flags) text += zsh_flag(flag);
    text += "    && return ;;\n";
  }
  return text + "  esac\n}\n_flexgen \"$@\"\n";
}

std::string fish_script(const ProgramSpec& program) {
  auto text_of = [](const std::string& text) {
    std::string out = "'";
    for (char c : text) out += c == '\'' || c == '\\' ? std::string("\\") + c : std::string(1, c);
    return out + "'";
  };
  std::string text = "# Completion of flexgen for fish: put this file as flexgen.fish into ~/.config/fish/completions.\n";
  for (const CommandSpec& command : program.commands)
    text += fmt::format("complete -c flexgen -n __fish_use_subcommand -f -a {} -d {}\n", command.name, text_of(command.description));
  text +=
      "complete -c flexgen -n __fish_use_subcommand -f -a help -d 'say what a command does'\ncomplete -c flexgen -n __fish_use_subcommand -f -a completion -d 'print completions for a shell'\n";
  text += "complete -c flexgen -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n";
  for (const CommandSpec& command : program.commands)
    for (const FlagSpec& flag : command.flags) {
      if (flag.names.empty()) continue;
      text += fmt::format("complete -c flexgen -n '__fish_seen_subcommand_from {}'", command.name);
      for (const std::string& name : flag.names) text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      switch (completes(flag)) {
        case Completes::kNone: break;
        case Completes::kChoice: text += fmt::format(" -x -a {}", text_of(fmt::format("{}", fmt::join(flag.choices, " ")))); break;
        case Completes::kFolder: text += " -x -a '(__fish_complete_directories)'"; break;
        case Completes::kFile: text += " -r"; break;
        case Completes::kAny: text += " -x"; break;
      }
      text += " -d " + text_of(flag.description) + "\n";
    }
  return text;
}

}  // namespace

std::string completion_script(const ProgramSpec& program, const std::string& shell) {
  if (shell == "bash") return bash_script(program);
  if (shell == "zsh") return zsh_script(program);
  if (shell == "fish") return fish_script(program);
  fail_user("completion {}: there are bash, zsh and fish{}", shell, did_you_mean(shell, {"bash", "zsh", "fish"}));
}

}  // namespace flexgen
