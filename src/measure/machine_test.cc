#include "measure/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "base/units.h"
#include "io/test_texts.h"
#include "measure/cache_directory.h"
#include "measure/machine_load.h"
#include "measure/test_one_core.h"

namespace flexgen::machine_test {
namespace {

class Machine : public testing::Test {
 protected:
  Machine() { write("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:   12582912 kB\n"); }
  void write(const std::string& path, const std::string& text) { write_text(directory_.path() + path, text); }
  MemoryStatus status() { return read_memory_status(directory_.path()); }
  TemporaryDirectory directory_;
};

TEST_F(Machine, WithoutCgroup) {
  EXPECT_EQ(status().total_bytes, 16 * kGiB);
  EXPECT_EQ(status().usable_bytes(), 12 * kGiB);
  EXPECT_FALSE(status().cgroup_limit_bytes);
  EXPECT_EQ(default_cpu_memory_bytes(status()), 12 * kGiB / 5 * 4);
}

TEST_F(Machine, Cgroup2TakesTheTightestOfAllLevels) {
  write("/proc/self/cgroup", "0::/jobs/mine\n");
  write("/sys/fs/cgroup/jobs/mine/memory.max", "max\n");
  write("/sys/fs/cgroup/jobs/mine/memory.current", "1073741824\n");
  write("/sys/fs/cgroup/jobs/memory.max", "4294967296\n");
  write("/sys/fs/cgroup/jobs/memory.current", "3221225472\n");
  write("/sys/fs/cgroup/jobs/memory.stat", "anon 5\ninactive_file 1073741824\nactive_file 0\n");
  EXPECT_EQ(status().cgroup_version, 2);
  EXPECT_EQ(status().cgroup_limit_bytes, 4 * kGiB);
  EXPECT_EQ(status().usable_bytes(), 2 * kGiB);
}

TEST_F(Machine, Cgroup1) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/not/seen/in/this/container\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n");
  write("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 268435456\ntotal_active_file 268435456\n");
  EXPECT_EQ(status().cgroup_version, 1);
  EXPECT_EQ(status().cgroup_limit_bytes, 2 * kGiB);
  EXPECT_EQ(status().usable_bytes(), 2 * kGiB - 512 * kMiB);
}

TEST_F(Machine, Cgroup1WithoutLimit) {
  write("/proc/self/cgroup", "4:memory:/\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(status().cgroup_limit_bytes);
}

TEST_F(Machine, SmallMemoryLeavesTheOverhead) {
  write("/proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 307200 kB\n");
  EXPECT_EQ(default_cpu_memory_bytes(status()), 150 * kMiB);
  EXPECT_EQ(default_cpu_memory_bytes(status(), kGpuOverheadBytes), 0);
  write("/proc/meminfo", "");
  EXPECT_EQ(default_cpu_memory_bytes(status()), 0);
}

TEST_F(Machine, Cgroup2SlowsDownFromHighOn) {
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/memory.max", "8589934592\n");
  write("/sys/fs/cgroup/memory.high", "4294967296\n");
  EXPECT_EQ(status().cgroup_limit_bytes, 4 * kGiB);
}

TEST_F(Machine, ThreadsByQuota) {
  auto quota = [&] { return read_cpu_status(directory_.path()).quota; };
  EXPECT_FALSE(quota());
  write("/proc/self/cgroup", "0::/jobs/mine\n");
  write("/sys/fs/cgroup/jobs/mine/cpu.max", "max 100000\n");
  EXPECT_FALSE(quota());
  write("/sys/fs/cgroup/jobs/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write("/sys/fs/cgroup/jobs/mine/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota(), 0.5);
  write("/proc/self/cgroup", "3:cpu,cpuacct:/not/seen/here\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 2);
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_FALSE(quota());
}

TEST_F(Machine, ThreadsAreCoresAsFarAsTheQuotaGoes) {
  CpuStatus cpu{8, std::nullopt, 0};
  EXPECT_EQ(cpu.threads(), 8);
  for (auto [quota, threads] : {std::pair{16.0, 8}, {3.0, 3}, {1.5, 2}, {1.4, 1}, {0.1, 1}}) {
    cpu.quota = quota;
    EXPECT_EQ(cpu.threads(), threads) << quota;
  }
  cpu = {8, std::nullopt, 3};
  EXPECT_EQ(cpu.threads(), 3);
}

TEST_F(Machine, AffinityToOneCoreMeansOneThread) {
  const OneCore one;
  EXPECT_EQ(default_threads(), 1);
}

TEST_F(Machine, LoadOfOthers) {
  write("/proc/loadavg", "2.50 1.00 0.50 3/99 12345\n");
  write("/proc/stat", "cpu 1 1 1 1 1 1 1 1 0 0\ncpu0 100 0 50 1000 5 0 0 50 0 0\ncpu1 100 0 0 1000 5 0 0 0 0 0\nintr 1\n");
  CpuTimes before = read_cpu_times(directory_.path());
  EXPECT_TRUE(before.known);
  EXPECT_EQ(before.load_average, 2.5);
  EXPECT_NEAR(before.busy_s * static_cast<double>(sysconf(_SC_CLK_TCK)), 300, 1e-9);  // what waits for disks is idle; what other guests took is not
  CpuTimes after = before;
  after.wall_s += 10;
  after.own_s += 20;  // two busy threads, and nobody else
  after.busy_s += 20;
  EXPECT_EQ(share_of_others(before, after, 2), 0);
  after.own_s = before.own_s + 13;  // a third thread on two cores
  EXPECT_NEAR(share_of_others(before, after, 2), 0.35, 1e-9);
  after.own_s = before.own_s + 10;  // one busy thread, and one of others on the other core
  EXPECT_EQ(share_of_others(before, after, 1), 0);
  write("/proc/stat", "");
  EXPECT_EQ(share_of_others(before, read_cpu_times(directory_.path()), 2), 0);
}

TEST_F(Machine, CacheDirectory) {
  std::map<std::string, std::string> variables;
  auto directory = [&] {
    return cache_directory([&](const char* name) -> const char* { return variables.contains(name) ? variables[name].c_str() : nullptr; });
  };
  EXPECT_EQ(directory(), "");
  for (const char* no_place : {"", "relative"}) {
    variables["HOME"] = no_place;
    EXPECT_EQ(directory(), "");
  }
  variables["HOME"] = "/home/me";
  EXPECT_EQ(directory(), "/home/me/.cache/flexgen");
  variables["XDG_CACHE_HOME"] = "relative/is/ignored";
  EXPECT_EQ(directory(), "/home/me/.cache/flexgen");
  variables["XDG_CACHE_HOME"] = "/caches";
  EXPECT_EQ(directory(), "/caches/flexgen");
  variables["FLEXGEN_CACHE_DIR"] = "/own";
  EXPECT_EQ(directory(), "/own");
  variables["FLEXGEN_CACHE_DIR"] = "";
  EXPECT_EQ(directory(), "/caches/flexgen");
}

TEST_F(Machine, ThisOne) {
  EXPECT_GT(read_memory_status().total_bytes, 0);
  EXPECT_GT(peak_rss_bytes(), kMiB);
  EXPECT_GE(default_threads(), 1);
}

}  // namespace
}  // namespace flexgen::machine_test
