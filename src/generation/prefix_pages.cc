#include "generation/prefix_pages.h"

#include <algorithm>
#include <numeric>

#include <xxhash.h>

#include "base/error.h"

namespace flexgen {

PrefixPages::PrefixPages(std::vector<int64_t> tiers, int64_t page_tokens, const std::vector<OfWindow>& windows)
    : page_tokens_(page_tokens), pool_(tiers), pages_(static_cast<size_t>(std::accumulate(tiers.begin(), tiers.end(), int64_t{0}))) {
  for (const OfWindow& window : windows) windows_.push_back({window.state, PagePool(window.tiers)});
}

uint64_t PrefixPages::hash_of(int32_t before, std::span<const int32_t> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), static_cast<uint64_t>(static_cast<int64_t>(before)));
}

int32_t PrefixPages::find(int32_t before, std::span<const int32_t> tokens) const {
  const auto [begin, end] = by_tokens_.equal_range(hash_of(before, tokens));
  for (auto entry = begin; entry != end; ++entry) {
    const Page& page = pages_[static_cast<size_t>(entry->second)];
    if (page.before == before && std::equal(tokens.begin(), tokens.end(), page.tokens.begin(), page.tokens.end())) return entry->second;
  }
  return -1;
}

int64_t PrefixPages::usable(std::span<const int32_t> pages) const {
  for (int64_t end = std::ssize(pages); end > 0; --end) {
    bool all_there = true;
    for (size_t i = 0; i < windows_.size() && all_there; ++i)
      for (int64_t page = windows_[i].state.first_page(end * page_tokens_, page_tokens_); page < end && all_there; ++page)
        all_there = place_of(pages[static_cast<size_t>(page)], i) >= 0;
    if (all_there) return end;
  }
  return 0;
}

bool PrefixPages::has_room(int64_t known, int64_t end, std::span<const int64_t> ends) const {
  return pool_.free_pages() >= end - known && std::all_of(windows_.begin(), windows_.end(), [&](const Window& window) {
           return window.pool.free_pages() >= pages_within(kept_ranges(window.state, known, end, ends, page_tokens_), known, end);
         });
}

PrefixPath PrefixPages::take(std::span<const int32_t> prompt, int64_t most_pages, std::span<const int64_t> ends) {
  PrefixPath path;
  path.kept.resize(windows_.size());
  const auto tokens_of = [&](int64_t page) { return prompt.subspan(static_cast<size_t>(page * page_tokens_), static_cast<size_t>(page_tokens_)); };
  const auto last = [&] { return path.pages.empty() ? -1 : path.pages.back(); };
  while (std::ssize(path.pages) < most_pages) {
    const int32_t page = find(last(), tokens_of(std::ssize(path.pages)));
    if (page < 0) break;
    path.pages.push_back(page);
  }
  const int64_t found = std::ssize(path.pages);
  path.known = usable(path.pages);
  const int32_t next = path.known < found ? path.pages[static_cast<size_t>(path.known)] : -1;
  path.pages.resize(static_cast<size_t>(path.known));
  for (const int32_t page : path.pages) use(page);
  // A page is idle only with all that follow it, and these fell idle before it: none is left without the one before.
  if (next >= 0) {
    if (pages_[static_cast<size_t>(next)].users > 0) return path;  // a page is there once
    while (!pages_[static_cast<size_t>(next)].tokens.empty()) drop(oldest_);
  }
  while (!has_room(path.known, most_pages, ends) && oldest_ >= 0) drop(oldest_);
  int64_t end = most_pages;
  while (!has_room(path.known, end, ends)) --end;
  for (int32_t page : pool_.take(end - path.known)) {
    const auto tokens = tokens_of(std::ssize(path.pages));
    pages_[static_cast<size_t>(page)] = Page{last(), {tokens.begin(), tokens.end()}, 1, std::vector<int32_t>(windows_.size(), -1)};
    by_tokens_.emplace(hash_of(last(), tokens), page);
    path.pages.push_back(page);
  }
  for (size_t i = 0; i < windows_.size(); ++i) {
    const std::vector<PageRange>& kept = path.kept[i] = kept_ranges(windows_[i].state, path.known, end, ends, page_tokens_);
    const std::vector<int32_t> places = windows_[i].pool.take(pages_within(kept, path.known, end));
    auto place = places.begin();
    for (const PageRange& range : kept)
      for (int64_t at = range.first; at < range.end; ++at) pages_[static_cast<size_t>(path.pages[static_cast<size_t>(at)])].places[i] = *place++;
  }
  return path;
}

void PrefixPages::give_back(const PrefixPath& path) {
  for (auto page = path.pages.rbegin(); page != path.pages.rend(); ++page) release(*page);
}

bool PrefixPages::is_awaited(const PrefixPath& path) const {
  return std::any_of(path.pages.begin() + path.known, path.pages.end(), [&](int32_t page) {
    const Page& of = pages_[static_cast<size_t>(page)];
    return !of.planned.is_known() && of.users > 1;
  });
}

void PrefixPages::set_planned(int32_t page, int64_t step, int64_t batch) { pages_[static_cast<size_t>(page)].planned = {step, batch}; }

bool PrefixPages::is_readable(int32_t page, int64_t step, int64_t batch) const { return pages_[static_cast<size_t>(page)].planned.is_readable(step, batch); }

void PrefixPages::use(int32_t page) {
  if (pages_[static_cast<size_t>(page)].users++ == 0) unlink(page);
}

void PrefixPages::release(int32_t page) {
  Page& of = pages_[static_cast<size_t>(page)];
  FLEXGEN_CHECK(of.users > 0, "page {}", page);
  if (--of.users > 0) return;
  of.older = newest_;
  of.newer = -1;
  (newest_ >= 0 ? pages_[static_cast<size_t>(newest_)].newer : oldest_) = page;
  newest_ = page;
  if (!of.planned.is_known()) drop(page);
}

void PrefixPages::drop(int32_t page) {
  unlink(page);
  Page& of = pages_[static_cast<size_t>(page)];
  const auto [begin, end] = by_tokens_.equal_range(hash_of(of.before, of.tokens));
  by_tokens_.erase(std::find_if(begin, end, [page](const auto& entry) { return entry.second == page; }));
  for (size_t i = 0; i < windows_.size(); ++i)
    if (of.places[i] >= 0) windows_[i].pool.give_back({&of.places[i], 1});
  of = Page{};
  pool_.give_back({&page, 1});
}

void PrefixPages::unlink(int32_t page) {
  Page& of = pages_[static_cast<size_t>(page)];
  (of.older >= 0 ? pages_[static_cast<size_t>(of.older)].newer : oldest_) = of.newer;
  (of.newer >= 0 ? pages_[static_cast<size_t>(of.newer)].older : newest_) = of.older;
  of.older = of.newer = -1;
}

}  // namespace flexgen
