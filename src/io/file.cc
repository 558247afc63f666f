#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

struct AlignedBuffer {
  explicit AlignedBuffer(int64_t bytes)
      : data(static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, static_cast<size_t>(bytes)))) {
    FLEXGEN_CHECK(data != nullptr);
  }
  ~AlignedBuffer() { std::free(data); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  std::byte* data;
};

bool aligned(int64_t offset, const void* data, size_t bytes) {
  auto bits = static_cast<uint64_t>(offset) | reinterpret_cast<uintptr_t>(data) | bytes;
  return bits % kDirectAlignment == 0;
}

class PosixFile : public File {
 public:
  PosixFile(std::string path, int descriptor, bool direct)
      : path_(std::move(path)), descriptor_(descriptor), direct_(direct) {}
  ~PosixFile() override { ::close(descriptor_); }

  const std::string& path() const override { return path_; }
  bool direct() const override { return direct_; }
  int descriptor() const override { return descriptor_; }

  int64_t size() const override {
    struct stat info {};
    if (fstat(descriptor_, &info) != 0) fail("cannot stat", errno);
    return info.st_size;
  }

  void read(int64_t offset, std::span<std::byte> data) override {
    if (!direct_ || aligned(offset, data.data(), data.size())) {
      read_plain(offset, data, static_cast<int64_t>(data.size()));
      return;
    }
    int64_t begin = round_down(offset, kDirectAlignment);
    int64_t wanted = offset + static_cast<int64_t>(data.size()) - begin;
    AlignedBuffer bounce(round_up(std::max<int64_t>(wanted, 1), kDirectAlignment));
    read_plain(begin, {bounce.data, static_cast<size_t>(round_up(wanted, kDirectAlignment))}, wanted);
    std::memcpy(data.data(), bounce.data + (offset - begin), data.size());
  }

  void write(int64_t offset, std::span<const std::byte> data) override {
    FLEXGEN_CHECK(!direct_ || aligned(offset, data.data(), data.size()), "unaligned direct write to {}", path_);
    size_t done = 0;
    while (done < data.size()) {
      ssize_t n = pwrite(descriptor_, data.data() + done, data.size() - done, offset + static_cast<int64_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot write", errno);
      done += static_cast<size_t>(n);
    }
  }

  void preallocate(int64_t bytes) override {
    int error = posix_fallocate(descriptor_, 0, bytes);
    if (error == 0) return;
    struct statvfs space {};
    std::string folder = std::filesystem::absolute(path_).parent_path().string();
    if (error == ENOSPC && statvfs(folder.c_str(), &space) == 0) {
      auto free_bytes = static_cast<int64_t>(space.f_bavail * space.f_frsize);
      fail_io("{} needs {} but its disk has {} free ({} are missing); free some space, or give another --disk-dir",
              path_, format_bytes(bytes), format_bytes(free_bytes), format_bytes(bytes - free_bytes));
    }
    fail("cannot reserve space", error);
  }

 private:
  [[noreturn]] void fail(const char* what, int error) const {
    fail_io("{}: {}: {}", path_, what, std::strerror(error));
  }
  /// Reads up to data.size() bytes, of which the first `needed` must be there.
  void read_plain(int64_t offset, std::span<std::byte> data, int64_t needed) {
    size_t done = 0;
    while (static_cast<int64_t>(done) < needed) {
      ssize_t n = pread(descriptor_, data.data() + done, data.size() - done, offset + static_cast<int64_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot read", errno);
      if (n == 0)
        fail_io("{}: ends at byte {}, {} more were expected; the file is truncated", path_,
                offset + static_cast<int64_t>(done), needed - static_cast<int64_t>(done));
      done += static_cast<size_t>(n);
    }
  }

  std::string path_;
  int descriptor_;
  bool direct_;
};

}  // namespace

std::shared_ptr<File> File::open(const std::string& path, FileMode mode) {
  int flags = mode == FileMode::kWriteDirect ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY;
  bool direct = mode != FileMode::kRead;
  int descriptor = ::open(path.c_str(), flags | O_CLOEXEC | (direct ? O_DIRECT : 0), 0644);
  if (descriptor < 0 && direct && errno == EINVAL) {  // e.g. tmpfs before Linux 6.6
    direct = false;
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  }
  if (descriptor < 0) fail_io("cannot open {}: {}", path, std::strerror(errno));
  struct stat info {};
  if (fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode)) {
    ::close(descriptor);
    fail_io("cannot open {}: it is a directory", path);
  }
  return std::make_shared<PosixFile>(path, descriptor, direct);
}

}  // namespace flexgen
