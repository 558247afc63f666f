#pragma once
// Small files read and written as a whole; errors say why the system refused, and what to do. Any thread.

#include <cstdint>
#include <string>

namespace flexgen {

/// Throws Error{io} "PATH: cannot ...: Permission denied; what to do", also for a directory or a pipe, and Error{user} for more than `most_bytes`.
std::string read_whole_file(const std::string& path, int64_t most_bytes = int64_t{1} << 32);
/// The same, but empty if there is no such file.
std::string read_file_if_there(const std::string& path, int64_t most_bytes = int64_t{1} << 32);
/// Whether there is something of this name. Throws Error{io} if that can't be told (a directory that may not be searched, links in a circle), and for a link
/// to nothing: such a file is not missing.
bool file_is_there(const std::string& path);
/// Creates or replaces its content. Throws Error{io}. Pipes and devices are fine too.
void write_whole_file(const std::string& path, const std::string& text);

}  // namespace flexgen
