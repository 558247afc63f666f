#pragma once
// PrefixPages: the cache pages that sequences have in common, in a pool that all micro-batches share. A page is known by the tokens up to its end, compared one by one, so that
// it is only ever taken for what it holds. The first sequence that wants a page writes it; others read it, also while it is being written: next() plans rows in the order in which
// they are computed. Pages that nobody uses are kept until room is needed. Host thread only.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "generation/page_pool.h"
#include "schedule/slot_rules.h"

namespace flexgen {

/// Pages of one sequence in the order of its positions, as PrefixPages numbers them.
struct PrefixPath {
  std::vector<int32_t> pages;
  int64_t known = 0;  ///< of these, the first so many are written by others; the sequence itself writes the rest
};

class PrefixPages {
 public:
  /// `tiers` as PagePool has it.
  PrefixPages(std::vector<int64_t> tiers, int64_t page_tokens);

  /// The pages of the prompt's first `most_pages` whole pages, as many of them as there are or can be made. They are in use until give_back().
  PrefixPath take(std::span<const int32_t> prompt, int64_t most_pages);
  /// Pages that were to be written and were not are gone.
  void give_back(const PrefixPath& path);

  /// All rows of the page are planned, the last of them in this step and micro-batch.
  void set_planned(int32_t page, int64_t step, int64_t batch);
  /// Whether rows that are planned now may read the page.
  bool is_readable(int32_t page, int64_t step, int64_t batch) const;

 private:
  struct Page {
    int32_t before = -1;          ///< the page of the positions before; -1: none
    std::vector<int32_t> tokens;  ///< its own; none: it is free
    int64_t users = 0;
    PlannedAt planned;
    int32_t older = -1, newer = -1;  ///< while nobody uses it: its neighbours in the order in which pages fell idle
  };
  static uint64_t hash_of(int32_t before, std::span<const int32_t> tokens);
  int32_t find(int32_t before, std::span<const int32_t> tokens) const;
  void use(int32_t page);
  void release(int32_t page);
  void drop(int32_t page);
  void unlink(int32_t page);

  int64_t page_tokens_;
  PagePool pool_;
  std::vector<Page> pages_;
  std::unordered_multimap<uint64_t, int32_t> by_tokens_;
  int32_t oldest_ = -1, newest_ = -1;  ///< of the idle ones
};

}  // namespace flexgen
