#include "io/new_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr int kMostNames = 1000;

std::string name_beside(const std::string& path, int number) { return fmt::format("{}.{}-{}.tmp", path, getpid(), number); }

}  // namespace

int create_beside(const std::string& path, int flags, std::string* name) {
  for (int number = 0; number < kMostNames; ++number) {
    *name = name_beside(path, number);
    const int descriptor = ::open(name->c_str(), flags | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor >= 0 || (errno != EEXIST && errno != EINTR)) return descriptor;
  }
  return -1;
}

NewFile::NewFile(const std::string& path, bool may_be_nameless) : path_(path) {
  std::error_code none;
  if (const auto real = std::filesystem::canonical(path, none); !none) path_ = real.string();
  constexpr int kFlags = O_RDWR | O_APPEND;
  if (may_be_nameless) {
    descriptor_ = ::open(folder_of(path_).c_str(), kFlags | O_TMPFILE | O_CLOEXEC, 0644);
    // Its name comes by way of /proc.
    if (descriptor_ >= 0 && ::access(opened_by_descriptor(descriptor_).c_str(), F_OK) != 0) ::close(std::exchange(descriptor_, -1));
  }
  if (descriptor_ < 0) descriptor_ = create_beside(path_, kFlags, &name_);
  if (descriptor_ >= 0) return;
  const int error = errno;
  name_.clear();
  throw file_error(path_, "write a new one beside it", error);
}

NewFile::~NewFile() {
  if (!name_.empty()) ::unlink(name_.c_str());
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string NewFile::opened_by() const { return name_.empty() ? opened_by_descriptor(descriptor_) : name_; }

int NewFile::replace() {
  for (int number = 0; name_.empty(); ++number) {
    // A file gets a name only where there is none: it is given another one first, and then the place.
    const std::string name = name_beside(path_, number);
    if (::linkat(AT_FDCWD, opened_by_descriptor(descriptor_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) name_ = name;
    else if (errno != EEXIST || number == kMostNames) return errno;
  }
  if (::rename(name_.c_str(), path_.c_str()) != 0) return errno;
  name_.clear();
  sync_directory_of(path_);
  return 0;
}

int NewFile::replace_with(std::string_view text, const WriteCall& write) {
  if (const int error = write_all(descriptor_, text, write)) return error;
  return ::fsync(descriptor_) != 0 ? errno : replace();
}

int NewFile::release() { return std::exchange(descriptor_, -1); }

void replace_whole_file(const std::string& path, const std::string& text, bool is_private) {
  NewFile file(path);
  const int error = is_private && ::fchmod(file.descriptor(), 0600) != 0 ? errno : file.replace_with(text);
  if (error != 0) throw file_error(path, "write it", error);
}

void sync_directory_of(const std::string& path) {
  const int descriptor = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // a file system that can't: nothing more to be done
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace flexgen
