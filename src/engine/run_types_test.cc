// What a run's options mean for a model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/run_types.h"
#include "io/test_folder.h"

namespace flexgen::run_types_test {
namespace {

std::unique_ptr<Model> fixture(const std::string& name) { return Model::load(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/" + name); }

TEST(RunTypes, ProductsInIntegersNeedAWeightForThem) {
  EngineOptions options;
  options.matmul_dtype = "int8";
  for (const char* shipped : {"quantized-gpt_oss", "quantized-mxfp4"}) EXPECT_NO_THROW(check_matmul_dtype(options, *fixture(shipped))) << shipped;
  // NVFP4 has a scale for 16 columns.
  for (const char* other : {"quantized-nvfp4", "quantized-packed4", "llama"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { check_matmul_dtype(options, *fixture(other)); }), testing::HasSubstr("of these there are none")) << other;
  options.weight_dtype = "int4";
  EXPECT_NO_THROW(check_matmul_dtype(options, *fixture("llama")));
  options.weight_dtype = "bf16";
  EXPECT_THROW(check_matmul_dtype(options, *fixture("quantized-gpt_oss")), Error);
}

}  // namespace
}  // namespace flexgen::run_types_test
