#pragma once
// JobFiles: what a batch job keeps beside its output (docs/job_files.md). Pure data.

#include <string>

namespace flexgen {

struct JobFiles {
  explicit JobFiles(const std::string& output) : manifest(output + ".job"), input(output + ".input"), removed(output + ".removed") {}

  std::string manifest;  ///< whose answers they are
  std::string input;     ///< requests that came through standard input
  std::string removed;   ///< answers of lines that an edited input has no more
};

}  // namespace flexgen
