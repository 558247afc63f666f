#pragma once
// PagePool: which cache pages of a micro-batch are free. Host thread only.

#include <cstdint>
#include <vector>

namespace flexgen {

class PagePool {
 public:
  /// Ids [0, cpu_pages) are in RAM, [cpu_pages, cpu_pages + disk_pages) on disk.
  PagePool(int64_t cpu_pages, int64_t disk_pages);

  int64_t free_pages() const { return static_cast<int64_t>(cpu_.size() + disk_.size()); }
  /// `count` pages for one sequence in the order of its positions, disk and RAM in the pool's proportion. Pages on disk come
  /// first: positions at the front are written once and then only read, while the tail grows in RAM.
  std::vector<int32_t> take(int64_t count);
  void give_back(const std::vector<int32_t>& pages);

 private:
  int64_t cpu_pages_, disk_pages_;
  std::vector<int32_t> cpu_, disk_;  ///< free ids, descending: the lowest is taken first, so runs stay together
};

}  // namespace flexgen
