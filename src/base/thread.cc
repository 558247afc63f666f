#include "base/thread.h"

#include <pthread.h>
#include <signal.h>
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
  fail_io(
      "cannot start a thread for {}: the system has no more threads for this process ({}): {}; give fewer --threads, end other processes, or raise the limit",
      what, error.code().message(), thread_limits());
}

int with_enough_stack(const std::function<int()>& work) {
  constexpr auto kEnough = static_cast<size_t>(kStackBytes);
  pthread_attr_t attributes;
  size_t bytes = 0;
  if (pthread_getattr_default_np(&attributes) == 0) {
    if (pthread_attr_getstacksize(&attributes, &bytes) == 0 && bytes < kEnough && pthread_attr_setstacksize(&attributes, kEnough) == 0)
      pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= kEnough) return work();
  int result = 0;
  std::thread thread = start_thread("the command itself, as the stack is limited (ulimit -s)", [&] { result = work(); });
  // Signals interrupt calls of the thread that they come to.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread.join();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return result;
}

}  // namespace flexgen
