// The file of counts: added to, distrusted, of one model.

#include "engine/expert_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "io/test_folder.h"
#include "io/whole_file.h"

namespace flexgen::expert_statistics_test {
namespace {

using testing::HasSubstr;

/// Three blocks, the second of them dense.
ModelConfig config_of(int64_t experts = 4) {
  return parse_config(
      fmt::format(
          R"({{"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 1, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_experts": {}, "num_experts_per_tok": 2, "mlp_only_layers": [1], "vocab_size": 331, "max_position_embeddings": 256}})",
          experts),
      "", "config.json");
}

TEST(ExpertStatistics, AddUp) {
  const TestFolder folder;
  const std::string path = folder.path() / "made/experts.json";
  EXPECT_TRUE(read_expert_counts(path, config_of()).empty());
  add_expert_counts(path, config_of(), {{1, 2, 3, 4}, {}, {}});  // as a pipeline's first stage has it
  add_expert_counts(path, config_of(), {{}, {}, {5, 6, 7, 8}});
  add_expert_counts(path, config_of(), {{10, 0, 0, 0}, {}, {0, 0, 0, 10}});
  EXPECT_EQ(read_expert_counts(path, config_of()), (ExpertCounts{{11, 2, 3, 4}, {}, {5, 6, 7, 18}}));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { add_expert_counts(path, config_of(), {{1, 1, 1, 1}, {}, {1, 1, 1, 1}}); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_expert_counts(path, config_of()), (ExpertCounts{{19, 10, 11, 12}, {}, {13, 14, 15, 26}}));
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "made")) files += entry.exists();
  EXPECT_EQ(files, 1);
}

TEST(ExpertStatistics, AreDistrusted) {
  const TestFolder folder;
  const std::string path = folder.path() / "experts.json";
  auto error = [&](const std::string& text) {
    write_whole_file(path, text);
    return error_of(ErrorKind::kUser, [&] { read_expert_counts(path, config_of()); });
  };
  for (const char* text :
       {"", "{", "[1]", R"({"blocks": []})", R"({"format": 2, "blocks": [[], [], []]})", R"({"format": 1, "blocks": 3})",
        R"({"format": 1, "blocks": [[[[1]]], [], []]})", R"({"format": 1, "blocks": [1, [], []]})", R"({"format": 1, "blocks": [[1, 2, 3, -4], [], []]})",
        R"({"format": 1, "blocks": [[1, 2, 3, 0.5], [], []]})", R"({"format": 1, "blocks": [[1, 2, 3, 9223372036854775807], [], []]})"})
    EXPECT_THAT(error(text), HasSubstr("--expert-statistics " + path)) << text;
  for (const char* text : {R"({"format": 1, "blocks": [[1, 2, 3, 4], []]})", R"({"format": 1, "blocks": [[1, 2, 3], [], []]})",
                           R"({"format": 1, "blocks": [[], [1, 2, 3, 4], []]})"})
    EXPECT_THAT(error(text), HasSubstr("the counts are of another model (this one has 3 blocks and 4 experts)")) << text;
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { read_expert_counts(folder.path(), config_of()); }), HasSubstr(std::string(folder.path())));
}

TEST(ExpertStatistics, AreOfMixtures) {
  const auto dense = Model::of_shape(parse_config(*shape_config_json("opt-125m"), "", "opt-125m"), DType::kBF16);
  EngineOptions options;
  learn_expert_chances(options, *dense, true);
  options.expert_statistics_file = "experts.json";
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { learn_expert_chances(options, *dense, true); }),
              HasSubstr("--expert-statistics: this model (opt) is no mixture of experts"));
  options.expert_skew = 1;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { learn_expert_chances(options, *dense, true); }),
              HasSubstr("--expert-skew: this model (opt) is no mixture of experts"));
}

/// What was counted says more of a model than a law.
TEST(ExpertStatistics, CountsGoBeforeTheSkew) {
  const TestFolder folder;
  EngineOptions options;
  options.expert_skew = 1;
  options.expert_statistics_file = folder.path() / "experts.json";
  const auto model = Model::of_shape(config_of(), DType::kBF16);
  learn_expert_chances(options, *model, false);
  EXPECT_FALSE(model->expert_chances()->are_counted());
  EXPECT_EQ(model->config().mixture.drawn, nullptr);
  add_expert_counts(options.expert_statistics_file, config_of(), no_counts(*model));
  learn_expert_chances(options, *model, true);
  EXPECT_TRUE(model->expert_chances()->are_counted());
  ASSERT_NE(model->config().mixture.drawn, nullptr);
  EXPECT_FALSE(model->config().mixture.drawn->are_counted());
}

}  // namespace
}  // namespace flexgen::expert_statistics_test
