// The emulated device tells on code that would fail on a GPU, and computes what the kernels behind it compute.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/copy_pieces.h"
#include "backend/cuda_status.h"
#include "backend/device.h"
#include "base/error.h"

namespace flexgen::emulated_device_test {
namespace {

Work copy_work(const void* from, void* to, int64_t bytes) {
  Work work;
  work.name = "test";
  work.copies = {{static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes}};
  work.bytes = static_cast<double>(bytes);
  return work;
}

class EmulatedDevice : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  std::unique_ptr<Device> device_ = make_emulated_device(EmulatedKernels::kReference, 1, 1 << 20);
};

TEST_F(EmulatedDevice, AllocatesAndRefuses) {
  EXPECT_EQ(device_->total_bytes(), 1 << 20);
  std::byte* first = device_->allocate(1000);
  std::byte* second = device_->allocate(500000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second) % kDeviceAlignment, 0u);
  EXPECT_THROW(device_->allocate(600000), Error);
  device_->deallocate(second);
  std::byte* third = device_->allocate(600000);
  EXPECT_EQ(third, second);
  device_->deallocate(first);
  device_->deallocate(third);
  EXPECT_EQ(device_->free_bytes(), 1 << 20);
}

TEST_F(EmulatedDevice, ComputesOnWhatWasCopiedThere) {
  auto up = device_->make_copy_lane("h2d", nullptr), down = device_->make_copy_lane("d2h", nullptr), compute = device_->make_compute_lane("compute", nullptr);
  auto kernels = device_->make_kernels(DType::kF32);
  std::byte* memory = device_->allocate(64);
  std::vector<float> x{1, -2, 3, -4}, y(4, 0);
  Work run;
  run.after = {up->submit(copy_work(x.data(), memory, 16))};
  run.run = [&] { kernels->activate(reinterpret_cast<float*>(memory), 4, Activation::kRelu, memory + 32); };
  Work back = copy_work(memory + 32, y.data(), 16);
  back.after = {compute->submit(std::move(run))};
  down->submit(std::move(back)).wait();
  EXPECT_EQ(y, (std::vector<float>{1, 0, 3, 0}));
  EXPECT_EQ(up->stats().bytes, 16);
}

TEST_F(EmulatedDevice, CopiesWithinItsMemory) {
  auto up = device_->make_copy_lane("h2d", nullptr);
  std::byte *memory = device_->allocate(64), *other = device_->allocate(64);
  const std::vector<float> x{1, -2, 3, -4};
  std::vector<float> y(4, 0);
  up->submit(copy_work(x.data(), memory, 16));
  up->submit(copy_work(memory, other, 16));
  up->submit(copy_work(other, y.data(), 16)).wait();
  EXPECT_EQ(y, x);
}

/// Locked pieces of RAM and the copies from and to it are cut at the same addresses.
TEST(CopyPieces, NeitherEndPassesAMultipleOfTheGrid) {
  auto address = [](int64_t at) { return reinterpret_cast<std::byte*>(at); };
  std::vector<std::tuple<int64_t, int64_t, int64_t>> pieces;
  for_each_piece(
      Copy{address(90), address(1050), 130},
      [&](const Copy& piece) { pieces.emplace_back(reinterpret_cast<int64_t>(piece.from), reinterpret_cast<int64_t>(piece.to), piece.bytes); }, 100);
  EXPECT_EQ(pieces, (std::vector<std::tuple<int64_t, int64_t, int64_t>>{{90, 1050, 10}, {100, 1060, 40}, {140, 1100, 60}, {200, 1160, 20}}));
  pieces.clear();
  for_each_piece(Copy{address(90), address(90), 0}, [&](const Copy&) { pieces.emplace_back(); });
  EXPECT_TRUE(pieces.empty());
}

/// Destructors call these two after a fault, too.
static_assert(noexcept(std::declval<Device&>().deallocate(nullptr)) && noexcept(std::declval<Device&>().unpin({})));

/// On a GPU: a kernel that reads where nothing is ends the work with its own message, and what comes after neither throws nor hides it. In a process of its own, as nothing runs on a context after a fault.
TEST(GpuFault, IsToldByTheWorkThatFailed) {
  if (cuda_status().devices.empty()) GTEST_SKIP() << "no GPU";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto fault = [] {
    std::string message;
    try {
      auto device = make_cuda_device(0);
      auto lane = device->make_compute_lane("compute", nullptr);
      auto kernels = device->make_kernels(DType::kF16);
      std::vector<std::byte> ram(1 << 20);
      std::byte* memory = device->allocate(1 << 20);
      device->pin(ram);
      struct Undo {
        Device& device;
        std::byte* memory;
        std::span<std::byte> ram;
        ~Undo() {
          device.deallocate(memory);
          device.unpin(ram);
        }
      } undo{*device, memory, ram};
      Work work;
      work.name = "reading nothing";
      work.run = [&] { kernels->to_act(reinterpret_cast<const float*>(uintptr_t{1} << 46), 1024, memory); };
      lane->submit(std::move(work)).wait();
    } catch (const Error& error) {
      message = error.what();
    }
    std::fprintf(stderr, "%s", message.c_str());
    std::_Exit(message.empty() ? 1 : 0);
  };
  EXPECT_EXIT(fault(), testing::ExitedWithCode(0), "reading nothing: .*cudaError");
}

TEST_F(EmulatedDevice, KernelsRefusePointersToRam) {
  auto kernels = device_->make_kernels(DType::kF32);
  auto* on_device = reinterpret_cast<float*>(device_->allocate(64));
  float in_ram[16] = {};
  EXPECT_DEATH(kernels->to_act(in_ram, 16, reinterpret_cast<std::byte*>(on_device)), "not a device address");
  EXPECT_DEATH(kernels->to_act(on_device, 16, reinterpret_cast<std::byte*>(in_ram)), "not a device address");
  EXPECT_DEATH(kernels->to_act(on_device, 17, reinterpret_cast<std::byte*>(on_device)), "pass the end of an allocation");
  const int32_t* positions = reinterpret_cast<const int32_t*>(on_device);
  EXPECT_DEATH(kernels->rope(on_device, 1, 1, 4, positions, {std::vector<float>{1, 1}}), "must lie in RAM");
}

TEST_F(EmulatedDevice, NobodyElseLooksBehindItsAddresses) {
  std::byte* memory = device_->allocate(64);
  EXPECT_DEATH(static_cast<volatile std::byte*>(memory)[0] = std::byte{1}, "");
  std::vector<std::byte> ram(128);
  EXPECT_DEATH(device_->make_copy_lane("h2d", nullptr)->submit(copy_work(ram.data(), ram.data() + 64, 64)).wait(), "one end of a copy lies in device memory");
  EXPECT_DEATH(device_->make_copy_lane("h2d", nullptr)->submit(copy_work(ram.data(), memory, 128)).wait(), "pass the end of an allocation");
}

TEST(Cuda, MakesADeviceOrSaysWhatIsMissing) {
  try {
    EXPECT_GT(make_cuda_device(0)->total_bytes(), 0);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()), "");
  }
}

}  // namespace
}  // namespace flexgen::emulated_device_test
