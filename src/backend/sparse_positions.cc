#include "backend/sparse_positions.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "base/error.h"

namespace flexgen {

void choose_positions(std::span<const float> shares, int64_t kept, std::vector<int32_t>* chosen) {
  const auto size = static_cast<int64_t>(shares.size());
  FLEXGEN_CHECK(kept >= 1 && kept <= size, "{} of {} positions", kept, size);
  // The bits of floats that are not negative are in their order. NaN counts as the largest, so that it is seen.
  auto bits_of = [&](int64_t i) { return std::bit_cast<uint32_t>(shares[static_cast<size_t>(i)]) & 0x7fffffffu; };
  chosen->clear();
  if (kept > 1) {
    // The least bits that are chosen: first the bucket they lie in, by their upper bits, then their place in it.
    constexpr int kShift = 20;
    std::array<int32_t, size_t{1} << (31 - kShift)> in_bucket{};
    for (int64_t i = 0; i < size - 1; ++i) ++in_bucket[bits_of(i) >> kShift];
    int64_t wanted = kept - 1;
    uint32_t bucket = in_bucket.size() - 1;
    for (; wanted > in_bucket[bucket]; --bucket) wanted -= in_bucket[bucket];
    std::vector<uint32_t> members;
    members.reserve(static_cast<size_t>(in_bucket[bucket]));
    for (int64_t i = 0; i < size - 1; ++i)
      if (const uint32_t bits = bits_of(i); bits >> kShift == bucket) members.push_back(bits);
    std::nth_element(members.begin(), members.begin() + (wanted - 1), members.end(), std::greater<>());
    const uint32_t least = members[static_cast<size_t>(wanted - 1)];
    // Of those that have just the least, the earlier ones: as many as there is room for beside the larger ones.
    int64_t equal = wanted - std::count_if(members.begin(), members.end(), [&](uint32_t bits) { return bits > least; });
    for (int64_t i = 0; i < size - 1; ++i)
      if (const uint32_t bits = bits_of(i); bits > least || (bits == least && equal-- > 0)) chosen->push_back(static_cast<int32_t>(i));
  }
  chosen->push_back(static_cast<int32_t>(size - 1));
}

}  // namespace flexgen
