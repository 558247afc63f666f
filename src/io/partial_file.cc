#include "io/partial_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "io/new_file.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPartialEnd = ".partial";
constexpr auto kAbandonedAfter = std::chrono::hours(1);
constexpr int kMostPartials = 1000;

/// What stands in the names of this machine's files.
std::string host_part() {
  char host[65] = {};  // names end at 64
  gethostname(host, sizeof(host) - 1);
  return fmt::format(".{}-", host);
}

}  // namespace

PartialFile::PartialFile(const std::string& path, FileSystem& files) : path_(path) {
  static std::atomic<int64_t> number = 0;
  for (int tries = 0; tries < kMostPartials; ++tries) {
    name_ = fmt::format("{}{}{}-{}{}", path, host_part(), getpid(), number++, kPartialEnd);
    const int created = ::open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (created < 0 && (errno == EEXIST || errno == EINTR)) continue;
    if (created < 0) throw file_error(path_, "create it", errno);
    ::close(created);
    try {
      file_ = files.open(name_, FileMode::kWriteDirect);
    } catch (...) {
      ::unlink(name_.c_str());
      throw;
    }
    if (is_own()) return;
    ::unlink(name_.c_str());  // another process took it for abandoned before it was locked
  }
  throw file_error(path_, "create a file beside it", EEXIST);
}

PartialFile::~PartialFile() {
  if (!name_.empty()) ::unlink(name_.c_str());
}

bool PartialFile::is_own() const {
  if (flock(file_->descriptor(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  struct stat opened {
  }, named{};
  return fstat(file_->descriptor(), &opened) == 0 && stat(name_.c_str(), &named) == 0 && opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

void PartialFile::replace() {
  if (std::rename(name_.c_str(), path_.c_str()) != 0) throw file_error(path_, "give the finished file its name", errno);
  name_.clear();
  sync_directory_of(path_);
}

bool PartialFile::take_free_name() {
  if (::link(name_.c_str(), path_.c_str()) == 0) {
    ::unlink(name_.c_str());
    name_.clear();
    sync_directory_of(path_);
    return true;
  }
  if (errno == EEXIST) return false;
  if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) throw file_error(path_, "give the finished file its name", errno);
  // A file system without hard links.
  if (::access(path_.c_str(), F_OK) == 0) return false;
  replace();
  return true;
}

void remove_abandoned_partials(const std::string& folder) {
  std::error_code error;
  const std::string own = host_part();
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    std::error_code failed;
    if (!path.ends_with(kPartialEnd) || !it->is_regular_file(failed)) continue;
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) continue;
    const bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0, in_use = !locked && errno == EWOULDBLOCK;
    const fs::file_time_type written = fs::last_write_time(path, failed);
    const bool is_old = !failed && fs::file_time_type::clock::now() - written > kAbandonedAfter;
    if ((locked && it->path().filename().string().find(own) != std::string::npos) || (!in_use && is_old)) ::unlink(path.c_str());
    ::close(descriptor);
  }
}

}  // namespace flexgen
