#include "cli/named_files.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/same_file.h"
#include "io/transfer.h"
#include "setup/model_files.h"
#include "setup/model_folder.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

void check_writable(const NamedFile& file) {
  std::error_code ignored;
  const auto refuse = [&](int error) { fail_io("{} {}: cannot write it: {}{}", file.flag, file.path, std::strerror(error), file_advice(file.path, error)); };
  if (fs::is_directory(file.path, ignored)) refuse(EISDIR);
  if (access(file.path.c_str(), W_OK) == 0) return;
  if (errno != ENOENT) refuse(errno);
  const std::string parent = fs::path(file.path).parent_path().string();
  if (access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) != 0) refuse(errno);
}

void check_apart(const NamedFile& written, const NamedFile& other) {
  if (is_same_file(written.path, other.path))
    fail_user("{} {}: that is a file of {} too, of which nothing would be left; give another", written.flag, written.path, other.flag);
}

/// What the model is read from; empty where there is none, which is said when it is loaded.
std::string model_of(const NamedFiles& named) {
  std::error_code ignored;
  if (named.model.empty() || fs::is_regular_file(named.model, ignored)) return named.model;
  try {
    return find_model_folder(named.model, named.revision, hub_cache_from_environment());
  } catch (const Error&) {
    return "";
  }
}

bool is_written(const NamedFile& file) { return file.use == FileUse::kWritten || file.use == FileUse::kWrittenAtEnd; }

}  // namespace

void check_named_files(const NamedFiles& named) {
  const std::vector<NamedFile>& files = named.files;
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i].use == FileUse::kRead) continue;
    if (files[i].path == "-") fail_user("{} -: what it writes goes to a file; give its name (./- if it is called so, or /dev/stdout)", files[i].flag);
    for (size_t j = 0; j < files.size(); ++j)
      if (j < i || (j > i && files[j].use == FileUse::kRead)) check_apart(files[i], files[j]);
  }
  const std::string model = model_of(named);
  for (const NamedFile& file : files) {
    if (is_written(file) && is_model_file(model, file.path))
      fail_user("{} {}: that is a file of a model, or would be by its name; give another name, or another folder", file.flag, file.path);
    if (file.use == FileUse::kWrittenAtEnd) check_writable(file);
  }
}

}  // namespace flexgen
