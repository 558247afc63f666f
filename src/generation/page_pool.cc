#include "generation/page_pool.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "schedule/page_shares.h"

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
  std::vector<int64_t> free, taken(sizes_.size());
  for (const auto& ids : free_) free.push_back(std::ssize(ids));
  take_from_shares(count, sizes_, free, taken);
  std::vector<int32_t> pages;
  for (size_t tier = sizes_.size(); tier-- > 0;)
    for (int64_t i = 0; i < taken[tier]; ++i) {
      pages.push_back(free_[tier].back());
      free_[tier].pop_back();
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

void PagePool::give_back_first(int64_t count, Pages& pages) {
  const auto end = pages.begin() + count;
  give_back({pages.begin(), end});
  pages.erase(pages.begin(), end);
}

}  // namespace flexgen
