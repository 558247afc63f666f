#pragma once
// Bounds on a hostile vocabulary that merges are made from, which takes the square of each token's length.

#include <cstddef>
#include <cstdint>

namespace flexgen {

inline constexpr size_t kMaxMergedBytes = 4096;               ///< of one token
inline constexpr uint64_t kMaxMergeWork = uint64_t{1} << 32;  ///< the sum of the squares

}  // namespace flexgen
