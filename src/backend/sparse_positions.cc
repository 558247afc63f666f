#include "backend/sparse_positions.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace flexgen {

void choose_positions(std::span<const float> shares, int64_t kept, std::vector<int32_t>* chosen) {
  const auto size = static_cast<int64_t>(shares.size());
  FLEXGEN_CHECK(kept >= 1 && kept <= size, "{} of {} positions", kept, size);
  // The bits of floats that are not negative are in their order; below them what makes earlier positions win. NaN counts as the largest, so that it
  // is seen.
  std::vector<uint64_t> keys(static_cast<size_t>(size - 1));
  for (size_t i = 0; i < keys.size(); ++i)
    keys[i] = uint64_t{std::bit_cast<uint32_t>(shares[i]) & 0x7fffffffu} << 32 | (0xffffffffu - static_cast<uint32_t>(i));
  std::nth_element(keys.begin(), keys.begin() + (kept - 1), keys.end(), std::greater<>());
  chosen->clear();
  for (int64_t i = 0; i < kept - 1; ++i) chosen->push_back(static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(keys[static_cast<size_t>(i)])));
  chosen->push_back(static_cast<int32_t>(size - 1));
  std::sort(chosen->begin(), chosen->end());
}

}  // namespace flexgen
