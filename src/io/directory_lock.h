#pragma once
// DirectoryLock: one process of a machine at a time, for what all of them would do alike: preparing weights, measuring the machine. Network file systems lock no directories
// between machines.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

namespace flexgen {

/// Held while it lives. A directory that is missing, or a file system that has no such locks, goes without. One thread.
class DirectoryLock {
 public:
  /// Waits for it, at most `limit_s`, and then goes without, as whoever has it may hang. waiting(false) is called if there is a wait, waiting(true) if it was in vain.
  DirectoryLock(const std::string& directory, double limit_s, const std::function<void(bool)>& waiting) : descriptor_(open_directory(directory)) {
    const auto start = std::chrono::steady_clock::now();
    for (bool told = false; descriptor_ >= 0 && flock(descriptor_, LOCK_EX | LOCK_NB) != 0;) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return;
      if (!told) waiting(false);
      told = true;
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > limit_s) {
        waiting(true);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  ~DirectoryLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  static int open_directory(const std::string& directory) { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

  int descriptor_;
};

}  // namespace flexgen
