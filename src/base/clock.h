#pragma once
// Time that has passed. Any thread.

#include <chrono>

namespace flexgen {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace flexgen
