// Pages that a window has moved past go back, and none before: the batcher's plans against what attention sees, and what a job takes with windows and without.

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "generation/batcher.h"
#include "generation/list_source.h"
#include "pipeline/simulate.h"
#include "plan/memory_plan.h"
#include "plan/policy_sizes.h"
#include "plan/workload.h"

namespace flexgen::window_pages_test {
namespace {

std::vector<Request> random_lengths(std::mt19937& random, int64_t count, int64_t longest_prompt, int64_t most_tokens) {
  std::vector<Request> requests(static_cast<size_t>(count));
  for (Request& request : requests) {
    request.prompt.resize(1 + random() % static_cast<uint64_t>(longest_prompt));
    request.params.max_tokens = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most_tokens));
    request.params.temperature = 0;
    request.params.ignore_eos = true;
  }
  return requests;
}

/// Two layers of three have a window; pages of 16 tokens.
std::unique_ptr<Model> model_of(int64_t window) {
  return Model::of_shape(
      parse_config(
          fmt::format(
              R"({{"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "head_dim": 128, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 300, "max_position_embeddings": 4096, "sliding_window": {}, "sliding_window_pattern": 3}})",
              window),
          "", "windows"),
      DType::kBF16);
}

/// What each page holds, as the plans write it: (sequence, position) of each of its tokens.
class WrittenPages {
 public:
  WrittenPages(const CacheLayout& layout, size_t state) : layout_(layout), state_(state) {}

  void write(int64_t batch, const SlotRows& slot, int64_t sequence) {
    for (int64_t at = slot.past; at < slot.past + slot.num_rows; ++at) token(batch, slot, at) = {sequence, at};
  }
  /// Whether all that the slot's rows see is there.
  bool holds(int64_t batch, const SlotRows& slot, int64_t sequence) {
    const int64_t window = layout_.groups[state_].state.window;
    for (int64_t at = window > 0 ? std::max<int64_t>(0, slot.past + 1 - window) : 0; at < slot.past + slot.num_rows; ++at)
      if (token(batch, slot, at) != std::pair(sequence, at)) return false;
    return true;
  }

 private:
  std::pair<int64_t, int64_t>& token(int64_t batch, const SlotRows& slot, int64_t position) {
    const SlotPages& pages = slot.pages[state_];
    const int64_t page = position / layout_.tokens_per_page - pages.first;
    return tokens_[{batch, pages.ids.at(static_cast<size_t>(page)), position % layout_.tokens_per_page}];
  }
  const CacheLayout& layout_;
  size_t state_;
  std::map<std::tuple<int64_t, int32_t, int64_t>, std::pair<int64_t, int64_t>> tokens_;
};

TEST(WindowPages, ARowFindsAllThatItSeesAndNoSlotHoldsMore) {
  std::mt19937 random(4);
  int64_t passed = 0;
  for (int round = 0; round < 40; ++round) {
    const auto window = static_cast<int64_t>(1 + random() % 70);
    const auto model = model_of(window);
    Policy policy;
    policy.micro_batch_size = 1 + static_cast<int64_t>(random() % 6);
    policy.num_micro_batches = 1 + static_cast<int64_t>(random() % 3);
    policy.max_rows = policy.micro_batch_size + static_cast<int64_t>(random() % 90);
    policy.max_logit_rows = policy.micro_batch_size;
    policy.pages_per_micro_batch = 16 + static_cast<int64_t>(random() % 40);  // a sequence has up to 16
    policy.kv_cache = {0, 0.4, 0.6};
    const CacheLayout layout(*model, policy, DType::kBF16);
    ASSERT_EQ(layout.groups.size(), 2U);
    ASSERT_EQ(layout.tokens_per_page, 16);
    ListSource source(random_lengths(random, 25, 130, 120));
    NoSink sink;
    Batcher batcher(*model, policy, layout, nullptr, {}, source, sink);
    std::vector<WrittenPages> written{{layout, 0}, {layout, 1}};
    std::map<std::pair<int64_t, int32_t>, int64_t> sequence_of;  // by its first page where none is given back
    int64_t started = 0;
    for (int64_t step = 0; !batcher.finished(); ++step)
      for (int64_t batch = 0; batch < policy.num_micro_batches; ++batch) {
        const std::shared_ptr<BatchPlan> plan = batcher.next(step, batch);
        if (!plan) continue;
        for (const SlotRows& slot : plan->slots) {
          int64_t& sequence = sequence_of[{batch, slot.pages[1].ids.front()}];
          if (slot.past == 0) sequence = ++started;
          for (WrittenPages& pages : written) pages.write(batch, slot, sequence);
        }
        for (const SlotRows& slot : plan->slots) {
          const int64_t sequence = sequence_of.at({batch, slot.pages[1].ids.front()});
          for (WrittenPages& pages : written)
            ASSERT_TRUE(pages.holds(batch, slot, sequence)) << "round " << round << " step " << step << " window " << window << " past " << slot.past;
          EXPECT_LE((std::ssize(slot.pages[0].ids) - 2) * 16 + 2, window - 1 + slot.num_rows);  // no page but sees one of them
          passed += slot.pages[0].first;
        }
      }
    EXPECT_EQ(started, 25);
    EXPECT_EQ(batcher.counters().sequences, 25);
  }
  EXPECT_GT(passed, 1000);
}

/// gemma-3-27b: 52 of 62 layers see 1024 tokens. Sequences of 8192 tokens, of which the plan's chunks are 512.
TEST(WindowPages, TheLayersOfGemma3With8192TokensHoldTheirWindow) {
  const ModelConfig config = parse_config(*shape_config_json("gemma-3-27b"), "", "shape");
  ModelConfig without = config;
  for (BlockAttention& block : without.attention) block.window = 0;
  const auto model = Model::of_shape(config, DType::kBF16), whole = Model::of_shape(without, DType::kBF16);
  Workload workload;
  for (int i = 0; i < 16; ++i) workload.add(8064, 128, false, false);
  const Policy policy = policy_of_sizes(*model, workload, DType::kBF16, 4, 1, 2, 512);
  const CacheLayout layout(*model, policy, DType::kBF16);
  ASSERT_EQ(layout.groups.size(), 2U);
  const CacheLayout::Group &windowed = layout.groups[0], &full = layout.groups[1];
  EXPECT_EQ(windowed.num_layers, 52);
  EXPECT_EQ(full.num_layers, 10);
  EXPECT_LE(windowed.num_pages() * layout.tokens_per_page, 4 * (1024 + 2 * layout.tokens_per_page) + 512);
  EXPECT_GE(full.num_pages() * layout.tokens_per_page, 4 * 8191);

  ListSource source(std::vector<Request>(5, [] {
    Request request;
    request.prompt.resize(8064);
    request.params.max_tokens = 128;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    return request;
  }()));
  NoSink sink;
  Batcher batcher(*model, policy, layout, nullptr, {}, source, sink);
  int64_t most = 0;
  for (int64_t step = 0; !batcher.finished(); ++step)
    if (const auto plan = batcher.next(step, 0)) {
      int64_t pages = 0;
      for (const SlotRows& slot : plan->slots) pages += std::ssize(slot.pages[0].ids);
      most = std::max(most, pages);
    }
  EXPECT_LE(most, windowed.num_pages());
  EXPECT_GE(most * layout.tokens_per_page, 4 * 1024);

  // Bytes, planned as the arenas take them: of each token of 16 x 128 keys and values 8 KiB a layer.
  const auto cache_bytes = [&](const Model& of) {
    const MemoryPlan plan = memory_plan(of, policy, workload, DType::kBF16);
    const auto item = std::find_if(plan.items.begin(), plan.items.end(), [](const MemoryItem& each) { return each.name == "KV cache"; });
    return item->bytes;
  };
  const int64_t token_bytes = 2 * 16 * 128 * 2 * layout.tokens_per_page;
  EXPECT_EQ(cache_bytes(*whole), 62 * full.num_pages() * token_bytes);
  EXPECT_EQ(cache_bytes(*model), (52 * windowed.num_pages() + 10 * full.num_pages()) * token_bytes);
  EXPECT_LT(static_cast<double>(cache_bytes(*model)), 0.32 * static_cast<double>(cache_bytes(*whole)));
}

}  // namespace
}  // namespace flexgen::window_pages_test
