#include "batch/output_watch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "io/transfer.h"
#include "io/write_all.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

/// Another name of the open file; empty if it has none that the kernel knows.
std::string name_of(int descriptor, const struct stat& own) {
  std::error_code failed;
  const std::string name = fs::read_symlink(opened_by_descriptor(descriptor), failed).string();
  struct stat named {};
  return !failed && ::stat(name.c_str(), &named) == 0 && same_file(own, named) ? name : "";
}

/// A new file, never one that is there; -1 with errno.
int create_beside(const std::string& wanted, std::string* path) {
  for (int number = 1; number <= 1000; ++number) {
    *path = number == 1 ? wanted : fmt::format("{}-{}", wanted, number);
    const int descriptor = ::open(path->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
  return -1;
}

int copy_all(int from, int to) {
  std::vector<char> buffer(1 << 20);
  for (off_t offset = 0;;) {
    const ssize_t got = pread(from, buffer.data(), buffer.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return fsync(to) == 0 ? 0 : errno;
    if (const int error = write_all(to, {buffer.data(), static_cast<size_t>(got)})) return error;
    offset += got;
  }
}

}  // namespace

OutputState look_at_output(const std::string& path, int descriptor, int64_t size) {
  OutputState state;
  struct stat own {};
  struct stat named {};
  if (fstat(descriptor, &own) != 0) fail_io("cannot look at the output {}: {}", path, std::strerror(errno));
  state.size = own.st_size;
  const bool found = ::stat(path.c_str(), &named) == 0;
  const int error = found ? 0 : errno;
  if (!found || !same_file(own, named)) {
    state.now_at = own.st_nlink > 0 ? name_of(descriptor, own) : "";
    state.kind = !state.now_at.empty() ? OutputState::kMoved : found ? OutputState::kReplaced : OutputState::kGone;
    if (error != 0 && error != ENOENT && error != ENOTDIR) state.reason = std::strerror(error);
  } else if (own.st_size != size) {
    state.kind = own.st_size < size ? OutputState::kShorter : OutputState::kLonger;
  }
  return state;
}

std::string rescue_output(const std::string& path, int descriptor) {
  const std::string name = fs::path(path).filename().string() + ".rescued";
  std::error_code failed;
  const fs::path folder = fs::path(path).parent_path(), temporary = fs::temp_directory_path(failed);
  int error = 0;
  for (const fs::path& directory : {folder.empty() ? fs::path(".") : folder, fs::path("."), failed ? fs::path("/tmp") : temporary}) {
    std::string made;
    const int copy = create_beside((directory == "." ? fs::path(name) : directory / name).string(), &made);
    if (copy < 0) {
      if (error == 0) error = errno;
      continue;
    }
    const int problem = copy_all(descriptor, copy);
    ::close(copy);
    if (problem == 0) return made;
    error = problem;
    ::unlink(made.c_str());
  }
  fail_io("{}", std::strerror(error));
}

}  // namespace flexgen
