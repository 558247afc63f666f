#include "app/machine.h"

#include <gtest/gtest.h>

#include "app/fake_runner.h"
#include "base/cores.h"
#include "base/units.h"

namespace flexgen {
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
  write("/proc/meminfo", "");
  EXPECT_EQ(default_cpu_memory_bytes(status()), 0);
}

TEST_F(Machine, ThisOne) {
  EXPECT_GT(read_memory_status().total_bytes, 0);
  EXPECT_GT(peak_rss_bytes(), kMiB);
  EXPECT_GE(usable_cores(), 1);
}

}  // namespace
}  // namespace flexgen
