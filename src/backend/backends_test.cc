#include "backend/backends.h"
#include "backend/cuda_status.h"
#include "backend/device_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace flexgen::backends_test {
namespace {

TEST(Backends, AreFoundByName) {
  for (const char* name : {"cpu", "reference", "cuda", "emulated-gpu", "emulated-gpu-reference", "emulated-gpu-cuda"}) EXPECT_EQ(find_backend(name).name, name);
  EXPECT_EQ(find_backend("cpu").make_device, nullptr);
  EXPECT_EQ(find_backend("emulated-gpu").make_device(1, 1 << 20, 0)->total_bytes(), 1 << 20);
}

TEST(Backends, ATypeIsKeptOrRefused) {
  EXPECT_TRUE(find_backend("reference").in_fp32_alone);
  EXPECT_EQ(find_backend("reference").make_processor_kernels({1, DType::kF32})->act_dtype(), DType::kF32);
  EXPECT_EQ(find_backend("emulated-gpu-reference").make_processor_kernels({1, DType::kF32})->name(), "reference") << "the processor beside it rounds alike";
}

TEST(Backends, OthersAreRefusedByName) {
  try {
    find_backend("tpu");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUser);
    EXPECT_THAT(error.what(), testing::HasSubstr("--backend tpu: there are cpu, reference and cuda"));
  }
}

/// tools/gpu_check goes by how these begin.
TEST(Devices, ATestIsLeftOutWhereTheGpuDoesNotMultiplyItsType) {
  const CudaStatus turing{.devices = {"Tesla T4, compute capability 7.5, 15 GiB"}, .capabilities = {75}}, ampere{.devices = {"A100"}, .capabilities = {80}};
  EXPECT_EQ(why_not_tested(turing, DType::kBF16), "needs compute capability 8.0: Tesla T4, compute capability 7.5, 15 GiB does not multiply bf16");
  EXPECT_EQ(why_not_tested(turing, DType::kF16), "");
  EXPECT_EQ(why_not_tested(ampere, DType::kBF16), "");
  EXPECT_EQ(why_not_tested({.problem = "no driver"}, DType::kF16), "needs a GPU: no driver");
}

TEST(Devices, AreDealtOutInTurn) {
  const auto share = [](int number, int of, int devices) {
    const DeviceShare dealt = share_of_devices({number, of}, devices);
    return std::pair(dealt.ordinal, dealt.sharers);
  };
  EXPECT_EQ(share(0, 1, 1), std::pair(0, 1));
  EXPECT_EQ(share(0, 1, 8), std::pair(0, 1));
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(share(rank, 4, 4), std::pair(rank, 1));
    EXPECT_EQ(share(rank, 4, 1), std::pair(0, 4));
    EXPECT_EQ(share(rank, 4, 0), std::pair(0, 1)) << "what is missing is said where the device is made";
    EXPECT_EQ(share(rank, 4, 3), std::pair(rank % 3, rank % 3 == 0 ? 2 : 1));
  }
}

}  // namespace
}  // namespace flexgen::backends_test
