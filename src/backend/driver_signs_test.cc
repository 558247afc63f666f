// Why there is no GPU to use: each reason by its own name.

#include "backend/driver_signs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/test_folder.h"

namespace flexgen::driver_signs_test {
namespace {

using testing::HasSubstr;
using testing::Not;

DriverSigns working() {
  DriverSigns signs;
  signs.library = signs.module = signs.gpu = true;
  signs.files = {"/dev/nvidia0", "/dev/nvidiactl"};
  signs.driver_version = signs.built_for = 13000;
  return signs;
}

TEST(DriverSigns, AnAbsentDriverIsNotCalledOld) {
  DriverSigns none;
  none.built_for = 13000;
  EXPECT_THAT(why_no_gpu(none, false), AllOf(HasSubstr("there is no NVIDIA driver"), HasSubstr("--backend cpu"), Not(HasSubstr("old"))));
  none.gpu = true;
  EXPECT_THAT(why_no_gpu(none, false), HasSubstr("install the NVIDIA driver"));
  none.module = true;
  EXPECT_THAT(why_no_gpu(none, false), HasSubstr("LD_LIBRARY_PATH"));
  none.container = true;
  EXPECT_THAT(why_no_gpu(none, false), HasSubstr("--gpus all"));
}

TEST(DriverSigns, EachReasonHasItsName) {
  EXPECT_EQ(why_no_gpu(working(), false), "");
  EXPECT_EQ(why_no_gpu(working(), true), "");
  DriverSigns signs = working();
  signs.driver_version = 11040;
  EXPECT_THAT(why_no_gpu(signs, false), HasSubstr("too old: it is for CUDA 11.4, and this program was built with CUDA 13.0"));
  signs = working();
  signs.forbidden = {"/dev/nvidiactl"};
  EXPECT_THAT(why_no_gpu(signs, false), HasSubstr("no permission to open /dev/nvidiactl"));
  signs = working();
  signs.module = false;
  signs.driver_version = 0;
  signs.files.clear();
  EXPECT_THAT(why_no_gpu(signs, false), HasSubstr("kernel module is not loaded"));
  signs = working();
  signs.files.clear();
  EXPECT_THAT(why_no_gpu(signs, false), HasSubstr("nvidia-modprobe"));
  signs.container = true;
  EXPECT_THAT(why_no_gpu(signs, false), HasSubstr("container has no /dev/nvidia* files"));
  signs = working();
  signs.visible_devices = "=";
  EXPECT_EQ(why_no_gpu(signs, false), "");
  EXPECT_THAT(why_no_gpu(signs, true), HasSubstr("CUDA_VISIBLE_DEVICES= hides all GPUs"));
}

TEST(DriverSigns, AreReadFromTheSystem) {
  TestFolder root;
  auto put = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root.path() / path).parent_path());
    root.put(path, text);
  };
  DriverSigns signs = read_driver_signs(root.path().string());
  EXPECT_FALSE(signs.module || signs.gpu || signs.container || signs.library);
  put(".dockerenv", "");
  put("proc/driver/nvidia/version", "NVRM");
  put("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n");
  put("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n");
  EXPECT_FALSE(read_driver_signs(root.path().string()).gpu);
  put("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
  put("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
  put("dev/nvidia0", "");
  put("dev/nvidia-caps", "");
  put("dev/nvidiactl", "");
  signs = read_driver_signs(root.path().string());
  EXPECT_TRUE(signs.module && signs.gpu && signs.container);
  EXPECT_THAT(signs.files, testing::ElementsAre(root.file("dev/nvidia0"), root.file("dev/nvidiactl")));
  EXPECT_TRUE(signs.forbidden.empty());
}

}  // namespace
}  // namespace flexgen::driver_signs_test
