#include "io/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/units.h"
#include "io/file.h"
#include "io/transfer.h"

namespace flexgen {

std::string read_whole_file(const std::string& path, int64_t most_bytes) {
  const std::shared_ptr<File> file = File::open(path, FileMode::kRead);
  const int64_t size = file->size();
  if (size > most_bytes) fail_user("{}: it has {}, where at most {} make sense; check the path", path, format_bytes(size), format_bytes(most_bytes));
  std::string text(static_cast<size_t>(size), '\0');
  file->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::string read_file_if_there(const std::string& path, int64_t most_bytes) { return file_is_there(path) ? read_whole_file(path, most_bytes) : ""; }

bool file_is_there(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) return true;
  const int error = errno;
  if (error == ENOENT && ::lstat(path.c_str(), &info) == 0)  // a cache whose blobs were removed leaves such links
    fail_io("{}: it is a link to a file that is not there; bring that back, or remove the link", path);
  if (error == ENOENT || error == ENOTDIR) return false;
  errno = error;
  throw file_error(path, "look for it", errno);
}

void write_whole_file(const std::string& path, const std::string& text) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  int error = descriptor < 0 ? errno : 0;
  for (std::string_view rest = text; error == 0 && !rest.empty();) {
    const ssize_t n = ::write(descriptor, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) error = n < 0 ? errno : EIO;
    else rest.remove_prefix(static_cast<size_t>(n));
  }
  if (descriptor >= 0 && ::close(descriptor) != 0 && error == 0 && errno != EINTR) error = errno;
  if (error != 0) throw file_error(path, "write it", error);
}

}  // namespace flexgen
