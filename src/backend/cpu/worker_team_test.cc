#include "backend/cpu/worker_team.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>

#include "base/cores.h"
#include "base/error.h"

namespace flexgen::worker_team_test {
namespace {

using namespace std::chrono_literals;

int64_t threads_of_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

double cpu_time_s() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(WorkerTeam, DoesEachUnitOnce) {
  for (int threads : {1, 2, 3, 8}) {
    WorkerTeam team(threads);
    EXPECT_EQ(team.size(), threads);
    for (int64_t units : {0, 1, 2, 3, 7, 1000}) {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::atomic<int>> times(static_cast<size_t>(units));
        team.run(team.size(), units, [&](int64_t unit, int worker) {
          EXPECT_GE(worker, 0);
          EXPECT_LT(worker, threads);
          ++times[static_cast<size_t>(unit)];
        });
        for (const std::atomic<int>& count : times) ASSERT_EQ(count, 1);
      }
    }
  }
}

TEST(WorkerTeam, NoTwoUnitsOfAWorkerAreUnderWayTogether) {
  WorkerTeam team(4);
  std::vector<int> plain(4, 0);  // a race, if they were
  for (int round = 0; round < 200; ++round) team.run(4, 64, [&](int64_t, int worker) { ++plain[static_cast<size_t>(worker)]; });
  EXPECT_EQ(std::accumulate(plain.begin(), plain.end(), 0), 200 * 64);
}

TEST(WorkerTeam, OneWorkerAndOneUnitStayInTheCallingThread) {
  WorkerTeam team(3);
  auto here = [id = std::this_thread::get_id()](int64_t, int worker) {
    EXPECT_EQ(worker, 0);
    EXPECT_EQ(std::this_thread::get_id(), id);
  };
  team.run(1, 100, here);
  team.run(3, 1, here);
}

TEST(WorkerTeam, AllWorkersTakePart) {
  WorkerTeam team(4);
  std::atomic<int> inside = 0;
  team.run(4, 4, [&](int64_t, int) {  // each waits until all are there
    ++inside;
    while (inside < 4) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 4);
}

// A worker whose core is taken away holds up its own unit alone: the others do the rest meanwhile.
TEST(WorkerTeam, AWorkerThatHangsHoldsUpItsUnitAlone) {
  WorkerTeam team(2);
  std::atomic<int> others = 0;
  bool all_done_before = false;
  team.run(2, 100, [&](int64_t unit, int) {
    if (unit > 0) {
      ++others;
      return;
    }
    for (int i = 0; i < 5000 && others < 99; ++i) std::this_thread::sleep_for(1ms);
    all_done_before = others == 99;
  });
  EXPECT_TRUE(all_done_before);
}

TEST(WorkerTeam, AnErrorOfAUnitIsThrownAndTheTeamGoesOn) {
  WorkerTeam team(3);
  std::atomic<int> done = 0;
  auto failing = [&](int64_t unit, int) {
    if (unit == 17) fail_user("unit {}", unit);
    ++done;
  };
  for (int round = 0; round < 20; ++round) EXPECT_THAT([&] { team.run(3, 1000, failing); }, testing::ThrowsMessage<Error>("unit 17"));
  EXPECT_THAT([&] { team.run(1, 1000, failing); }, testing::ThrowsMessage<Error>("unit 17"));
  done = 0;
  team.run(3, 10, failing);
  EXPECT_EQ(done, 10);
}

TEST(WorkerTeam, BytesAheadAreTakenInOrderAndByWhoeverHasNothingToDo) {
  WorkerTeam alone(1);
  const auto* const memory = reinterpret_cast<const std::byte*>(uintptr_t{4096});  // nobody reads it
  alone.set_ahead(0, memory, 1000);
  WorkerTeam::Stretch part = alone.take_ahead(0, 600);
  EXPECT_EQ(part.data, memory);
  EXPECT_EQ(part.bytes, 600);
  part = alone.take_ahead(0, 600);
  EXPECT_EQ(part.data, memory + 600);
  EXPECT_EQ(part.bytes, 400);
  EXPECT_EQ(alone.take_ahead(0, 600).bytes, 0);

  // One that waits asks for all of them.
  WorkerTeam team(2);
  const std::vector<std::byte> much(1 << 16);
  for (int round = 0; round < 100; ++round) {
    team.set_ahead(1, much.data(), std::ssize(much));
    team.run(2, 2, [&](int64_t, int) {});
    const auto end = std::chrono::steady_clock::now() + 10ms;
    while (std::chrono::steady_clock::now() < end) continue;
    if (team.take_ahead(1, 1).bytes == 0) return;
  }
  FAIL() << "nobody asked for what is ahead";
}

TEST(WorkerTeam, SleepsWhenIdle) {
  WorkerTeam team(4);
  team.run(4, 100, [](int64_t, int) {});
  std::this_thread::sleep_for(20ms);
  const double before = cpu_time_s();
  std::this_thread::sleep_for(200ms);
  EXPECT_LT(cpu_time_s() - before, 0.01);
}

TEST(WorkerTeam, TheCallerSleepsWhileAnotherHasTheLastUnit) {
  WorkerTeam team(2);
  const double before = cpu_time_s();
  team.run(2, 2, [](int64_t, int) { std::this_thread::sleep_for(100ms); });
  team.run(2, 2, [](int64_t unit, int) { std::this_thread::sleep_for(unit == 0 ? 0ms : 200ms); });
  EXPECT_LT(cpu_time_s() - before, 0.01);
}

TEST(WorkerTeam, TwoThreadsMayUseTwoTeams) {
  std::atomic<int64_t> sum = 0;
  auto work = [&sum] {
    WorkerTeam team(3);
    for (int round = 0; round < 300; ++round) team.run(3, 20, [&](int64_t unit, int) { sum += unit; });
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(sum, 2 * 300 * 190);
}

/// Whether the process comes to have so many threads: the kernel still lists one for a moment after it was joined.
bool settles_at(int64_t threads) {
  for (int i = 0; i < 2000; ++i) {
    if (threads_of_process() == threads) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

TEST(WorkerTeam, LeavesNoThreadBehind) {
  std::thread([] {}).join();  // with the first thread ThreadSanitizer starts one of its own
  const int64_t before = threads_of_process();
  for (int i = 0; i < 20; ++i) {
    WorkerTeam team(5);
    EXPECT_TRUE(settles_at(before + 4)) << threads_of_process();
    if (i % 2 == 0) team.run(5, 10, [](int64_t, int) {});
  }
  EXPECT_TRUE(settles_at(before)) << threads_of_process();
}

/// Runs in a process of its own, whose limits it may lower; its exit status.
template <typename Body>
int status_of_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

double cpu_time_s(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Four threads on one core: whoever spins there takes the core from the one that has work.
TEST(WorkerTeam, HardlySpinsWhereTheCoreIsWanted) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take time of their own";
#endif
  const int status = status_of_child([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0) return 2;
    WorkerTeam team(4);
    const double begin = cpu_time_s(CLOCK_PROCESS_CPUTIME_ID);
    for (int round = 0; round < 60; ++round)
      team.run(4, 4, [](int64_t unit, int) {
        const double until = cpu_time_s(CLOCK_THREAD_CPUTIME_ID) + 0.005;
        while (unit == 0 && cpu_time_s(CLOCK_THREAD_CPUTIME_ID) < until) {
        }
      });
    const double used = cpu_time_s(CLOCK_PROCESS_CPUTIME_ID) - begin;
    return used < 1.2 * 60 * 0.005 ? 0 : 3;
  });
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(WorkerTeam, ThreadsThatCannotStartAreAnErrorThatNamesTheLimit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take address space of their own";
#endif
  const int status = status_of_child([] {
    // Room for some stacks of threads, not for a thousand.
    const rlimit limit{int64_t{2} << 30, int64_t{2} << 30};
    setrlimit(RLIMIT_AS, &limit);
    try {
      WorkerTeam team(1000);
      return 1;
    } catch (const Error& error) {
      const std::string_view text = error.what();
      if (text.find("cannot start a thread for computing") == text.npos || text.find("2.00 GiB of address space (ulimit -v)") == text.npos ||
          text.find("fewer --threads") == text.npos)
        return 2;
    }
    if (threads_of_process() != 1) return 3;  // those that had started are gone
    int64_t done = 0;
    WorkerTeam team(2);
    team.run(1, 5, [&](int64_t, int) { ++done; });
    return done == 5 ? 0 : 4;
  });
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace flexgen::worker_team_test
