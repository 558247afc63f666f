#pragma once
// Which of a pool's shares (tiers) the pages of a sequence come from: for pages with ids (PagePool), and for plans, which count them (WalkedPool). Pure arithmetic.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>

namespace flexgen {

/// `taken` [S] becomes how many of `count` pages each share gives, whose sizes and free pages these are, from the fastest share to the slowest. From the slowest on each gives its part of
/// what is left, and at least what the faster ones lack. Shares may have less than nothing free, as rounded numbers do; the fastest then gives what is missing.
inline void take_from_shares(int64_t count, std::span<const int64_t> sizes, std::span<const int64_t> free, std::span<int64_t> taken) {
  int64_t left = count, faster_free = std::accumulate(free.begin(), free.end(), int64_t{0}),
          faster_size = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  for (size_t share = sizes.size(); share-- > 0;) {
    faster_free -= free[share];
    const double part = static_cast<double>(sizes[share]) / static_cast<double>(std::max<int64_t>(1, faster_size));
    faster_size -= sizes[share];
    const int64_t wanted = std::min<int64_t>(std::llround(part * static_cast<double>(left)), std::max<int64_t>(0, free[share]));
    taken[share] = share == 0 ? left : std::max(wanted, left - faster_free);
    left -= taken[share];
  }
}

}  // namespace flexgen
