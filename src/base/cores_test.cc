#include "base/cores.h"

#include <gtest/gtest.h>

#include <numeric>

namespace flexgen::cores_test {
namespace {

std::vector<int> cores(int first, int count) {
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

TEST(ShareOfCores, ThoseThatMayRunOnACoreShareIt) {
  const std::vector<int> all = cores(0, 64), low = cores(0, 32), high = cores(32, 32);
  EXPECT_EQ(share_of_cores(all, {all}), 64);
  EXPECT_EQ(share_of_cores(all, {all, all, all}), 21);         // nobody is bound
  EXPECT_EQ(share_of_cores(low, {low, low, high, high}), 16);  // mpirun -n 4 --bind-to socket
  EXPECT_EQ(share_of_cores(low, {low, high}), 32);             // srun --cpus-per-task: each has its own
  EXPECT_EQ(share_of_cores(low, {low, all}), 16);
  EXPECT_EQ(share_of_cores(all, {low, all}), 48);
  EXPECT_EQ(share_of_cores(cores(0, 1), {cores(0, 1), cores(0, 1)}), 1);  // more ranks than cores
  EXPECT_EQ(share_of_cores({}, {{}, {}}), 1);
}

TEST(UsableCores, AreThoseOfTheMask) { EXPECT_EQ(usable_cores(), static_cast<int>(usable_core_numbers().size())); }

}  // namespace
}  // namespace flexgen::cores_test
