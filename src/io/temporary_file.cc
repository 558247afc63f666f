#include "io/temporary_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {

std::string spill_directory(const std::string& output) {
  std::string directory = std::filesystem::path(output).parent_path().string();
  if (directory.empty()) directory = ".";
  return ::access(directory.c_str(), W_OK | X_OK) == 0 ? directory : std::string();  // a replica on another host may have no such directory
}

std::string temporary_directory() {
  std::error_code failed;
  const std::string directory = std::filesystem::temp_directory_path(failed).string();
  return directory.empty() ? "." : directory;
}

TemporaryFile::TemporaryFile(std::string directory, std::string purpose) : directory_(std::move(directory)), purpose_(std::move(purpose)) {
  if (directory_.empty()) directory_ = temporary_directory();
  descriptor_ = ::open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor_ >= 0) return;
  // Not every file system has files without names.
  std::string name = directory_ + "/.flexgen-XXXXXX";
  descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("make room for", errno);
  ::unlink(name.c_str());
}

TemporaryFile::~TemporaryFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

TemporaryFile::TemporaryFile(TemporaryFile&& other) noexcept
    : directory_(std::move(other.directory_)), purpose_(std::move(other.purpose_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

TemporaryFile& TemporaryFile::operator=(TemporaryFile&& other) noexcept {
  std::swap(directory_, other.directory_);
  std::swap(purpose_, other.purpose_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::string TemporaryFile::opened_by() const { return opened_by_descriptor(descriptor_); }

void TemporaryFile::fail(const char* what, int error) const {
  const char* advice = error == EFBIG                       ? "raise the limit on the size of files (ulimit -f)"
                       : error == ENOSPC || error == EDQUOT ? "make room there"
                                                            : "check that disk (see dmesg) and the directory's permissions";
  fail_io("cannot {} {} in {}: {}; {}, and run the same command again", what, purpose_, directory_, std::strerror(error), advice);
}

void TemporaryFile::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("write", n < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

void TemporaryFile::read(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = ::pread(descriptor_, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("read", n < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

}  // namespace flexgen
