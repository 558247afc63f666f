#include "measure/measure_hardware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/faulty_file.h"
#include "io/test_folder.h"

namespace flexgen::measure_hardware_test {
namespace {

/// A first run with little room in --disk-dir goes on all the same.
TEST(MeasureHardware, ADiskWithoutRoomIsAssumed) {
  const TestFolder folder;
  auto plan = std::make_shared<FaultPlan>();
  plan->add({.operation = FileOperation::kPreallocate, .error = ENOSPC, .path_part = "flexgen-measure"});
  FaultyFileSystem full(plan);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const HardwareProfile profile = measure_hardware({.types = {}, .threads = 1, .quick = true, .read_files = {}, .directory = folder.path().string()}, full);
  EXPECT_THAT(testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout(), testing::HasSubstr("not measured but assumed"));
  EXPECT_EQ(plan->injected(), 1);
  EXPECT_EQ(profile.disk.write_bytes_per_s, DiskProfile().write_bytes_per_s);
  EXPECT_GT(profile.ram_read_bytes_per_s, 0);
}

}  // namespace
}  // namespace flexgen::measure_hardware_test
