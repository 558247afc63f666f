#include "batch/rewritten_file.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr size_t kRewriteBytes = 256 << 10;

}  // namespace

RewrittenFile::RewrittenFile(const std::string& path, WriteCall write) : file_(path), write_(std::move(write)), piece_(kRewriteBytes, '\0') {
  struct stat old {};
  if (stat(file_.path().c_str(), &old) == 0 && fchmod(file_.descriptor(), old.st_mode & 07777) != 0) {
    // Another owner's file: the new one has this process' mode.
  }
  // Nobody else may have it: it will be the output.
  if (flock(file_.descriptor(), LOCK_EX | LOCK_NB) != 0)
    fail_io("cannot lock a new {}: {}; give an output on a file system with file locks", file_.path(), std::strerror(errno));
}

void RewrittenFile::fail(int error) const {
  fail_io("cannot write a new {}: {}{}; what is there is as it was: run the same command again", file_.path(), std::strerror(error),
          file_advice(file_.path(), error));
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
  if (const int error = write_all(file_.descriptor(), buffer_, write_)) fail(error);
  buffer_.clear();
}

void RewrittenFile::finish() {
  flush();
  if (fsync(file_.descriptor()) != 0) fail(errno);
}

void RewrittenFile::replace() {
  if (const int error = file_.replace()) fail(error);
}

int RewrittenFile::release() { return file_.release(); }

size_t FilePart::read(char* data, size_t room) {
  const auto wanted = static_cast<size_t>(std::min(static_cast<int64_t>(room), bytes_ - at_));
  if (wanted == 0) return 0;
  for (;;) {
    const ssize_t n = pread(descriptor_, data, wanted, offset_ + at_);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      fail_io("cannot read {}: {}; see dmesg, and copy the file to another disk", path_, n < 0 ? std::strerror(errno) : "it was cut by another program");
    at_ += n;
    return static_cast<size_t>(n);
  }
}

}  // namespace flexgen
