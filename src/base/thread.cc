#include "base/thread.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// What may have run out, by the limits that are set: pthread_create() says EAGAIN for all of them.
std::string thread_limits() {
  std::string text;
  auto add = [&](const std::string& limit) { text += (text.empty() ? "" : ", ") + limit; };
  rlimit limit{};
  if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) add(fmt::format("{} processes and threads a user (ulimit -u)", limit.rlim_cur));
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    add(fmt::format("{} of address space (ulimit -v), of which each thread's stack takes a part", format_bytes(static_cast<int64_t>(limit.rlim_cur))));
  for (const char* path : {"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"}) {
    std::ifstream file(path);
    if (int64_t most = 0; file >> most) add(fmt::format("{} processes and threads in this container ({})", most, path));
  }
  return text.empty() ? "the system's own limit on threads (kernel.threads-max, or pids.max of a cgroup)" : "the limits are " + text;
}

}  // namespace

void fail_thread(std::string_view what, const std::system_error& error) {
  fail_user("cannot start a thread for {}: the system has no more threads for this process ({}): {}; give fewer --threads, end other processes, or raise the limit",
            what, error.code().message(), thread_limits());
}

}  // namespace flexgen
