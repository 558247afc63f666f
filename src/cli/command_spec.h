#pragma once
// CommandSpec: the command line as data, taken from the definitions that parse it (cli/command_definitions.h). Help texts, man pages and the completions of shells
// are written from it, so that they say the same. Pure functions.

#include <string>
#include <vector>

namespace flexgen {

/// One flag of a command, or what stands at a place of its own.
struct FlagSpec {
  std::vector<std::string> names;  ///< "-m", "--model"; empty: it has no name, only a place
  std::string positional;          ///< what it is called where its place names it ("prompt"); empty: it needs a name
  std::string type;                ///< "DIR"; empty: it takes no value
  std::string description, default_value, group;
  std::vector<std::string> choices;  ///< the values that there are; empty: any
  std::string variable;              ///< the environment variable that stands in for it; empty: none
  bool required = false;
  bool repeatable = false;  ///< may be given several times
  bool advanced = false;    ///< shown by --help-all alone
};

struct CommandSpec {
  std::string name, description;
  std::vector<FlagSpec> flags;
};

/// All commands, in the order in which help lists them.
struct ProgramSpec {
  std::string description;
  std::vector<CommandSpec> commands;
};

/// What --help says of the program; with `all`, every command and flag.
std::string program_help(const ProgramSpec& program, bool all);
/// What COMMAND --help says; with `all`, what --help-all says.
std::string command_help(const CommandSpec& command, bool all);

/// A page for man(1), in roff: of the program (flexgen.1), or of a command (flexgen-COMMAND.1).
std::string program_man_page(const ProgramSpec& program, const std::string& version);
std::string command_man_page(const CommandSpec& command, const std::string& version);

/// A script that completes commands, flags and their values. `shell`: "bash", "zsh" or "fish"; throws Error{user} for another.
std::string completion_script(const ProgramSpec& program, const std::string& shell);

}  // namespace flexgen
