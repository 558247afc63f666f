#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/new_file.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

class PosixFile : public DescriptorFile {
 public:
  /// `drop_cache`: direct I/O was wanted but is not to be had.
  PosixFile(std::string path, int descriptor, bool direct, bool drop_cache)
      : path_(std::move(path)), descriptor_(descriptor), direct_(direct), drop_cache_(drop_cache) {}
  ~PosixFile() override { ::close(descriptor_); }
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  const std::string& path() const override { return path_; }
  bool direct() const override { return direct_; }
  int descriptor() const override { return descriptor_; }

  int64_t size() const override {
    struct stat info {};
    if (fstat(descriptor_, &info) != 0) throw file_error(path_, "ask for its size", errno);
    return info.st_size;
  }

  void preallocate(int64_t bytes) override;

  void after_transfer(bool write, int64_t offset, int64_t bytes) override {
    if (!drop_cache_) return;
    // Dirty pages cannot be dropped: a write only starts its way to the disk, the read that follows drops it.
    if (write) sync_file_range(descriptor_, offset, bytes, SYNC_FILE_RANGE_WRITE);
    else posix_fadvise(descriptor_, offset, bytes, POSIX_FADV_DONTNEED);
  }

 private:
  void fill_with_zeros(int64_t begin, int64_t end);

  const std::string path_;
  const int descriptor_;
  const bool direct_, drop_cache_;
};

void PosixFile::preallocate(int64_t bytes) {
  FLEXGEN_CHECK(bytes >= 0, "bytes {}", bytes);
  if (bytes == 0) return;
  struct stat info {};
  struct statvfs space {};
  if (fstat(descriptor_, &info) != 0) throw file_error(path_, "ask for its size", errno);
  const bool space_known = fstatvfs(descriptor_, &space) == 0;  // before, as a failure may leave half of it taken
  int error = 0;
  do {
    error = fallocate(descriptor_, 0, 0, bytes) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error == EOPNOTSUPP || error == ENOSYS) {
    try {
      fill_with_zeros(info.st_size, bytes);
      return;
    } catch (const Error&) {
      struct statvfs filled {};
      if (fstatvfs(descriptor_, &filled) != 0 || filled.f_bavail > 0) throw;
      error = ENOSPC;
    }
  }
  if (error == 0) return;
  // Give back what a half-done allocation took.
  if (ftruncate(descriptor_, info.st_size) != 0) throw file_error(path_, fmt::format("cut it to {} bytes", info.st_size), errno);
  const std::string what = fmt::format("reserve {}", format_bytes(bytes));
  if (error != ENOSPC || !space_known) throw file_error(path_, what, error);
  const int64_t needed = std::max<int64_t>(bytes - static_cast<int64_t>(info.st_blocks) * 512, 0);
  const auto free_bytes = static_cast<int64_t>(space.f_bavail * space.f_frsize);
  const int64_t missing = needed - free_bytes;
  if (missing <= 0)
    throw file_error(path_, fmt::format("{} ({} seem to be free, but a part is kept for the file system itself)", what, format_bytes(free_bytes)), error);
  fail_io("{}: cannot {}: {} has {} free, {} bytes ({}) are missing; free some space there, or use another directory (--disk-dir)", path_, what,
          folder_of(path_), format_bytes(free_bytes), missing, format_bytes(missing));
}

/// Where there is no fallocate, blocks are only had by writing them.
void PosixFile::fill_with_zeros(int64_t begin, int64_t end) {
  AlignedBuffer zeros(std::min<int64_t>(4 * kMiB, std::max<int64_t>(end - begin, 1)));
  std::memset(zeros.data(), 0, static_cast<size_t>(zeros.bytes()));
  for (int64_t at = begin; at < end;) {
    const int64_t bytes = std::min({zeros.bytes(), end - at, round_down(at, zeros.bytes()) + zeros.bytes() - at});
    write(at, {zeros.data(), static_cast<size_t>(bytes)});
    at += bytes;
  }
}

/// Some file systems accept O_DIRECT at open and refuse the transfers, or want a coarser alignment than ours.
bool direct_works(int descriptor, bool write) {
  AlignedBuffer buffer(kDirectAlignment);
  const auto bytes = static_cast<size_t>(kDirectAlignment);
  if (!write) return pread(descriptor, buffer.data(), bytes, 0) >= 0 || errno != EINVAL;
  std::memset(buffer.data(), 0, bytes);
  const bool works = pwrite(descriptor, buffer.data(), bytes, 0) >= 0 || (errno != EINVAL && errno != EOPNOTSUPP);
  return ftruncate(descriptor, 0) == 0 && works;
}

}  // namespace

std::shared_ptr<File> File::open(const std::string& path, FileMode mode) {
  const bool spill = mode == FileMode::kSpill, write = spill || mode == FileMode::kWriteDirect;
  const bool want_direct = mode != FileMode::kRead;
  const char* what = write ? "create it" : "open it";
  // O_NONBLOCK: opening a pipe must not wait for its other end.
  bool direct = want_direct;
  auto open_once = [&](const std::string& name, int flags) {
    int result;
    do {
      result = ::open(name.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0644);
    } while (result < 0 && errno == EINTR);
    return result;
  };
  auto open_any = [&](const std::string& name, int flags) {
    direct = want_direct;
    int result = open_once(name, flags | (direct ? O_DIRECT : 0));
    if (result >= 0 || !direct || (errno != EINVAL && errno != EOPNOTSUPP)) return result;
    direct = false;
    return open_once(name, flags);
  };
  int descriptor = spill ? open_any(folder_of(path), O_RDWR | O_TMPFILE) : open_any(path, write ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY);
  if (descriptor < 0 && spill) {  // a file system without O_TMPFILE
    std::string name;
    descriptor = create_beside(path, O_RDWR | O_NONBLOCK, &name);
    if (descriptor >= 0) ::unlink(name.c_str());
    direct = descriptor >= 0 && fcntl(descriptor, F_SETFL, O_NONBLOCK | O_DIRECT) == 0;
  }
  if (descriptor < 0) throw file_error(path, what, errno);
  struct stat info {};
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    const char* kind = S_ISDIR(info.st_mode) ? "a directory" : "no regular file";
    ::close(descriptor);
    fail_io("{}: cannot {}: it is {}{}", path, what, kind, S_ISFIFO(info.st_mode) ? " but a pipe; write what comes from it to a file, and give that" : "");
  }
  if (direct && !direct_works(descriptor, write)) direct = false;
  // io_uring would take O_NONBLOCK as "fail rather than wait".
  const int status = (fcntl(descriptor, F_GETFL) & ~O_NONBLOCK & ~O_DIRECT) | (direct ? O_DIRECT : 0);
  if (fcntl(descriptor, F_SETFL, status) != 0) {
    const int error = errno;
    ::close(descriptor);
    throw file_error(path, what, error);
  }
  return std::make_shared<PosixFile>(path, descriptor, direct, want_direct && !direct);
}

}  // namespace flexgen
