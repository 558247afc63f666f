#include "pipeline/stage_split.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>

#include "base/error.h"

namespace flexgen {

std::vector<int64_t> split_blocks(const Model& model, std::span<const StageResources> ranks, double rows) {
  const int64_t num_blocks = model.num_blocks();
  const size_t count = ranks.size();
  if (static_cast<int64_t>(count) > num_blocks)
    fail_user("{} pipeline stages for a model of {} blocks: each needs one at least; start fewer, or make replicas with --pipeline-stages", count, num_blocks);
  // Bytes and products of a block, and of what comes before the first and after the last.
  double block_bytes = 0, block_flops = 0, head_bytes = 0, head_flops = 0;
  for (int64_t i = 0; i < std::ssize(model.layers()); ++i) {
    const LayerSpec& layer = model.layers()[static_cast<size_t>(i)];
    const double bytes = model.weight_bytes(i);
    if (layer.kind != LayerKind::kEmbed && layer.kind != LayerKind::kHead)
      block_bytes += bytes / static_cast<double>(num_blocks), block_flops += layer.linear_flops_per_row / static_cast<double>(num_blocks);
    if (layer.kind == LayerKind::kHead) head_bytes += bytes, head_flops += layer.linear_flops_per_row;
  }
  auto time_s = [&](size_t rank, int64_t blocks) {
    const StageResources& own = ranks[rank];
    double bytes = static_cast<double>(blocks) * block_bytes, flops = static_cast<double>(blocks) * block_flops * rows;
    // Prompts want no logits, so the head's rows are fewer: half is a guess between none and all.
    if (rank + 1 == count) bytes += head_bytes, flops += head_flops * rows / 2;
    return std::max(flops / own.flops_per_s, std::max(0.0, bytes - static_cast<double>(own.cpu_bytes)) / own.disk_bytes_per_s);
  };
  // Each block goes where the time is least with it: times only grow with blocks, so the slowest rank ends as fast as any split allows.
  std::vector<int64_t> split(count, 1);
  for (int64_t left = num_blocks - static_cast<int64_t>(count); left > 0; --left) {
    size_t best = 0;
    for (size_t rank = 1; rank < count; ++rank)
      if (std::tuple(time_s(rank, split[rank] + 1), split[rank]) < std::tuple(time_s(best, split[best] + 1), split[best])) best = rank;
    ++split[best];
  }
  return split;
}

std::vector<int64_t> parse_split(const std::string& text, const char* flag, int64_t num_ranks, int64_t num_blocks) {
  std::vector<int64_t> split;
  const char *at = text.data(), *end = at + text.size();
  bool good = true;
  while (good) {
    int64_t blocks = 0;
    auto [rest, error] = std::from_chars(at, end, blocks);
    good = error == std::errc() && blocks > 0;
    if (good) split.push_back(blocks);
    if (!good || rest == end) break;
    good = *rest == ':';
    at = rest + 1;
  }
  if (!good) fail_user("{} {}: give the blocks of each pipeline stage, like 10:22, each above 0", flag, text);
  if (static_cast<int64_t>(split.size()) != num_ranks)
    fail_user("{} {}: that is {} stages, but there are {}; give one number a stage", flag, text, split.size(), num_ranks);
  if (const int64_t sum = std::accumulate(split.begin(), split.end(), int64_t{0}); sum != num_blocks)
    fail_user("{} {}: the numbers add up to {}, but the model has {} blocks", flag, text, sum, num_blocks);
  return split;
}

BlockShape agreed_block(std::span<const BlockShape> wishes) {
  FLEXGEN_CHECK(!wishes.empty());
  BlockShape agreed = *std::min_element(wishes.begin(), wishes.end(), [](const BlockShape& a, const BlockShape& b) {
    auto size = [](const BlockShape& shape) {
      return std::tuple(shape.micro_batch_size * shape.num_micro_batches, shape.max_rows * shape.num_micro_batches, shape.pages_per_micro_batch);
    };
    return size(a) < size(b);
  });
  for (const BlockShape& wish : wishes) agreed.num_groups = std::min({agreed.num_groups, wish.num_groups, agreed.num_micro_batches});
  return agreed;
}

BlockShape smallest_block(std::span<const BlockShape> wishes) {
  FLEXGEN_CHECK(!wishes.empty());
  BlockShape smallest = wishes.front();
  for (const BlockShape& wish : wishes)
    for (int64_t BlockShape::*size : {&BlockShape::micro_batch_size, &BlockShape::num_micro_batches, &BlockShape::max_rows, &BlockShape::max_logit_rows,
                                      &BlockShape::pages_per_micro_batch, &BlockShape::num_groups})
      smallest.*size = std::min(smallest.*size, wish.*size);
  smallest.prefix_pages = smallest.prefix_ends = 0;
  return smallest;
}

}  // namespace flexgen
