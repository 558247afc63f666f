#include "generation/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/vector_rows.h"

namespace flexgen {

namespace {

/// 64 random bits: SplitMix64.
uint64_t random_word(uint64_t seed, uint64_t position) {
  uint64_t z = seed * 0xd1342543de82ef95u + (position + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

double uniform_random(uint64_t seed, uint64_t position) { return static_cast<double>(random_word(seed, position) >> 11) * 0x1p-53; }

Draw draw_of(const ChoiceParams& params, int64_t position) {
  if (params.temperature <= 0 || params.top_k == 1) return {};
  // Colder than that no noise is left beside the rounding of the logits, and further down nothing would be finite.
  constexpr double kColdest = 1e-6;
  const uint64_t word = random_word(params.seed, static_cast<uint64_t>(position));
  return {static_cast<float>(1 / std::max(params.temperature, kColdest)), {static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32)}};
}

int32_t sample(std::span<const float> logits, const ChoiceParams& params, int64_t position) {
  auto vocab = static_cast<int64_t>(logits.size());
  const bool cut_k = params.top_k > 0 && params.top_k < vocab, cut_p = params.top_p<1, cut_m = params.min_p> 0;
  const Draw draw = draw_of(params, position);
  if (draw.inverse_temperature == 0 || !(cut_k || cut_p || cut_m)) return vector_rows::largest(logits.data(), vocab, draw, 0).at;
  const double top = *std::max_element(logits.begin(), logits.end());
  auto weight = [&](int32_t id) { return std::exp((static_cast<double>(logits[static_cast<size_t>(id)]) - top) / params.temperature); };
  auto better = [&](int32_t a, int32_t b) {
    float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  if (cut_m) std::erase_if(ids, [&](int32_t id) { return weight(id) < params.min_p; });  // the likeliest one's is 1
  if (cut_k && params.top_k < std::ssize(ids)) {
    std::nth_element(ids.begin(), ids.begin() + params.top_k, ids.end(), better);
    ids.resize(static_cast<size_t>(params.top_k));
  }
  std::sort(ids.begin(), ids.end(), better);
  std::vector<double> cumulative(ids.size());
  double total = 0;
  for (size_t i = 0; i < ids.size(); ++i) cumulative[i] = total += weight(ids[i]);
  if (cut_p) {
    auto end = std::lower_bound(cumulative.begin(), cumulative.end(), params.top_p * total);
    if (end != cumulative.end()) cumulative.erase(end + 1, cumulative.end());
    total = cumulative.back();
  }
  auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), uniform_random(params.seed, static_cast<uint64_t>(position)) * total);
  if (chosen == cumulative.end()) --chosen;
  return ids[static_cast<size_t>(chosen - cumulative.begin())];
}

}  // namespace flexgen
