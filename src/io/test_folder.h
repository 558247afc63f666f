#pragma once
// What tests share: a folder that goes away with the test, patterned bytes, text files. One thread.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace flexgen {

/// A new folder, removed with all that is in it.
class TestFolder {
 public:
  explicit TestFolder(const std::filesystem::path& place = std::filesystem::temp_directory_path()) {
    std::string name = (place / "flexgen_test_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string put(const std::string& name, const std::string& content) const {
    std::ofstream(file(name), std::ios::binary) << content;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

/// A folder for all tests of this process, so that those of another can run beside them.
inline std::string process_folder() {
  static const TestFolder folder;
  return folder.path().string();
}

inline std::string read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Descriptors that this process has open.
inline int64_t num_open_files() { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator()) - 1; }

inline std::string random_text(int64_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(static_cast<size_t>(bytes), '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

/// The message of the Error{kind} that `action` throws; fails the test if it throws none.
inline std::string error_of(ErrorKind kind, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace flexgen
