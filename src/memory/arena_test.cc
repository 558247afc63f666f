#include "memory/arena.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "base/units.h"

namespace flexgen::arena_test {
namespace {

/// The threads that help to touch it are a help, and no more.
TEST(Arena, IsTakenWhereNoThreadCanStart) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take address space of their own";
#endif
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr int64_t kBytes = 320 * kMiB;
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t most = pages * 4096 + kBytes + 4 * kMiB;  // not enough for a thread's stack
    const rlimit limit{most, most};
    setrlimit(RLIMIT_AS, &limit);
    try {
      _exit(Arena(kBytes).capacity() == kBytes ? 0 : 1);
    } catch (const std::exception&) {
      _exit(2);
    }
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace flexgen::arena_test
