#pragma once
// How RAM that a device copies from and to is locked, and copies are cut: drivers refuse to lock hundreds of GiB at once, and a copy that is in two locked pieces. Pure.

#include <algorithm>
#include <cstdint>

#include "backend/lane.h"
#include "base/units.h"

namespace flexgen {

/// RAM is locked piece by piece, each between two multiples of this among addresses.
inline constexpr int64_t kLockedPieceBytes = 16 * kGiB;

/// Calls act(piece) for the parts of a copy of which neither end passes a multiple of `grid`, in order.
template <typename Act>
void for_each_piece(const Copy& copy, Act act, int64_t grid = kLockedPieceBytes) {
  auto left = [&](const std::byte* address) { return grid - static_cast<int64_t>(reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(grid)); };
  for (int64_t at = 0; at < copy.bytes;) {
    const int64_t bytes = std::min({copy.bytes - at, left(copy.from + at), left(copy.to + at)});
    act(Copy{copy.from + at, copy.to + at, bytes});
    at += bytes;
  }
}

}  // namespace flexgen
