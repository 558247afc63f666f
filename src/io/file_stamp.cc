#include "io/file_stamp.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr const char* kRemedy = "run the same command again if the file is what it was, or else give another output";

int64_t nanoseconds(const timespec& time) { return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileStamp FileStamp::of(int descriptor, const std::string& path) {
  struct stat info {};
  if (fstat(descriptor, &info) != 0) throw file_error(path, "ask for its state", errno);
  return {info.st_dev, info.st_ino, info.st_size, nanoseconds(info.st_mtim), nanoseconds(info.st_ctim), info.st_mode, info.st_uid, info.st_nlink};
}

bool FileStamp::may_differ(const FileStamp& later) const {
  if (size != later.size || written_ns != later.written_ns) return true;
  // Whoever writes may set st_mtim back, as cp -p does.
  const bool status_alone = mode != later.mode || owner != later.owner || links != later.links;
  return changed_ns != later.changed_ns && !status_alone;
}

FileWatch::FileWatch(std::vector<std::string> paths, std::vector<FileStamp> stamps, std::vector<std::shared_ptr<File>> open)
    : paths_(std::move(paths)), stamps_(std::move(stamps)), open_(std::move(open)), descriptors_(paths_.size(), -1) {
  FLEXGEN_CHECK(paths_.size() == stamps_.size() && open_.size() <= paths_.size());
  open_.resize(paths_.size());
  try {
    for (size_t i = 0; i < paths_.size(); ++i) {
      descriptors_[i] = open_[i] ? open_[i]->descriptor() : ::open(paths_[i].c_str(), O_PATH | O_CLOEXEC);
      if (descriptors_[i] < 0) throw file_error(paths_[i], "open it", errno);
      const FileStamp now = FileStamp::of(descriptors_[i], paths_[i]);
      if (now.inode != stamps_[i].inode || now.device != stamps_[i].device)
        fail_io("{}: was replaced by another file while it was being opened; run the same command again", paths_[i]);
    }
    check_bytes();
  } catch (...) {
    close_own();
    throw;
  }
}

FileWatch::~FileWatch() { close_own(); }

void FileWatch::close_own() {
  for (size_t i = 0; i < descriptors_.size(); ++i)
    if (!open_[i] && descriptors_[i] >= 0) ::close(descriptors_[i]);
}

bool FileWatch::is_named(size_t file) const {
  struct stat info {};
  return stat(paths_[file].c_str(), &info) == 0 && info.st_ino == stamps_[file].inode && info.st_dev == stamps_[file].device;
}

void FileWatch::check_bytes() {
  for (size_t i = 0; i < paths_.size(); ++i) {
    const FileStamp now = FileStamp::of(descriptors_[i], paths_[i]);
    // A file that got another name has another time of change, too.
    const bool renamed_alone = now.size == stamps_[i].size && now.written_ns == stamps_[i].written_ns && !is_named(i);
    if (stamps_[i].may_differ(now) && !renamed_alone)
      fail_io(
          "{}: was written to while it was in use{}. Answers that were given before are of the old file and are kept; all others are given up, as they may have seen "
          "both: {}",
          paths_[i], now.size != stamps_[i].size ? " and has another size" : "", kRemedy);
    stamps_[i] = now;
  }
}

void FileWatch::check_names(size_t count) const {
  FLEXGEN_CHECK(count <= paths_.size());
  for (size_t i = 0; i < count; ++i) {
    if (is_named(i)) continue;
    const bool there = ::access(paths_[i].c_str(), F_OK) == 0;
    fail_io("{}: was {} while it was in use. All answers are of the file as it was at the start, and are kept", paths_[i],
            there ? "replaced by another file" : "removed");
  }
}

}  // namespace flexgen
