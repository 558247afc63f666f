#pragma once
// WalkedPages: the pages of a slot in the layers of one state, and the pool that they are from, in numbers alone: as Batcher and PagePool have them. One thread.

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>

#include "base/units.h"
#include "schedule/cache_store.h"
#include "schedule/page_shares.h"

namespace flexgen {

/// Pages of one layer that a visit moves, each both ways: those that hold tokens from before, and those that it writes to.
struct PageMoves {
  double old_disk = 0, dirty_disk = 0;
  double old_host = 0, dirty_host = 0;  ///< those in RAM beside a GPU
  double passing() const { return old_disk + dirty_disk + old_host + dirty_host; }
};
inline constexpr double PageMoves::*kPageMoves[] = {&PageMoves::old_disk, &PageMoves::dirty_disk, &PageMoves::old_host, &PageMoves::dirty_host};

/// A micro-batch's free pages in each share; where one of its slots stands for `scale`, so many fewer.
struct WalkedPool {
  using Counts = std::array<int64_t, CacheLayout::kNumShares>;
  Counts sizes{}, free{};
  WalkedPool(const CacheLayout::Group& group, int64_t scale) : sizes(group.own), free{group.own[0] / scale, group.own[1] / scale, 0} {
    free[2] = ceil_div(group.num_pages(), scale) - free[0] - free[1];
  }

  /// As PagePool::take().
  Counts take(int64_t count) {
    Counts taken{};
    take_from_shares(count, sizes, free, taken);
    for (size_t share = 0; share < free.size(); ++share) free[share] -= taken[share];
    return taken;
  }
  /// As PagePool::take_one(); a pool that rounding has left too small lends one.
  uint8_t take_one() {
    for (size_t share = 0; share < free.size(); ++share)
      if (free[share] > 0) {
        --free[share];
        return static_cast<uint8_t>(share);
      }
    const uint8_t slowest = sizes[2] > 0 ? 2 : sizes[1] > 0 ? 1 : 0;
    --free[slowest];
    return slowest;
  }
  void give_back(const Counts& pages) {
    for (size_t share = 0; share < free.size(); ++share) free[share] += pages[share];
  }
};

class WalkedPages {
 public:
  /// Of a sequence that would have `pages` pages of its own in the end, after those of its prefix.
  WalkedPages(const CacheLayout::Group& group, int64_t page_tokens, int64_t prefix, int64_t pages, WalkedPool& pool)
      : group_(&group), page_tokens_(page_tokens), prefix_(prefix), first_(prefix) {
    const int64_t count = group.state.end_page((prefix + pages) * page_tokens, page_tokens) - prefix;
    takes_all_ = group.state.takes_all_at_start(count, page_tokens);
    if (takes_all_) held_ = pool.take(count);
  }

  /// What a step moves whose rows are [past, past + rows): adds to `moves`, and to the pages, wherever they are, that it reads and writes.
  void advance(int64_t past, int64_t rows, WalkedPool& pool, PageMoves& moves, double* old_pages, double* dirty_pages) {
    const StateSpec& state = group_->state;
    const int64_t first = own(state.first_page(past, page_tokens_)), old_end = past > 0 ? own(state.end_page(past, page_tokens_)) : 0,
                  end = own(state.end_page(past + rows, page_tokens_));
    // The first that is not full before; of those that it writes none is written back that no later step sees.
    int64_t dirty = state.kind == StateSpec::Kind::kFixed ? 0 : own(past / page_tokens_);
    dirty = std::min(end, std::max(dirty, own(state.first_page(past + rows, page_tokens_))));
    if (takes_all_) {
      // The first pages are on disk, the next in RAM beside a GPU.
      const auto on_disk = [&](int64_t count) { return static_cast<double>(std::min(held_[2], count)); };
      const auto on_host = [&](int64_t count) { return static_cast<double>(std::clamp<int64_t>(count - held_[2], 0, held_[1])); };
      moves.old_disk += on_disk(old_end) - on_disk(first);
      moves.old_host += on_host(old_end) - on_host(first);
      moves.dirty_disk += on_disk(end) - on_disk(dirty);
      moves.dirty_host += on_host(end) - on_host(dirty);
    } else {
      pass(past, pool);
      moves.old_disk += static_cast<double>(held_[2]);
      moves.old_host += static_cast<double>(held_[1]);
      while (own(first_) + std::ssize(shares_) < end) {
        shares_.push_back(pool.take_one());
        ++held_[shares_.back()];
      }
      for (int64_t page = dirty; page < end; ++page) {
        const uint8_t share = shares_[static_cast<size_t>(page - own(first_))];
        moves.dirty_disk += share == 2 ? 1 : 0;
        moves.dirty_host += share == 1 ? 1 : 0;
      }
    }
    *old_pages += static_cast<double>(old_end - first);
    *dirty_pages += static_cast<double>(end - dirty);
  }
  /// Pages that the row at `past` does not see, nor any later one, go back.
  void pass(int64_t past, WalkedPool& pool) {
    if (takes_all_) return;
    for (const int64_t seen = group_->state.first_page(past, page_tokens_); first_ < seen && !shares_.empty(); ++first_) {
      ++pool.free[shares_.front()];
      --held_[shares_.front()];
      shares_.pop_front();
    }
  }
  void give_back(WalkedPool& pool) { pool.give_back(held_); }

 private:
  /// Of the slot's pages up to `page`, its own.
  int64_t own(int64_t page) const { return std::max<int64_t>(0, page - prefix_); }

  const CacheLayout::Group* group_;
  int64_t page_tokens_, prefix_;
  bool takes_all_ = true;
  WalkedPool::Counts held_{};  ///< in each share
  int64_t first_;              ///< of a window that moves on: the page that `shares_` begins with
  std::deque<uint8_t> shares_;
};

}  // namespace flexgen
