#include "cli/named_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

struct NamedFile {
  std::string flag, path;
};

/// The values of a flag that are files; "-" is none, nor is --json without one.
void add_files(const CLI::App& command, const std::string& flag, std::vector<NamedFile>* files) {
  const CLI::Option* option = command.get_option_no_throw(flag);
  if (!option) return;
  for (const std::string& path : option->results())
    if (!path.empty() && path != "-" && !(flag == "--json" && path == "true")) files->push_back({flag, path});
}

bool is_same(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  const bool there = stat(a.c_str(), &first) == 0, other_there = stat(b.c_str(), &second) == 0;
  if (there && other_there) return S_ISREG(first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
  if (there || other_there) return false;
  std::error_code failed;
  const fs::path plain = fs::weakly_canonical(fs::absolute(a, failed), failed);
  return !failed && plain == fs::weakly_canonical(fs::absolute(b, failed), failed) && !failed;
}

void check_writable(const NamedFile& file) {
  std::error_code ignored;
  const auto refuse = [&](int error) { fail_user("{} {}: cannot write it: {}{}", file.flag, file.path, std::strerror(error), file_advice(file.path, error)); };
  if (fs::is_directory(file.path, ignored)) refuse(EISDIR);
  if (access(file.path.c_str(), W_OK) == 0) return;
  if (errno != ENOENT) refuse(errno);
  const std::string parent = fs::path(file.path).parent_path().string();
  if (access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) != 0) refuse(errno);
}

}  // namespace

void check_named_files(const CLI::App& command) {
  std::vector<NamedFile> written, others;
  for (const char* flag : {"--json", "--trace", "--plot"}) add_files(command, flag, &written);
  if (written.empty()) return;
  add_files(command, "--output", &others);
  for (size_t i = 0, outputs = others.size(); i < outputs; ++i)
    for (const char* end : {".job", ".input", ".removed"}) others.push_back({"the job of --output", others[i].path + end});
  for (const char* flag : {"--error-output", "--input", "shards", "--config", "--hardware", "--chat-template", "--template", "--json-schema", "--examples",
                           "--perplexity", "--task"})
    add_files(command, flag, &others);
  for (size_t i = 0; i < written.size(); ++i) {
    const auto check = [&](const NamedFile& other) {
      if (is_same(written[i].path, other.path))
        fail_user("{} {}: that is a file of {} too, of which nothing would be left; give another", written[i].flag, written[i].path, other.flag);
    };
    for (const NamedFile& other : others) check(other);
    for (size_t j = 0; j < i; ++j) check(written[j]);
    if (written[i].flag != "--trace") check_writable(written[i]);  // Trace says it, before the work begins
  }
}

}  // namespace flexgen
