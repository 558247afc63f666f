#pragma once
// PrefixPages: the cache pages that sequences have in common, in a pool that all micro-batches share. A page is known by the tokens up to its end, compared one by one, so that
// it is only ever taken for what it holds. The first sequence that wants a page writes it; others read it, also while it is being written: next() plans rows in the order in which
// they are computed. Pages that nobody uses are kept until room is needed. Layers with a window may keep fewer of them, in places of their own: those that are seen from where prefixes end. Who computes a
// prefix has the others as its own (HeldPages). Host thread only.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "generation/page_pool.h"
#include "schedule/prefix_ends.h"
#include "schedule/slot_rules.h"

namespace flexgen {

/// Pages of one sequence in the order of its positions, as PrefixPages numbers them.
struct PrefixPath {
  std::vector<int32_t> pages;
  int64_t known = 0;                         ///< of these, the first so many are written by others; the sequence itself writes the rest
  std::vector<std::vector<PageRange>> kept;  ///< a window: of the rest, those that its layers keep
};

class PrefixPages {
 public:
  /// The layers of a state with a window that keep what is seen from the ends of prefixes, and the places that they have for it.
  struct OfWindow {
    StateSpec state;
    std::vector<int64_t> tiers;
  };
  /// `tiers` as PagePool has it.
  PrefixPages(std::vector<int64_t> tiers, int64_t page_tokens, const std::vector<OfWindow>& windows = {});

  /// The pages of the prompt's first `most_pages` whole pages, as many of them as there are or can be made. They are in use until give_back(). `ends`: after how many of them others go on with pages of their
  /// own, ascending; empty: after any. Where layers with a window do not have what is seen after all that are known, these are known up to where they have it;
  /// what follows is made anew if nobody uses it, and else the path ends there.
  PrefixPath take(std::span<const int32_t> prompt, int64_t most_pages, std::span<const int64_t> ends = {});
  /// The place of a page in the layers of a window; -1: they do not keep it.
  int32_t place_of(int32_t page, size_t window) const { return pages_[static_cast<size_t>(page)].places[window]; }
  /// Pages that were to be written and were not are gone.
  void give_back(const PrefixPath& path);

  /// Whether others wait for pages that the path's sequence was to write and has not.
  bool is_awaited(const PrefixPath& path) const;

  /// All rows of the page are planned, the last of them in this step and micro-batch.
  void set_planned(int32_t page, int64_t step, int64_t batch);
  /// Whether rows that are planned now may read the page.
  bool is_readable(int32_t page, int64_t step, int64_t batch) const;

 private:
  struct Page {
    int32_t before = -1;          ///< the page of the positions before; -1: none
    std::vector<int32_t> tokens;  ///< its own; none: it is free
    int64_t users = 0;
    std::vector<int32_t> places;  ///< a window: place_of()
    PlannedAt planned;
    int32_t older = -1, newer = -1;  ///< while nobody uses it: its neighbours in the order in which pages fell idle
  };
  static uint64_t hash_of(int32_t before, std::span<const int32_t> tokens);
  int32_t find(int32_t before, std::span<const int32_t> tokens) const;
  /// Of so many pages in a row from the first on, how many a sequence can begin with: all windows have what is seen after them.
  int64_t usable(std::span<const int32_t> pages) const;
  /// Whether there is room for the pages [known, end) of a prefix.
  bool has_room(int64_t known, int64_t end, std::span<const int64_t> ends) const;
  void use(int32_t page);
  void release(int32_t page);
  void drop(int32_t page);
  void unlink(int32_t page);

  int64_t page_tokens_;
  PagePool pool_;
  struct Window {
    StateSpec state;
    PagePool pool;
  };
  std::vector<Window> windows_;
  std::vector<Page> pages_;
  std::unordered_multimap<uint64_t, int32_t> by_tokens_;
  int32_t oldest_ = -1, newest_ = -1;  ///< of the idle ones
};

}  // namespace flexgen
