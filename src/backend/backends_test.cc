#include "backend/backends.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace flexgen::backends_test {
namespace {

TEST(Backends, AreFoundByName) {
  for (const char* name : {"cpu", "reference", "cuda", "emulated-gpu", "emulated-gpu-reference", "emulated-gpu-cuda"}) EXPECT_EQ(find_backend(name).name, name);
  EXPECT_EQ(find_backend("cpu").make_device, nullptr);
  EXPECT_EQ(find_backend("emulated-gpu").make_device(1, 1 << 20)->total_bytes(), 1 << 20);
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

}  // namespace
}  // namespace flexgen::backends_test
