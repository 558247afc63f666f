#include "engine/page_pool.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"

namespace flexgen {

PagePool::PagePool(int64_t cpu_pages, int64_t disk_pages) : cpu_pages_(cpu_pages), disk_pages_(disk_pages) {
  for (int64_t id = cpu_pages + disk_pages - 1; id >= 0; --id)
    (id < cpu_pages ? cpu_ : disk_).push_back(static_cast<int32_t>(id));
}

std::vector<int32_t> PagePool::take(int64_t count) {
  FLEXGEN_CHECK(count <= free_pages());
  double share = static_cast<double>(disk_pages_) / static_cast<double>(cpu_pages_ + disk_pages_);
  int64_t from_disk = std::llround(share * static_cast<double>(count));
  from_disk = std::min(from_disk, static_cast<int64_t>(disk_.size()));
  from_disk = std::max(from_disk, count - static_cast<int64_t>(cpu_.size()));
  std::vector<int32_t> pages;
  for (int64_t i = 0; i < count; ++i) {
    auto& source = i < from_disk ? disk_ : cpu_;
    pages.push_back(source.back());
    source.pop_back();
  }
  return pages;
}

void PagePool::give_back(const std::vector<int32_t>& pages) {
  for (int32_t page : pages) (page < cpu_pages_ ? cpu_ : disk_).push_back(page);
  std::sort(cpu_.begin(), cpu_.end(), std::greater<>());
  std::sort(disk_.begin(), disk_.end(), std::greater<>());
}

}  // namespace flexgen
