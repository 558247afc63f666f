#pragma once
// Rows of bf16 for tests of products.

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "tensor/dtype.h"

namespace flexgen {

/// Values of both signs up to 1.
inline std::vector<uint16_t> random_halves(int64_t count, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = bf16_from_float(static_cast<float>(random() % 65536) / 32768.0f - 1.0f);
  return values;
}

inline const std::byte* bytes(const std::vector<uint16_t>& values) { return reinterpret_cast<const std::byte*>(values.data()); }

}  // namespace flexgen
