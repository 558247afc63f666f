#include "generation/shared_prefixes.h"

#include <algorithm>
#include <tuple>

#include <xxhash.h>

namespace flexgen {

SharedPrefixes::SharedPrefixes(int64_t page_tokens, const SpillPlace& place) : page_tokens_(page_tokens), begins_(place), hashes_(place) {}

void SharedPrefixes::add(std::span<const int32_t> prompt) {
  begins_.push_back(hashes_.size());
  const int64_t pages = std::min(shareable_pages(std::ssize(prompt), page_tokens_), kMaxPages);
  for (int64_t page = 0; page < pages; ++page) {
    const auto tokens = prompt.subspan(static_cast<size_t>(page * page_tokens_), static_cast<size_t>(page_tokens_));
    hashes_.push_back(static_cast<uint32_t>(XXH3_64bits(tokens.data(), tokens.size_bytes())));
  }
}

void SharedPrefixes::order(const std::function<bool(int64_t)>& wanted, const std::function<bool(const PlacedPrompt&)>& take, const SameAs& same_as) {
  std::vector<Entry> entries;
  entries.reserve(static_cast<size_t>(std::min(num_prompts(), kMostAtATime)));
  for (int64_t prompt = 0; prompt < num_prompts();) {
    entries.clear();
    for (; prompt < num_prompts() && std::ssize(entries) < kMostAtATime; ++prompt)
      if (wanted(prompt)) entries.push_back({0, prompt, 0});
    put_in_order(entries, same_as);
    for (const Entry& entry : entries)
      if (!take({entry.prompt, entry.shared_pages * page_tokens_})) return;
  }
}

void SharedPrefixes::put_in_order(std::vector<Entry>& entries, const SameAs& same_as) {
  if (entries.size() < 2) return;
  deep_visits_ = kDeepVisits + kDeepVisitsEach * std::ssize(entries);
  std::vector<Range> ranges{{0, entries.size(), 0, 0}};
  while (!ranges.empty()) {
    const Range range = ranges.back();
    ranges.pop_back();
    split(entries, range, same_as, &ranges);
  }
}

void SharedPrefixes::split(std::vector<Entry>& entries, const Range& range, const SameAs& same_as, std::vector<Range>* more) {
  auto read = [&](int64_t prompt, int64_t first, int64_t count, std::vector<uint32_t>& pages) {
    pages.resize(static_cast<size_t>(count));
    if (count > 0) hashes_.read(begins_[prompt] + first, std::span(pages));
  };
  // What the first has beyond what is known to be shared, and how much of it the others have.
  const int64_t first = entries[range.first].prompt;
  read(first, range.pages, pages_of(first) - range.pages, common_);
  for (size_t i = range.first + 1; i < range.end && !common_.empty(); ++i) {
    const int64_t prompt = entries[i].prompt;
    read(prompt, range.pages, std::min(std::ssize(common_), pages_of(prompt) - range.pages), other_);
    common_.resize(static_cast<size_t>(std::mismatch(other_.begin(), other_.end(), common_.begin()).first - other_.begin()));
  }
  const int64_t shared = range.pages + std::ssize(common_);
  for (size_t i = range.first + 1; i < range.end; ++i) entries[i].shared_pages = static_cast<int32_t>(shared);
  if (range.level >= kMaxLevels && (deep_visits_ -= static_cast<int64_t>(range.end - range.first)) < 0) return;

  // Groups by the next page; those that end here are groups of the same prompt.
  constexpr uint64_t kEnded = uint64_t{1} << 32;
  for (size_t i = range.first; i < range.end; ++i) {
    Entry& entry = entries[i];
    if (pages_of(entry.prompt) == shared) {
      entry.key = kEnded + static_cast<uint64_t>(same_as ? same_as(entry.prompt) : entry.prompt);
      continue;
    }
    read(entry.prompt, shared, 1, other_);
    entry.key = other_.front();
  }
  const auto begin = entries.begin() + static_cast<ptrdiff_t>(range.first), end = entries.begin() + static_cast<ptrdiff_t>(range.end);
  // What a place shares with the one before it goes with the place, not with the prompt.
  const int32_t shared_by_first = begin->shared_pages;
  const auto sort = [&] { std::sort(begin, end, [](const Entry& a, const Entry& b) { return std::tie(a.key, a.prompt) < std::tie(b.key, b.prompt); }); };
  sort();
  // A group stands where its first prompt does.
  for (auto group = begin; group != end;) {
    const uint64_t key = group->key, place = static_cast<uint64_t>(group->prompt);
    for (; group != end && group->key == key; ++group) group->key = place;
  }
  sort();
  for (auto entry = begin; entry != end; ++entry) entry->shared_pages = static_cast<int32_t>(shared);
  begin->shared_pages = shared_by_first;
  for (auto group = begin; group != end;) {
    const auto group_end = std::find_if(group, end, [&](const Entry& entry) { return entry.key != group->key; });
    if (group_end - group > 1 && pages_of(group->prompt) > shared)
      more->push_back({static_cast<size_t>(group - entries.begin()), static_cast<size_t>(group_end - entries.begin()), shared, range.level + 1});
    group = group_end;
  }
}

std::vector<SharedPrefix> prefixes_of(std::span<const PlacedPrompt> order) {
  std::vector<SharedPrefix> found, open;  // `open`: prefixes of the place that is looked at, each longer than the one before
  for (int64_t place = 1; place <= std::ssize(order); ++place) {
    const int64_t shared = place < std::ssize(order) ? order[static_cast<size_t>(place)].shared_tokens : 0;
    int64_t first = place - 1;
    while (!open.empty() && open.back().tokens > shared) {
      first = open.back().first;
      open.back().count = place - first;
      found.push_back(open.back());
      open.pop_back();
    }
    if (shared > 0 && (open.empty() || open.back().tokens < shared)) open.push_back({shared, first, 0});
  }
  std::sort(found.begin(), found.end(), [](const SharedPrefix& a, const SharedPrefix& b) { return std::tie(a.first, a.tokens) < std::tie(b.first, b.tokens); });
  return found;
}

}  // namespace flexgen
