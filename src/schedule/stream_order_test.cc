#include "schedule/stream_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <utility>

namespace flexgen::stream_order_test {
namespace {

using testing::ElementsAre;

/// embed, twice a block and three units of an expert each, a head.
std::unique_ptr<Model> mixture() {
  return Model::of_shape(
      parse_config(R"({"model_type": "olmoe", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4, "num_experts": 3,
    "num_experts_per_tok": 1, "vocab_size": 64, "max_position_embeddings": 64})",
                   "", "config.json"),
      DType::kBF16);
}

struct Streamed {
  Streamed(int64_t buffers, bool chooses) {
    std::vector<int64_t> layers(model->layers().size() - 1);
    std::iota(layers.begin(), layers.end(), 1);
    order = StreamOrder(*model, layers, buffers, chooses);
  }
  /// Takes what is known to come, `most` at most: (pass, layer).
  std::vector<std::pair<int64_t, int64_t>> take(int most) {
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (; most > 0 && order.next(); --most) {
      const StreamOrder::Object object = order.take();
      taken.emplace_back(object.pass, object.layer);
    }
    return taken;
  }
  std::unique_ptr<Model> model = mixture();
  StreamOrder order;
};

using P = std::pair<int64_t, int64_t>;

TEST(StreamOrder, TakesAllInOrder) {
  Streamed s(3, false);
  ASSERT_EQ(s.model->layers().size(), 10u);
  EXPECT_THAT(s.take(4), ElementsAre(P{0, 1}, P{0, 2}, P{0, 3}, P{0, 4}));
  s.order.begin_pass(0, false);
  EXPECT_THAT(s.take(6), ElementsAre(P{0, 5}, P{0, 6}, P{0, 7}, P{0, 8}, P{0, 9}, P{1, 1}));
  EXPECT_EQ(s.order.taken(), 10);
  EXPECT_EQ(s.order.number_of(0, 9), 8);
  EXPECT_EQ(s.order.number_of(1, 1), 9);
  EXPECT_EQ(s.order.number_of(0, 1), -1) << "another has its buffer";
  EXPECT_EQ(s.order.number_of(1, 2), -1) << "not taken yet";
  EXPECT_EQ(s.order.number_of(1, 0), -1) << "not streamed";
}

TEST(StreamOrder, TakesWhatIsChosen) {
  Streamed s(3, true);
  EXPECT_THAT(s.take(9), ElementsAre(P{0, 1})) << "it is not known which units";
  s.order.begin_pass(0, true);
  EXPECT_FALSE(s.order.next());
  s.order.choose(2, {false, true, false});
  EXPECT_THAT(s.take(9), ElementsAre(P{0, 3}, P{0, 5}));
  EXPECT_EQ(s.order.number_of(0, 2), -1);
  EXPECT_EQ(s.order.number_of(0, 3), 1);
  EXPECT_EQ(s.order.number_of(0, 5), 2) << "the ring has no gaps";
  s.order.choose(6, {false, false, true});
  EXPECT_THAT(s.take(9), ElementsAre(P{0, 8}, P{0, 9}, P{1, 1})) << "the next pass is taken for one that chooses too";
  s.order.begin_pass(1, false);
  EXPECT_THAT(s.take(3), ElementsAre(P{1, 2}, P{1, 3}, P{1, 4}));
}

/// Loads ahead of a pass that then chooses: what is there is there.
TEST(StreamOrder, APassThatTurnsOutToChoose) {
  Streamed s(3, false);
  s.order.begin_pass(0, false);
  EXPECT_THAT(s.take(11), testing::SizeIs(11));
  EXPECT_EQ(s.order.number_of(1, 2), 10);
  s.order.begin_pass(1, true);
  EXPECT_FALSE(s.order.next());
  s.order.choose(2, {true, false, true});
  EXPECT_EQ(s.order.number_of(1, 2), 10);
  EXPECT_THAT(s.take(9), ElementsAre(P{1, 4}, P{1, 5}));
  s.order.choose(6, {false, false, false});
  EXPECT_THAT(s.take(2), ElementsAre(P{1, 9}, P{2, 1}));
}

TEST(StreamOrder, OfNothing) {
  const auto model = mixture();
  StreamOrder order(*model, {}, 3, true);
  order.begin_pass(0, true);
  order.choose(2, {true, false, true});
  EXPECT_FALSE(order.next());
  EXPECT_EQ(order.number_of(0, 2), -1);
}

}  // namespace
}  // namespace flexgen::stream_order_test
