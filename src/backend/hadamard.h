#pragma once
// The fast Walsh-Hadamard transform, which every backend that runs on the host shares. Pure function.

#include <cmath>
#include <cstdint>

namespace flexgen {

/// x [size] times the Hadamard matrix of a power of two (Sylvester's order: sign (-1)^popcount(i & j)) over sqrt(size), in place.
inline void hadamard_transform(float* x, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t i = 0; i < size; i += 2 * half)
      for (int64_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  const float factor = 1 / std::sqrt(static_cast<float>(size));
  for (int64_t i = 0; i < size; ++i) x[i] *= factor;
}

}  // namespace flexgen
