#pragma once
// DirectoryLock: one process of a machine at a time, for what all of them would do alike: preparing weights, measuring the machine.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace flexgen {

/// Held while it lives; the constructor waits for it. A directory that is missing, or a file system that has no such locks, goes without. One thread.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory) : descriptor_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    while (descriptor_ >= 0 && flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~DirectoryLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace flexgen
