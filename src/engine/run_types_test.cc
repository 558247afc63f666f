// What a run's options mean for a model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/kernels.h"
#include "engine/run_types.h"
#include "io/test_folder.h"
#include "io/test_gguf.h"

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

TEST(RunTypes, MatricesAreMadeWhereTheFilesHaveAnotherType) {
  EngineOptions options;
  const auto made = [&](const char* type) {
    options.weight_dtype = type;
    return dtype_to_make(options, *fixture("llama"));  // in F32
  };
  EXPECT_EQ(made("auto"), std::nullopt);
  EXPECT_EQ(made("int4"), DType::kInt4);
  EXPECT_EQ(made("bf16"), DType::kBF16);
  EXPECT_EQ(weight_range_of(options), GroupRange::kMinMax);
  options.weight_quantization = "mse";
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { weight_range_of(options); }), testing::HasSubstr("--weight-quantization mse: the weights are not quantized"));
  options.weight_dtype = "int8";
  EXPECT_EQ(weight_range_of(options), GroupRange::kMse);
}

// llama-quantize --token-embedding-type f32: the first tensor of the file alone is wide.
TEST(RunTypes, TheMatricesOfBlocksDecideTheArithmetic) {
  TestFolder folder;
  TestGguf gguf;
  const auto tensor = [&](const std::string& name, const std::vector<uint64_t>& shape, bool wide) {
    const size_t rows = shape.size() > 1 ? shape[1] : 1;
    gguf.tensor(name, shape, wide ? 0 : 8, std::string(wide ? shape[0] * rows * 4 : shape[0] / 32 * 34 * rows, '\0'));
  };
  gguf.text("general.architecture", "llama").number("llama.embedding_length", 32).number("llama.block_count", 1).number("llama.feed_forward_length", 64);
  gguf.number("llama.context_length", 64).number("llama.attention.head_count", 2).real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  tensor("token_embd.weight", {32, 5}, true);
  for (const char* norm : {"output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"}) tensor(norm, {32}, true);
  for (const char* square : {"q", "k", "v", "output"}) tensor(fmt::format("blk.0.attn_{}.weight", square), {32, 32}, false);
  for (const char* wider : {"gate", "up"}) tensor(fmt::format("blk.0.ffn_{}.weight", wider), {32, 64}, false);
  tensor("blk.0.ffn_down.weight", {64, 32}, false);
  const auto model = Model::load(folder.put("m.gguf", gguf.bytes()));
  EXPECT_EQ(model->weights().front().dtype, DType::kF32);
  EngineOptions options;
  EXPECT_EQ(compute_dtype_of(options, *model), cpu_has_bf16() ? DType::kBF16 : DType::kF32);
  EXPECT_EQ(compute_dtype_of(options, *fixture("llama")), DType::kF32);
}

}  // namespace
}  // namespace flexgen::run_types_test
