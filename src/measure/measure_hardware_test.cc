#include "measure/measure_hardware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/faulty_file.h"
#include "io/test_folder.h"
#include "io/test_texts.h"

namespace flexgen::measure_hardware_test {
namespace {

/// A first run with little room in --disk-dir goes on all the same.
TEST(MeasureHardware, OfADiskWithoutRoomReadingAloneIsMeasured) {
  const TestFolder folder;
  auto plan = std::make_shared<FaultPlan>();
  plan->add({.operation = FileOperation::kPreallocate, .error = ENOSPC, .path_part = "flexgen-measure"});
  FaultyFileSystem full(plan);
  const std::string model = (folder.path() / "weights").string();
  write_text(model, std::string(64 << 20, 'x'));
  MeasureOptions options{.types = {}, .threads = 1, .quick = true, .read_files = {model}, .directory = folder.path().string()};
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const HardwareProfile profile = measure_hardware(options, full);
  EXPECT_THAT(testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout(), testing::HasSubstr("not measured but assumed"));
  EXPECT_EQ(plan->injected(), 1);
  EXPECT_EQ(profile.disk.write_bytes_per_s, DiskProfile().write_bytes_per_s);
  EXPECT_NE(profile.disk.read_bytes_per_s, DiskProfile().read_bytes_per_s);
  // With nothing to read there is no speed of this disk at all: the profile is not one to keep.
  options.read_files.clear();
  EXPECT_THAT(measure_hardware(options, full).doubt, testing::HasSubstr("has no room to be measured"));
}

}  // namespace
}  // namespace flexgen::measure_hardware_test
