#pragma once
// HeldPages: the own pages of a sequence in the layers of one state, and when it takes them from its micro-batch's pool and gives them back: for pages that have ids (PagePool), and for those
// that are only counted (WalkedPool). One thread.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "model/state_spec.h"
#include "schedule/prefix_ends.h"

namespace flexgen {

/// `Pool::Pages`: pages in the order of positions, whose number is size(). The pool has take(count), which gives some; take_one(pages), which adds one; give_back_first(count, pages), which takes
/// the first off.
template <class Pool>
class HeldPages {
 public:
  using Pages = typename Pool::Pages;

  /// Of a sequence that has so many pages in the end, if none goes back; those in `others` (ascending and apart) are not its own. One that moves on with its window takes and gives back; else it takes
  /// all that it will ever need. `state` must live as long.
  HeldPages(const StateSpec& state, int64_t page_tokens, std::vector<PageRange> others, int64_t pages, Pool& pool)
      : state_(&state), page_tokens_(page_tokens), others_(std::move(others)) {
    const int64_t end = state.end_page(pages * page_tokens, page_tokens);
    first_ = end_ = std::min(next_own(0), end);
    const int64_t own = end - pages_within(others_, 0, end);
    if (!state.takes_all_at_start(own, page_tokens)) return;
    pages_ = pool.take(own);
    end_ = end;
  }

  /// It has those of the pages [first, end) of the sequence that are not others'.
  int64_t first() const { return first_; }
  int64_t end() const { return end_; }
  const Pages& pages() const { return pages_; }
  /// How many of pages() are before this page of the sequence: the index of its own.
  int64_t index_of(int64_t page) const {
    page = std::clamp(page, first_, end_);
    return page - first_ - pages_within(others_, first_, page);
  }
  /// Whether this page of the sequence is one of pages().
  bool has(int64_t page) const { return page >= first_ && page < end_ && pages_within(others_, page, page + 1) == 0; }
  std::span<const PageRange> others() const { return others_; }

  /// Pages go back that the row at this position does not see, nor any later one.
  void pass(int64_t past, Pool& pool) { give_back_until(state_->first_page(past, page_tokens_), pool); }
  /// Takes what rows before this position write to.
  void reach(int64_t tokens, Pool& pool) {
    for (int64_t wanted = state_->end_page(tokens, page_tokens_), page = next_own(end_); page < wanted; page = next_own(end_)) {
      pool.take_one(pages_);
      end_ = page + 1;
    }
  }
  void give_back(Pool& pool) { give_back_until(end_, pool); }

 private:
  int64_t next_own(int64_t page) const {
    for (const PageRange& range : others_)
      if (page >= range.first && page < range.end) page = range.end;
    return page;
  }
  void give_back_until(int64_t page, Pool& pool) {
    if (page <= first_) return;
    if (const int64_t count = index_of(page)) pool.give_back_first(count, pages_);
    first_ = std::min(page, end_);
  }

  const StateSpec* state_;
  int64_t page_tokens_, first_ = 0, end_ = 0;
  std::vector<PageRange> others_;
  Pages pages_;
};

}  // namespace flexgen
