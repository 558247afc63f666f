#pragma once
// Bytes for measuring products with: zeros and repeated numbers take less power than a job's, and so less time. Pure.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace flexgen {

/// Random bytes that are finite numbers in any type: of 1 to 2 in fp16, 0.007 to 2 in bf16 and f32, of both signs.
inline void fill_with_numbers(std::span<std::byte> numbers) {
  uint64_t state = 42;
  for (size_t at = 0; at + 2 <= numbers.size(); at += 2) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto number = static_cast<uint16_t>(0x3c00 | ((state >> 40) & 0x83ff));
    std::memcpy(numbers.data() + at, &number, sizeof number);
  }
}
inline std::vector<std::byte> random_numbers(int64_t bytes) {
  std::vector<std::byte> numbers(static_cast<size_t>(bytes));
  fill_with_numbers(numbers);
  return numbers;
}

}  // namespace flexgen
