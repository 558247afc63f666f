#pragma once
// WalkedPages: the pages of a slot in the layers of one state, and the pool that they are from, in numbers alone. One thread.

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/units.h"
#include "schedule/cache_store.h"
#include "schedule/held_pages.h"
#include "schedule/page_shares.h"

namespace flexgen {

/// Pages of one layer that a visit moves, each both ways: those that hold tokens from before, and those that it writes to.
struct PageMoves {
  double old_disk = 0, dirty_disk = 0;
  double old_host = 0, dirty_host = 0;  ///< those in RAM beside a GPU
  double passing() const { return old_disk + dirty_disk + old_host + dirty_host; }
};
inline constexpr double PageMoves::*kPageMoves[] = {&PageMoves::old_disk, &PageMoves::dirty_disk, &PageMoves::old_host, &PageMoves::dirty_host};

/// Pages in the order of positions, of which only the shares are known: as runs of one share each.
class CountedPages {
 public:
  int64_t size() const { return size_; }
  void add(size_t share, int64_t count) {
    if (count <= 0) return;
    size_ += count;
    if (!runs_.empty() && runs_.back().share == share) runs_.back().count += count;
    else runs_.push_back({share, count});
  }
  /// Takes the first `count` off and tells `take(share, count)` of each run.
  template <class Take>
  void take_off(int64_t count, Take take) {
    size_ -= count;
    auto run = runs_.begin();
    for (; count > 0; count -= run->count, ++run) {
      take(run->share, std::min(count, run->count));
      if (run->count <= count) continue;
      run->count -= count;
      break;
    }
    runs_.erase(runs_.begin(), run);
  }
  /// How many pages from this one on are of its share; 0 where some of the `before` pages before it are not.
  int64_t alike_from(int64_t page, int64_t before) const {
    int64_t begin = 0;
    for (const Run& run : runs_) {
      if (page < begin + run.count) return begin > 0 && page - begin < before ? 0 : begin + run.count - page;
      begin += run.count;
    }
    return 0;
  }
  bool is_of_one_share() const { return runs_.size() <= 1; }
  /// How many of the pages [first, end) are of this share.
  double of_share(size_t share, int64_t first, int64_t end) const {
    int64_t at = 0, count = 0;
    for (const Run& run : runs_) {
      if (run.share == share) count += std::max<int64_t>(0, std::min(end, at + run.count) - std::max(first, at));
      at += run.count;
    }
    return static_cast<double>(count);
  }

 private:
  struct Run {
    size_t share;
    int64_t count;
  };
  int64_t size_ = 0;
  std::vector<Run> runs_;
};

/// A micro-batch's free pages in each share; where one of its slots stands for `scale`, so many fewer.
class WalkedPool {
 public:
  using Pages = CountedPages;
  WalkedPool(const CacheLayout::Group& group, int64_t scale) : sizes_(group.own), free_{group.own[0] / scale, group.own[1] / scale, 0} {
    free_[2] = ceil_div(group.num_pages(), scale) - free_[0] - free_[1];
  }

  /// As PagePool::take(): those of the slowest share first.
  CountedPages take(int64_t count) {
    Counts taken{};
    take_from_shares(count, sizes_, free_, taken);
    CountedPages pages;
    for (size_t share = free_.size(); share-- > 0;) {
      // A pool that rounding has left too small may have less than none of a share.
      const int64_t left = count - pages.size(), given = share == 0 ? left : std::clamp<int64_t>(taken[share], 0, left);
      free_[share] -= given;
      pages.add(share, given);
    }
    return pages;
  }
  /// As PagePool::take_one(); a pool that rounding has left too small lends one.
  void take_one(CountedPages& pages) {
    const auto found = std::find_if(free_.begin(), free_.end(), [](int64_t count) { return count > 0; });
    const size_t slowest = sizes_[2] > 0 ? 2 : sizes_[1] > 0 ? 1 : 0, share = found == free_.end() ? slowest : static_cast<size_t>(found - free_.begin());
    --free_[share];
    pages.add(share, 1);
  }
  void give_back_first(int64_t count, CountedPages& pages) {
    pages.take_off(count, [this](size_t share, int64_t given) { free_[share] += given; });
  }

 private:
  using Counts = std::array<int64_t, CacheLayout::kNumShares>;
  Counts sizes_{}, free_{};
};

class WalkedPages {
 public:
  /// Of a sequence that has `pages` pages in the end, of which those in `others` are not its own: as HeldPages has it.
  WalkedPages(const CacheLayout::Group& group, int64_t page_tokens, std::vector<PageRange> others, int64_t pages, WalkedPool& pool)
      : state_(&group.state), page_tokens_(page_tokens), held_(group.state, page_tokens, std::move(others), pages, pool) {}

  /// What a step moves whose rows are [past, past + rows): adds to `moves`, and to the pages, wherever they are, that it reads and writes.
  void advance(int64_t past, int64_t rows, WalkedPool& pool, PageMoves& moves, double* old_pages, double* dirty_pages) {
    past -= moved_;
    held_.pass(past, pool);
    held_.reach(past + rows, pool);
    // Of those that it has the first `old` hold tokens from before, and [dirty, end) are written to and seen by later steps.
    const int64_t unfilled = state_->page_of(past, page_tokens_), old = past > 0 ? held_.index_of(state_->end_page(past, page_tokens_)) : 0,
                  end = held_.index_of(state_->end_page(past + rows, page_tokens_)),
                  dirty = std::min(end, held_.index_of(std::max(unfilled, state_->first_page(past + rows, page_tokens_))));
    const CountedPages& pages = held_.pages();
    moves.old_disk += pages.of_share(2, 0, old);
    moves.old_host += pages.of_share(1, 0, old);
    moves.dirty_disk += pages.of_share(2, dirty, end);
    moves.dirty_host += pages.of_share(1, dirty, end);
    *old_pages += static_cast<double>(old);
    *dirty_pages += static_cast<double>(end - dirty);
  }
  /// How many of the sequence's pages [first, end) are not its own.
  int64_t of_others(int64_t first, int64_t end) const { return pages_within(held_.others(), first, end); }
  /// Pages that the row at `past` does not see, nor any later one, go back.
  void pass(int64_t past, WalkedPool& pool) { held_.pass(past - moved_, pool); }
  void give_back(WalkedPool& pool) { held_.give_back(pool); }
  /// Through how many further pages rows, one a step, move the same as through the last two, and a page more for each that is filled, where all are kept.
  int64_t pages_alike(int64_t past) const {
    constexpr int64_t kSeen = 3;
    if (state_->kind == StateSpec::Kind::kFixed) return std::numeric_limits<int64_t>::max();
    if (state_->window == 0) return std::max<int64_t>(0, held_.pages().alike_from(held_.index_of(state_->end_page(past, page_tokens_)), kSeen) - 1);
    // Of pages in several tiers it varies which one is written.
    if (!held_.pages().is_of_one_share()) return 0;
    const int64_t others = held_.others().empty() ? 0 : held_.others().back().end;
    return past > state_->window && others + kSeen < state_->first_page(past, page_tokens_) ? std::numeric_limits<int64_t>::max() : 0;
  }
  /// Goes through so many of them: a window moves on, and for each page that goes back it has another one.
  void move_on(int64_t pages) {
    if (state_->kind == StateSpec::Kind::kPaged && state_->window > 0) moved_ += pages * page_tokens_;
  }

 private:
  const StateSpec* state_;
  int64_t page_tokens_, moved_ = 0;  ///< moved_: tokens by which held_ is behind
  HeldPages<WalkedPool> held_;
};

}  // namespace flexgen
