#pragma once
// Files that the words of a command name: what is written must not be what is read, or what another flag writes. For cli/command_line.cc.

#include <CLI/CLI.hpp>

namespace flexgen {

/// Checks the files of --json, --trace and --plot against all that the command reads and writes, and that --json and --plot can be written, before hours of work. `command` was parsed.
/// Throws Error{user}, naming the flag. Other outputs are checked where they are opened (Job). Touches no file.
void check_named_files(const CLI::App& command);

}  // namespace flexgen
