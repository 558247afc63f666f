#include "generation/page_pool.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"

namespace flexgen {

PagePool::PagePool(std::vector<int64_t> tiers) : sizes_(std::move(tiers)), free_(sizes_.size()) {
  int64_t end = 0;
  for (size_t tier = 0; tier < sizes_.size(); ++tier) {
    const int64_t begin = end;
    ends_.push_back(end += sizes_[tier]);
    for (int64_t id = end - 1; id >= begin; --id) free_[tier].push_back(static_cast<int32_t>(id));
  }
}

int64_t PagePool::free_pages() const {
  int64_t pages = 0;
  for (const auto& ids : free_) pages += static_cast<int64_t>(ids.size());
  return pages;
}

std::vector<int32_t> PagePool::take(int64_t count) {
  FLEXGEN_CHECK(count <= free_pages());
  std::vector<int32_t> pages;
  // From the slowest tier to the fastest, each its share of what is left; at least what the faster ones lack.
  int64_t faster_free = free_pages(), faster_size = std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0});
  for (size_t tier = sizes_.size(); tier-- > 0;) {
    auto& ids = free_[tier];
    const auto here = static_cast<int64_t>(ids.size()), left = count - static_cast<int64_t>(pages.size());
    faster_free -= here;
    const double share = faster_size == 0 ? 0 : static_cast<double>(sizes_[tier]) / static_cast<double>(faster_size);
    faster_size -= sizes_[tier];
    const int64_t wanted = std::max(std::min<int64_t>(std::llround(share * static_cast<double>(left)), here), left - faster_free);
    for (int64_t i = 0; i < wanted; ++i) {
      pages.push_back(ids.back());
      ids.pop_back();
    }
  }
  return pages;
}

int32_t PagePool::take_one() {
  const auto tier = std::find_if(free_.begin(), free_.end(), [](const auto& ids) { return !ids.empty(); });
  FLEXGEN_CHECK(tier != free_.end());
  const int32_t page = tier->back();
  tier->pop_back();
  return page;
}

void PagePool::give_back(std::span<const int32_t> pages) {
  if (pages.empty()) return;
  for (int32_t page : pages) {
    const auto tier = std::upper_bound(ends_.begin(), ends_.end(), page) - ends_.begin();
    free_[static_cast<size_t>(tier)].push_back(page);
  }
  for (auto& ids : free_) std::sort(ids.begin(), ids.end(), std::greater<>());
}

}  // namespace flexgen
