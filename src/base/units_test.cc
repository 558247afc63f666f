#include "base/units.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace flexgen::units_test {
namespace {

TEST(Units, ParsesSizes) {
  EXPECT_EQ(parse_size_bytes("0"), 0);
  EXPECT_EQ(parse_size_bytes("17"), 17);
  EXPECT_EQ(parse_size_bytes("6GiB"), 6 * kGiB);
  EXPECT_EQ(parse_size_bytes("6 gib"), 6 * kGiB);
  EXPECT_EQ(parse_size_bytes("6G"), 6 * kGiB);
  EXPECT_EQ(parse_size_bytes("1.5MB"), 1500000);
  EXPECT_EQ(parse_size_bytes("512K"), 512 * kKiB);
}

TEST(Units, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "-1GiB", "6 GiBs", "6X", "nan", "inf", "1e30", "99999999TiB", "6GiB 2"})
    EXPECT_THROW(parse_size_bytes(text), Error) << text;
}

TEST(Units, Formats) {
  EXPECT_EQ(format_bytes(17), "17 B");
  EXPECT_EQ(format_bytes(6 * kGiB), "6.00 GiB");
  EXPECT_EQ(format_bytes(150 * kMiB), "150 MiB");
  EXPECT_EQ(format_duration(0.0123), "12 ms");
  EXPECT_EQ(format_duration(3.21), "3.2 s");
  EXPECT_EQ(format_duration(130), "2m 10s");
  EXPECT_EQ(format_duration(7500), "2h 05m");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-999), "-999");
}

}  // namespace
}  // namespace flexgen::units_test
