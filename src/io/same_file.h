#pragma once
// Whether two names are those of one file. Looks at names and links alone. Any thread.

#include <filesystem>
#include <string>

namespace flexgen {

/// Where a file is, or would be once it is made: links are followed to their ends, also to what is not there yet.
std::filesystem::path place_of(const std::string& path);

/// Whether both are, or would be, one regular file: also by links and hard links. Pipes and devices are nobody's own.
bool is_same_file(const std::string& a, const std::string& b);

}  // namespace flexgen
