#pragma once
// For tests of what reads and writes text files: a folder for them, their text and its lines, what an Error says. One thread.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/test_folder.h"

namespace flexgen {

/// In memory if there is such a place: some tests sync thousands of times.
class TemporaryDirectory {
 public:
  std::string file(const std::string& name) const { return folder_.file(name); }
  const std::string& path() const { return folder_.path().native(); }

 private:
  TestFolder folder_{access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path()};
};

inline void write_text(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}
inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
inline std::vector<std::string> sorted_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

/// As sorted_lines, but for the second in which the job began: another job with the same answers may have begun in the next.
inline std::vector<std::string> sorted_answers(std::string text) {
  const std::string_view key = R"("created":)";
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at)) {
    at += key.size();
    text.erase(at, text.find_first_not_of("0123456789", at) - at);
  }
  return sorted_lines(text);
}

/// What the Error says that `action` throws; empty if it throws none.
template <typename Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace flexgen
