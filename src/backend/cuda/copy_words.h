#pragma once
// copy_words: a copy between device memory and pinned RAM by a kernel, which does not queue in the one copy engine of a direction behind hundreds of MB of
// weights, as a copy of a few KB by cudaMemcpyAsync() does. Device code.

#include <algorithm>

#include "backend/cuda/device_code.h"
#include "base/units.h"

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kCopyThreads = 256;

/// to = from, whole words of 16 bytes, both at 16 bytes.
FLEXGEN_KERNEL void copy_words(const std::byte* from, int64_t num_words, std::byte* to) {
  for_elements(num_words, [&](int64_t i) { reinterpret_cast<Words4*>(to)[i] = load128(from + 16 * i); });
}

/// Enqueues the copy of `bytes`, rounded up to whole words.
inline void launch_copy(const std::byte* from, int64_t bytes, std::byte* to, Stream stream) {
  const int64_t words = ceil_div(bytes, 16);
  launch(copy_words, {std::min<int64_t>(ceil_div(words, kCopyThreads), 256)}, kCopyThreads, stream, from, words, to);
}

}  // namespace flexgen::inline FLEXGEN_SIDE
