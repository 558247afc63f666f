// To the last bit.

#include "plan/repeated_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace flexgen::repeated_sum_test {
namespace {

double one_by_one(double sum, double term, int64_t count) {
  for (; count > 0; --count) sum += term;
  return sum;
}

TEST(AddRepeatedly, RoundsAsOneByOne) {
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> mantissa(1, 2);
  for (int i = 0; i < 20000; ++i) {
    const double sum = i % 5 == 0 ? 0 : std::ldexp(mantissa(random), static_cast<int>(random() % 40) - 20);
    const double term = std::ldexp(mantissa(random), static_cast<int>(random() % 60) - 50);
    const auto count = static_cast<int64_t>(random() % 5000);
    ASSERT_EQ(add_repeatedly(sum, term, count), one_by_one(sum, term, count)) << sum << " + " << count << " * " << term;
  }
}

/// Terms that lie half way between two multiples of the sum's unit, which go to the even one, and sums near powers of two.
TEST(AddRepeatedly, HalvesGoToTheEvenOne) {
  std::mt19937_64 random(12);
  for (int i = 0; i < 20000; ++i) {
    const int bits = 52 - static_cast<int>(random() % 3);
    const double unit = std::ldexp(1, -bits);
    const double sum = (random() % 2 ? 1 : 2) + (static_cast<double>(random() % 64) - 32) * unit;
    const double term = static_cast<double>(random() % 64) * unit / 2;
    const auto count = static_cast<int64_t>(random() % 300);
    ASSERT_EQ(add_repeatedly(sum, term, count), one_by_one(sum, term, count)) << sum << " + " << count << " * " << term;
  }
}

TEST(AddRepeatedly, NothingAndTooLittle) {
  EXPECT_EQ(add_repeatedly(3, 0, 1000), 3);
  EXPECT_EQ(add_repeatedly(0, 0, 1000), 0);
  EXPECT_EQ(add_repeatedly(1, 1e-30, 1 << 20), 1);
  EXPECT_EQ(add_repeatedly(1, 2, 0), 1);
  EXPECT_EQ(add_repeatedly(0, 1, int64_t{1} << 50), std::ldexp(1, 50));
}

}  // namespace
}  // namespace flexgen::repeated_sum_test
