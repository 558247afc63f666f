#pragma once
// add_repeatedly(): a term added many times over, rounded as if it were added one by one. Pure.

#include <algorithm>
#include <bit>
#include <cstdint>

namespace flexgen {

/// What `sum` is after sum += term for `count` times, to the last bit. Both are finite and not negative. Takes as many steps as the sum doubles, and not `count`: between two powers of two all sums are
/// multiples of one unit, so that adding the term rounds alike each time. Halves go to even multiples: the first such addition may go the other way, those after it start from an even one.
inline double add_repeatedly(double sum, double term, int64_t count) {
  const auto exponent_of = [](double value) { return std::bit_cast<uint64_t>(value) >> 52; };
  while (count > 3) {
    const double one = sum + term, two = one + term, three = two + term, step = three - two;
    if (step == 0) return three;
    sum = three;
    count -= 3;
    const uint64_t exponent = exponent_of(three);
    if (exponent_of(one) != exponent) continue;
    const auto top = std::bit_cast<double>((exponent + 1) << 52);
    const int64_t more = std::min(count, static_cast<int64_t>((top - three) / step) - 1);  // all of which stay below the next power of two
    if (more <= 0) continue;
    sum += static_cast<double>(more) * step;
    count -= more;
  }
  for (; count > 0; --count) sum += term;
  return sum;
}

}  // namespace flexgen
