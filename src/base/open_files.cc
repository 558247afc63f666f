#include "base/open_files.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace flexgen {
namespace {

/// Programs that are started from here may go through all numbers that a descriptor can have.
constexpr rlim_t kMostWanted = 1 << 20;
/// Output, spill files, queues of the disk, sockets to other ranks.
constexpr int64_t kOfEveryRun = 32;

int64_t count_open_files() {
  std::error_code failed;
  int64_t count = 0;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", failed), end; !failed && entry != end; entry.increment(failed)) ++count;
  return count;
}

}  // namespace

void raise_open_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min(limit.rlim_max, kMostWanted);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void require_open_files(int64_t count, const std::string& what) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const int64_t needed = count_open_files() + count + kOfEveryRun;
  if (static_cast<rlim_t>(needed) <= limit.rlim_cur) return;
  fail_user("{} are open at once while a job runs, and this process may have {} files open (ulimit -n): raise that limit to {} or more", what, limit.rlim_cur,
            needed);
}

}  // namespace flexgen
