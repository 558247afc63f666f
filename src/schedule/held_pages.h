#pragma once
// HeldPages: the own pages of a sequence in the layers of one state, and when it takes them from its micro-batch's pool and gives them back: for pages that have ids (PagePool), and for those
// that are only counted (WalkedPool). One thread.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>

#include "model/state_spec.h"

namespace flexgen {

/// `Pool::Pages`: pages in the order of positions, whose number is size(). The pool has take(count), which gives some; take_one(pages), which adds one; give_back_first(count, pages), which takes
/// the first off.
template <class Pool>
class HeldPages {
 public:
  using Pages = typename Pool::Pages;

  /// Of a sequence that has so many pages in the end, if none goes back; the first `prefix` are not its own. One that moves on with its window takes and gives back; else it takes all that it
  /// will ever need. `state` must live as long.
  HeldPages(const StateSpec& state, int64_t page_tokens, int64_t prefix, int64_t pages, Pool& pool) : state_(&state), page_tokens_(page_tokens) {
    const int64_t end = state.end_page(pages * page_tokens, page_tokens);
    first_ = std::min(prefix, end);
    if (state.takes_all_at_start(end - first_, page_tokens)) pages_ = pool.take(end - first_);
  }

  /// It has pages [first, end) of the sequence.
  int64_t first() const { return first_; }
  int64_t end() const { return first_ + std::ssize(pages_); }
  const Pages& pages() const { return pages_; }

  /// Pages go back that the row at this position does not see, nor any later one.
  void pass(int64_t past, Pool& pool) { give_back_first(state_->first_page(past, page_tokens_) - first_, pool); }
  /// Takes what rows before this position write to.
  void reach(int64_t tokens, Pool& pool) {
    for (const int64_t wanted = state_->end_page(tokens, page_tokens_); end() < wanted;) pool.take_one(pages_);
  }
  void give_back(Pool& pool) { give_back_first(std::ssize(pages_), pool); }

 private:
  void give_back_first(int64_t count, Pool& pool) {
    count = std::min<int64_t>(count, std::ssize(pages_));
    if (count <= 0) return;
    pool.give_back_first(count, pages_);
    first_ += count;
  }

  const StateSpec* state_;
  int64_t page_tokens_, first_ = 0;
  Pages pages_;
};

}  // namespace flexgen
