// Pages that a window has moved past go back, and none before: the batcher's plans against what attention sees, and what a job takes with windows and without.

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "generation/batcher.h"
#include "generation/list_source.h"
#include "generation/share_requests.h"
#include "generation/test_params.h"
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

/// Bytes, planned as the arenas take them.
int64_t cache_bytes(const Model& model, const Policy& policy, const Workload& workload) {
  const MemoryPlan plan = memory_plan(model, policy, workload, DType::kBF16);
  return std::find_if(plan.items.begin(), plan.items.end(), [](const MemoryItem& each) { return each.name == "KV cache"; })->bytes;
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

  // Of each token of 16 x 128 keys and values 8 KiB a layer.
  const int64_t page_bytes = 2 * 16 * 128 * 2 * layout.tokens_per_page, with = cache_bytes(*model, policy, workload),
                without_windows = cache_bytes(*whole, policy, workload);
  EXPECT_EQ(without_windows, 62 * full.num_pages() * page_bytes);
  EXPECT_EQ(with, (52 * windowed.num_pages() + 10 * full.num_pages()) * page_bytes);
  EXPECT_LT(static_cast<double>(with), 0.32 * static_cast<double>(without_windows));
}

/// What each page holds of sequences that share prefixes: of each of its tokens a number that all tokens up to it make. In layers without a window it is made of what these say of the token before.
class SharedPages {
 public:
  explicit SharedPages(const CacheLayout& layout) : layout_(layout) {}

  static uint64_t next(uint64_t before, int32_t token) { return (before + 1 + static_cast<uint64_t>(token)) * 0x9e3779b97f4a7c15; }
  void write(const BatchPlan& plan, const SlotRows& slot) {
    for (int64_t row = 0; row < slot.num_rows; ++row) {
      const int64_t at = slot.past + row;
      const uint64_t before = at > 0 ? token(kWhole, plan.batch, slot, at - 1) : 0;
      for (size_t state : {kWindow, kWhole}) token(state, plan.batch, slot, at) = next(before, plan.tokens[static_cast<size_t>(slot.first_row + row)]);
    }
  }
  /// Whether all that the slot's rows see in layers with a window is what it is without.
  bool agree(const BatchPlan& plan, const SlotRows& slot) {
    const int64_t window = layout_.groups[kWindow].state.window;
    for (int64_t at = std::max<int64_t>(0, slot.past + 1 - window); at < slot.past + slot.num_rows; ++at)
      if (token(kWindow, plan.batch, slot, at) != token(kWhole, plan.batch, slot, at)) return false;
    return true;
  }
  uint64_t last(const BatchPlan& plan, const SlotRows& slot) { return token(kWhole, plan.batch, slot, slot.past + slot.num_rows - 1); }

 private:
  static constexpr size_t kWindow = 0, kWhole = 1;
  uint64_t& token(size_t state, int64_t batch, const SlotRows& slot, int64_t position) {
    const SlotPages& pages = slot.pages[state];
    const int32_t id = pages.ids.at(static_cast<size_t>(position / layout_.tokens_per_page - pages.first));
    return tokens_[{state, layout_.place_of(static_cast<int64_t>(state), batch, id), position % layout_.tokens_per_page}];
  }
  const CacheLayout& layout_;
  std::map<std::tuple<size_t, CacheLayout::Place, int64_t>, uint64_t> tokens_;
};

/// Prefixes within prefixes in layers with and without a window: all is shared as without windows, rows find what they see, and layers with a window have room for the ends of prefixes alone. Where there is less room still,
/// or nobody knows where prefixes end, the answers to the same questions are right as well.
TEST(WindowPages, OfPrefixesTheEndsAreKept) {
  std::mt19937 random(6);
  int64_t shared_tokens = 0, fewer_pages = 0;
  for (int round = 0; round < 60; ++round) {
    const auto window = static_cast<int64_t>(1 + random() % 70);
    const auto model = model_of(window);
    std::vector<Request> requests = related_requests(random, 10 + random() % 20, 16, 24);
    for (Request& request : requests) {
      request.params = SamplingParams{};
      request.params.max_tokens = 1 + static_cast<int64_t>(random() % 60);
      request.params.temperature = 0;
      request.params.ignore_eos = true;
    }
    const Workload workload = share_prefixes(requests, 16);
    std::set<uint64_t> ends_of_prompts;
    for (const Request& request : requests) {
      uint64_t all = 0;
      for (int32_t token : request.prompt) ends_of_prompts.insert(all = SharedPages::next(all, token));
    }
    const int64_t slots = 1 + static_cast<int64_t>(random() % 6);
    Policy policy =
        policy_of_sizes(*model, workload, DType::kBF16, slots, 1 + static_cast<int64_t>(random() % 3), 2, slots + static_cast<int64_t>(random() % 90));
    const bool has_room = round % 3 > 0;
    if (has_room) {  // for all prefixes of the job
      Policy whole = policy;
      whole.micro_batch_size = std::ssize(requests);
      policy.prefix_pages = whole.prefix_pages = prefix_pages(workload, 16, workload.num_sequences);
      policy.prefix_ends = prefix_ends(workload, 16, whole);
    } else if (round % 2) {
      policy.prefix_ends = 1 + static_cast<int64_t>(random() % 2);
      if (round % 4 == 1) requests[random() % requests.size()].shared_ends.clear();
    }
    policy.kv_cache = {0, 0.4, 0.6};
    const CacheLayout layout(*model, policy, DType::kBF16);
    const CacheLayout::Group& windowed = layout.groups[0];
    ASSERT_EQ(layout.groups[1].prefix_pages(), policy.prefix_pages);
    fewer_pages += layout.groups[1].prefix_pages() - windowed.prefix_pages();
    ListSource source(requests);
    NoSink sink;
    Batcher batcher(*model, policy, layout, nullptr, {}, source, sink);
    SharedPages pages(layout);
    for (int64_t step = 0; !batcher.finished(); ++step)
      for (int64_t batch = 0; batch < policy.num_micro_batches; ++batch) {
        const std::shared_ptr<BatchPlan> plan = batcher.next(step, batch);
        if (!plan) continue;
        for (const SlotRows& slot : plan->slots) pages.write(*plan, slot);
        for (const SlotRows& slot : plan->slots) {
          ASSERT_TRUE(pages.agree(*plan, slot)) << "round " << round << " step " << step << " window " << window << " past " << slot.past;
          if (slot.past + slot.num_rows <= slot.dense_until) {
            ASSERT_TRUE(ends_of_prompts.contains(pages.last(*plan, slot))) << "round " << round << " step " << step;
          }
          for (const int32_t id : slot.pages[0].ids) ASSERT_LT(id, windowed.num_pages() + windowed.prefix_pages());
          EXPECT_LE((std::ssize(slot.pages[0].ids) - 2) * 16 + 2, window - 1 + slot.num_rows);
        }
      }
    EXPECT_EQ(batcher.counters().sequences, std::ssize(requests));
    if (has_room) {
      EXPECT_EQ(static_cast<double>(batcher.counters().shared_prompt_tokens), workload.total_shared_tokens) << "round " << round;
    }
    shared_tokens += batcher.counters().shared_prompt_tokens;
  }
  EXPECT_GT(shared_tokens, 20000);
  EXPECT_GT(fewer_pages, 500);
}

/// Two prefixes of 7168 tokens of which 52 layers of 62 see the last 1023: what is planned for them, to the byte, and that it does.
TEST(WindowPages, TheLayersOfGemma3KeepTheLastWindowOfAPrefix) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("gemma-3-27b"), "", "shape"), DType::kBF16);
  constexpr int64_t kPrefix = 7168, kPage = 16;
  std::vector<Request> requests(16);
  for (size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    request.prompt.assign(8064, i < 8 ? 1 : 2);
    for (int64_t at = kPrefix; at < 8064; ++at) request.prompt[static_cast<size_t>(at)] = static_cast<int32_t>(10 + i);
    request.params.max_tokens = 128;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
  }
  const Workload workload = share_prefixes(requests, kPage);
  ASSERT_EQ(workload.total_shared_tokens, 14 * kPrefix);
  Policy policy = policy_of_sizes(*model, workload, DType::kBF16, 4, 1, 2, 512);
  EXPECT_EQ(policy.prefix_ends, 2);
  const CacheLayout layout(*model, policy, DType::kBF16);
  ASSERT_EQ(layout.tokens_per_page, kPage);
  const CacheLayout::Group &windowed = layout.groups[0], &full = layout.groups[1];
  EXPECT_EQ(full.prefix_pages(), 2 * kPrefix / kPage);
  EXPECT_EQ(windowed.prefix_pages(), 2 * 1024 / kPage);

  const int64_t page_bytes = 2 * 16 * 128 * 2 * kPage, planned = cache_bytes(*model, policy, workload);
  EXPECT_EQ(planned, (52 * (windowed.num_pages() + 128) + 10 * (full.num_pages() + 896)) * page_bytes);
  Policy all = policy;
  all.prefix_ends = 0;
  EXPECT_EQ(cache_bytes(*model, all, workload) - planned, 52 * (896 - 128) * page_bytes);

  ListSource source(requests);
  NoSink sink;
  Batcher batcher(*model, policy, layout, nullptr, {}, source, sink);
  std::set<int32_t> used;
  for (int64_t step = 0; !batcher.finished(); ++step)
    if (const auto plan = batcher.next(step, 0))
      for (const SlotRows& slot : plan->slots)
        for (const int32_t id : slot.pages[0].ids)
          if (windowed.is_prefix(id)) used.insert(id);
  EXPECT_EQ(std::ssize(used), 128);
  EXPECT_EQ(batcher.counters().shared_prompt_tokens, 14 * kPrefix);
}

/// Keeping the ends of prefixes takes no more than keeping them whole: else they are kept whole.
TEST(WindowPages, EndsOfPrefixesTakeNoMoreThanWholeOnes) {
  std::mt19937 random(31);
  int64_t num_saved = 0, num_whole = 0;
  for (const int64_t window : {40, 200, 700}) {
    const auto model = model_of(window);
    for (int round = 0; round < 300; ++round) {
      Policy policy;
      policy.micro_batch_size = 1 + static_cast<int64_t>(random() % 64);
      policy.num_micro_batches = 1 + static_cast<int64_t>(random() % 8);
      policy.max_rows = 16 + static_cast<int64_t>(random() % 2000);
      policy.pages_per_micro_batch = policy.micro_batch_size * (1 + static_cast<int64_t>(random() % 20));
      policy.prefix_pages = 1 + static_cast<int64_t>(random() % 2000);
      policy.prefix_ends = 1 + static_cast<int64_t>(random() % 40);
      Policy whole = policy;
      whole.prefix_ends = 0;
      const auto pages_of = [&](const Policy& of) {
        const CacheLayout layout(*model, of, DType::kBF16);
        int64_t pages = 0;
        for (const CacheLayout::Group& group : layout.groups) {
          pages += group.num_layers * layout.num_batches * group.num_pages();
          for (const int64_t share : group.prefix) pages += group.num_layers * share;
        }
        return pages;
      };
      const int64_t with_ends = pages_of(policy), all = pages_of(whole);
      ASSERT_LE(with_ends, all) << "window " << window << ", round " << round;
      (with_ends < all ? num_saved : num_whole) += 1;
    }
  }
  EXPECT_GT(num_saved, 100);
  EXPECT_GT(num_whole, 100);
}

}  // namespace
}  // namespace flexgen::window_pages_test
