#pragma once
// Where prefixes end, and which of their pages are seen from there. A sequence that shares a prefix begins at its end, so a layer with a window sees the last of the prefix alone; what lies further back is seen by
// nobody but who computes it. Of a job in the order of SharedPrefixes each place says what it shares with the one before it; from that follows where later sequences leave a sequence. Pure arithmetic.

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/state_spec.h"

namespace flexgen {

/// Pages [first, end) of a sequence.
struct PageRange {
  int64_t first = 0, end = 0;
  bool operator==(const PageRange&) const = default;
};

/// How many of the pages [first, end) are in `ranges`, which are ascending and apart.
inline int64_t pages_within(std::span<const PageRange> ranges, int64_t first, int64_t end) {
  int64_t pages = 0;
  for (const PageRange& range : ranges) pages += std::max<int64_t>(0, std::min(end, range.end) - std::max(first, range.first));
  return pages;
}

/// Of the pages [known, end) of a prefix, those that layers of `state` keep: that a row sees which follows one of `ends` (in pages, ascending) or `end`; without any `ends` prefixes may end
/// anywhere, and all are kept. Ascending and apart.
inline std::vector<PageRange> kept_ranges(const StateSpec& state, int64_t known, int64_t end, std::span<const int64_t> ends, int64_t page_tokens) {
  if (known >= end) return {};
  if (ends.empty()) return {{known, end}};
  std::vector<PageRange> kept;
  const auto add = [&](int64_t at) {
    const int64_t first = std::max(known, state.first_page(at * page_tokens, page_tokens));
    if (first >= at || at > end) return;
    if (!kept.empty() && first <= kept.back().end) kept.back().end = at;
    else kept.push_back({first, at});
  };
  for (int64_t at : ends)
    if (at < end) add(at);
  add(end);
  return kept;
}

/// The pages of a sequence that are not its own in such layers: the first `known`, which others compute, and of the further pages of its prefix those that are `kept`.
inline std::vector<PageRange> pages_of_others(int64_t known, std::vector<PageRange> kept) {
  kept.insert(kept.begin(), PageRange{0, known});
  return kept;
}

/// Where the sequences that come later leave each one. `share_of(place)`: what it shares with the place before it. Asked for place by place in ascending order it looks at each place as often as there are
/// prefixes within prefixes around it; going back begins again at the first place. One thread.
template <class ShareOf>
class LaterEnds {
 public:
  LaterEnds(int64_t num_places, ShareOf share_of) : num_places_(num_places), share_of_(std::move(share_of)) {}

  /// Where later places leave this one, and `own`, which it shares with somebody: ascending, each once, none 0 or more than `own`.
  std::vector<int64_t> of(int64_t place, int64_t own) {
    if (place < at_) {
      at_ = -1;
      ends_.clear();
    }
    while (at_ < place) go_on();
    std::vector<int64_t> ends;
    for (int64_t end : ends_)
      if (end < own) ends.push_back(end);
    if (own > 0) ends.push_back(own);
    return ends;
  }

 private:
  int64_t share(int64_t place) const { return place < num_places_ ? share_of_(place) : 0; }
  /// ends_: the least that each later place and all between share with this one, each once. Of the next place those below what the two share stay; the others are looked for.
  void go_on() {
    const int64_t shared = ++at_ > 0 ? share(at_) : 0;
    while (!ends_.empty() && ends_.back() >= shared) ends_.pop_back();
    std::vector<int64_t> found;  // descending
    for (int64_t place = at_ + 1;; ++place) {
      const int64_t with = share(place);
      if (with < std::max<int64_t>(1, shared)) break;
      if (found.empty() || with < found.back()) found.push_back(with);
      if (with == shared) break;
    }
    ends_.insert(ends_.end(), found.rbegin(), found.rend());
  }

  int64_t num_places_, at_ = -1;
  ShareOf share_of_;
  std::vector<int64_t> ends_;  ///< of at_, ascending
};

}  // namespace flexgen
