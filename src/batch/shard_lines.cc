#include "batch/shard_lines.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace flexgen {

ShardSplit::ShardSplit(int64_t num_shards, const std::string& directory)
    : num_shards_(num_shards), order_({directory, "the order of the lines"}), in_turns_(static_cast<size_t>(num_shards)),
      last_(static_cast<size_t>(num_shards), -1) {}

void ShardSplit::add(int64_t line, const LineCost& cost) {
  const int64_t place = order_.size(), shared = place > 0 ? cost.shared : 0;
  while (!least_.empty() && least_.back().shared >= shared) least_.pop_back();
  least_.push_back({place, shared});
  const auto shard = static_cast<size_t>(line % num_shards_);
  in_turns_[shard] += cost.tokens - (last_[shard] < 0 ? 0 : least_shared_after(last_[shard]));
  last_[shard] = place;
  tokens_ += cost.tokens - shared;
  any_shared_ = any_shared_ || shared > 0;
  order_.push_back({line, {cost.tokens, shared}});
}

/// What a line has in common with the last one is the least of what neighbours between have.
int64_t ShardSplit::least_shared_after(int64_t place) const {
  return std::find_if(least_.begin(), least_.end(), [&](const Least& least) { return least.place > place; })->shared;
}

void ShardSplit::settle() {
  slowest_in_turns_ = *std::max_element(in_turns_.begin(), in_turns_.end());
  if (!any_shared_) return;
  slowest_piece_ = cut_pieces();
  by_pieces_ = slowest_piece_ < slowest_in_turns_;
}

/// Cuts where it costs least: what is shared there is computed twice, and a piece that is larger than its share takes longer. Returns the tokens of the largest.
int64_t ShardSplit::cut_pieces() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> lost(static_cast<size_t>(num_shards_) + 1, kNone);
  cuts_.assign(static_cast<size_t>(num_shards_) + 1, order_.size());
  cuts_.front() = 0;
  int64_t before = 0;
  for (int64_t place = 0; place < order_.size(); ++place) {
    const LineCost cost = order_[place].cost;
    const auto cut =
        static_cast<int64_t>(std::llround(static_cast<double>(before) * static_cast<double>(num_shards_) / static_cast<double>(std::max<int64_t>(1, tokens_))));
    if (cut > 0 && cut < num_shards_) {
      const auto ideal = static_cast<int64_t>(static_cast<double>(tokens_) * static_cast<double>(cut) / static_cast<double>(num_shards_));
      const int64_t loses = cost.shared + std::abs(before - ideal);
      if (loses < lost[static_cast<size_t>(cut)]) {
        lost[static_cast<size_t>(cut)] = loses;
        cuts_[static_cast<size_t>(cut)] = place;
      }
    }
    before += cost.tokens - cost.shared;
  }
  // A line may be larger than a share: the shard before it has nothing.
  for (int64_t cut = num_shards_ - 1; cut > 0; --cut)
    cuts_[static_cast<size_t>(cut)] = std::min(cuts_[static_cast<size_t>(cut)], cuts_[static_cast<size_t>(cut) + 1]);
  int64_t largest = 0;
  for (size_t shard = 0; shard + 1 < cuts_.size(); ++shard) {
    int64_t tokens = 0;
    for (int64_t place = cuts_[shard]; place < cuts_[shard + 1]; ++place) {
      const LineCost cost = order_[place].cost;
      tokens += cost.tokens - (place > cuts_[shard] ? cost.shared : 0);
    }
    largest = std::max(largest, tokens);
  }
  return largest;
}

void ShardSplit::lines_of(int64_t shard, const std::function<void(int64_t line)>& take) {
  if (by_pieces_) {
    for (int64_t place = cuts_[static_cast<size_t>(shard)]; place < cuts_[static_cast<size_t>(shard) + 1]; ++place) take(order_[place].line);
  } else {
    for (int64_t line = shard; line < order_.size(); line += num_shards_) take(line);
  }
}

LineSet lines_of_shard(const BatchInput& input, const Shard& shard, const std::string& directory) {
  LineSet lines(directory);
  if (shard.count == 1) {
    for (int64_t line = 0; line < input.num_lines(); ++line) lines.add(true);
    return lines;
  }
  ShardSplit split(shard.count, directory);
  int64_t last_same_as = -1;
  input.in_shared_order([&](const PlacedPrompt& placed) {
    const InputLine line = input.line_anywhere(placed.prompt);
    const int64_t tokens = (line.prompt_tokens + line.num_sequences * line.max_tokens) / line.copies - line.inside_shared;
    // Equal lines are computed once.
    const bool same = line.same_as >= 0 && line.same_as == last_same_as;
    split.add(placed.prompt, {tokens, same ? tokens : placed.shared_tokens});
    last_same_as = line.same_as;
  });
  split.settle();
  RecordSorter<int64_t> places({directory, "the list of lines to do"});
  split.lines_of(shard.index, [&](int64_t line) { places.add(line); });
  places.drain([&](int64_t line) {
    while (lines.num_lines() < line) lines.add(false);
    lines.add(true);
    return true;
  });
  while (lines.num_lines() < input.num_lines()) lines.add(false);
  return lines;
}

}  // namespace flexgen
