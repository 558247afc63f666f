#include "batch/rewritten_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr size_t kRewriteBytes = 256 << 10;

}  // namespace

void sync_directory_of(const std::string& path) {
  std::string directory = std::filesystem::absolute(path).parent_path().string();
  int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // a file system that can't: nothing more to be done
  fsync(descriptor);
  ::close(descriptor);
}

RewrittenFile::RewrittenFile(const std::string& path, WriteCall write) : path_(path), write_(std::move(write)), piece_(kRewriteBytes, '\0') {
  std::error_code none;
  if (const auto real = std::filesystem::canonical(path, none); !none) path_ = real.string();
  temporary_ = path_ + ".tmp";
  struct stat old {};
  const bool exists = stat(path_.c_str(), &old) == 0;
  descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(errno);
  if (exists && fchmod(descriptor_, old.st_mode & 07777) != 0) {
    // Another owner's file: the new one has this process' mode.
  }
  // Nobody else may have it: it will be the output.
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    fail_io("cannot lock {}: {}; is another flexgen process rewriting {}?", temporary_, std::strerror(error), path_);
  }
}

RewrittenFile::~RewrittenFile() {
  if (!replaced_ && descriptor_ >= 0) ::unlink(temporary_.c_str());
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RewrittenFile::fail(int error) const {
  fail_io("cannot write {}: {}{}; {} is as it was: run the same command again", temporary_, std::strerror(error), file_advice(temporary_, error), path_);
}

void RewrittenFile::add(std::string_view text) {
  size_ += static_cast<int64_t>(text.size());
  buffer_ += text;
  if (buffer_.size() >= kRewriteBytes) flush();
}

void RewrittenFile::add(RecordText& record) {
  while (const size_t count = record.read(piece_.data(), piece_.size())) add(std::string_view(piece_).substr(0, count));
}

void RewrittenFile::add_line(int from, int64_t offset, int64_t bytes, const std::string& from_path) {
  FilePart part(from, from_path, offset, bytes);
  add(part);
  add("\n");
}

void RewrittenFile::flush() {
  if (const int error = write_all(descriptor_, buffer_, write_)) fail(error);
  buffer_.clear();
}

void RewrittenFile::finish() {
  flush();
  if (fsync(descriptor_) != 0) fail(errno);
}

void RewrittenFile::replace() {
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  replaced_ = true;
  sync_directory_of(path_);
}

int RewrittenFile::release() { return std::exchange(descriptor_, -1); }

size_t FilePart::read(char* data, size_t room) {
  const auto wanted = static_cast<size_t>(std::min(static_cast<int64_t>(room), bytes_ - at_));
  if (wanted == 0) return 0;
  for (;;) {
    const ssize_t n = pread(descriptor_, data, wanted, offset_ + at_);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_io("cannot read {}: {}; see dmesg, and copy the file to another disk", path_, n < 0 ? std::strerror(errno) : "it was cut by another program");
    at_ += n;
    return static_cast<size_t>(n);
  }
}

}  // namespace flexgen
