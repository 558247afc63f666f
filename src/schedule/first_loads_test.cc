// Every layer is given once, the embedding's first, and each before what needs it.

#include "schedule/first_loads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace flexgen::first_loads_test {
namespace {

std::vector<int64_t> given(std::span<const int64_t> layers) { return {layers.begin(), layers.end()}; }

/// embed, four blocks, one head.
std::unique_ptr<Model> small_model(bool tied) {
  const std::string config = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "eos_token_id": 5, "bos_token_id": 1, "tie_word_embeddings": )" +
                             std::string(tied ? "true}" : "false}");
  return Model::of_shape(parse_config(config, "", "test"), DType::kBF16);
}

TEST(FirstLoads, AllAtOnceWhereNothingStreams) {
  const auto model = small_model(false);
  ASSERT_EQ(model->layers().size(), 6u);
  FirstLoads loads(*model, {});
  EXPECT_THAT(given(loads.at_start()), testing::ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_TRUE(loads.before_visit(3).empty());
  EXPECT_TRUE(loads.all().empty());
}

TEST(FirstLoads, EachLayerJustBeforeItsStreamedRows) {
  const auto model = small_model(false);
  FirstLoads loads(*model, {1, 2, 4});
  EXPECT_THAT(given(loads.at_start()), testing::ElementsAre(0, 1));
  EXPECT_TRUE(loads.before_lookup().empty());
  EXPECT_TRUE(loads.before_streaming(0).empty());
  EXPECT_THAT(given(loads.before_streaming(1)), testing::ElementsAre(2));
  EXPECT_TRUE(loads.before_visit(1).empty());
  EXPECT_THAT(given(loads.before_streaming(2)), testing::ElementsAre(3, 4, 5));  // the last loads the rest
  EXPECT_TRUE(loads.before_streaming(3).empty());                                // the second pass
}

TEST(FirstLoads, ATiedHeadComesWithTheTable) {
  const auto model = small_model(true);
  FirstLoads loads(*model, {3});
  EXPECT_THAT(given(loads.lookup_layers()), testing::ElementsAre(0, 5));
  EXPECT_THAT(given(loads.before_lookup()), testing::ElementsAre(0, 5));
  EXPECT_THAT(given(loads.before_visit(2)), testing::ElementsAre(1, 2));
  EXPECT_THAT(given(loads.all()), testing::ElementsAre(3, 4));
}

}  // namespace
}  // namespace flexgen::first_loads_test
