// Budgets of a device's memory: what is refused before a job starts, and what is taken where nobody says.

#include "engine/device_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/units.h"

namespace flexgen::device_budget_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

const DeviceRoom kCard{"a card", 16 * kGiB, 15 * kGiB, kGiB / 8, kGiB / 2};

TEST(DeviceBudget, LeavesTheMargin) {
  const int64_t most = 15 * kGiB + kGiB / 8 - kGiB / 2;
  EXPECT_EQ(device_budget(4 * kGiB, kCard), 4 * kGiB);
  EXPECT_EQ(device_budget(most, kCard), most);
  // All that is free would be accepted, and fail when code is loaded in the middle of the job.
  EXPECT_THAT([&] { device_budget(15 * kGiB, kCard); }, ThrowsMessage<Error>(AllOf(HasSubstr("--gpu-memory 15.0 GiB"), HasSubstr("15.1 GiB are free"),
                                                                                   HasSubstr("512 MiB stay so"), HasSubstr("lower it to 14.6 GiB"))));
}

TEST(DeviceBudget, WithoutOneIsWhatIsFreeLessTheMarginOrATwentieth) {
  EXPECT_EQ(device_budget(0, kCard), 15 * kGiB + kGiB / 8 - (15 * kGiB + kGiB / 8) / 20);
  EXPECT_EQ(device_budget(0, {"a card", 4 * kGiB, 3 * kGiB, kGiB, kGiB / 2}), 4 * kGiB - kGiB / 2);
  EXPECT_EQ(device_budget(0, {"emulated", kGiB, kGiB, 0, 0}), kGiB);
}

/// Two processes of a job on one card, of which either may ask first.
TEST(DeviceBudget, SharersHaveRoomForEachOther) {
  DeviceRoom shared = kCard;
  shared.sharers = 2;
  const int64_t first = device_budget(0, shared), context = 527 * kMiB;
  EXPECT_EQ(first, (15 * kGiB + kGiB / 8) / 2 - kGiB / 2);
  // The other's context and kernels come, and then both allocate.
  EXPECT_LE(2 * first + context, 15 * kGiB + kGiB / 8);
  DeviceRoom later = shared;
  later.free_bytes -= context + shared.kernel_bytes;
  EXPECT_LT(device_budget(0, later), first);
  EXPECT_EQ(device_budget(4 * kGiB, shared), 4 * kGiB);
}

TEST(DeviceBudget, KernelsAreNotAll) {
  EXPECT_THAT([] { device_budget(kGiB / 8, kCard); }, ThrowsMessage<Error>(HasSubstr("the kernels alone take 128 MiB")));
  EXPECT_THAT(
      [] {
        device_budget(0, {"full", 16 * kGiB, 0, kGiB / 8, kGiB / 2});
      },
      ThrowsMessage<Error>(HasSubstr("--gpu-memory 0 B: the kernels alone take 128 MiB of the 128 MiB free on full")));
}

}  // namespace
}  // namespace flexgen::device_budget_test
