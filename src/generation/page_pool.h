#pragma once
// PagePool: which cache pages of a micro-batch are free. Host thread only.

#include <cstdint>
#include <span>
#include <vector>

namespace flexgen {

class PagePool {
 public:
  /// Numbers of pages from the fastest tier to the slowest; ids count up in that order.
  explicit PagePool(std::vector<int64_t> tiers);

  int64_t free_pages() const;
  /// `count` pages for one sequence in the order of its positions, from all tiers in the pool's proportion. The slowest come
  /// first: positions at the front are written once and then only read, while the tail grows in the fastest.
  std::vector<int32_t> take(int64_t count);
  /// One page, of the fastest tier that has one: for sequences that take pages as they grow.
  int32_t take_one();
  void give_back(std::span<const int32_t> pages);

  // As HeldPages wants them.
  using Pages = std::vector<int32_t>;
  void take_one(Pages& pages) { pages.push_back(take_one()); }
  void give_back_first(int64_t count, Pages& pages);

 private:
  std::vector<int64_t> sizes_, ends_;       ///< a tier: its pages, and the id after its last
  std::vector<std::vector<int32_t>> free_;  ///< a tier: ids, descending: the lowest is taken first, so runs stay together
};

}  // namespace flexgen
