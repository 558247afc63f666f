#pragma once
// Jobs of random lengths, for tests of plans and simulations. Pure functions.

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "generation/request.h"

namespace flexgen {

/// Greedy requests whose prompts and answers have lengths in these ranges; the same for the same seed.
inline std::vector<Request> random_requests(uint64_t seed, int64_t count, std::pair<int64_t, int64_t> prompt, std::pair<int64_t, int64_t> generated,
                                            int64_t vocab) {
  std::mt19937_64 random(seed);
  auto draw = [&](std::pair<int64_t, int64_t> range) {
    return range.first + static_cast<int64_t>(random() % static_cast<uint64_t>(range.second - range.first + 1));
  };
  std::vector<Request> requests(static_cast<size_t>(count));
  for (Request& request : requests) {
    request.prompt.resize(static_cast<size_t>(draw(prompt)));
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
    request.params.max_tokens = draw(generated);
    request.params.temperature = 0;
    request.params.ignore_eos = true;
  }
  return requests;
}

}  // namespace flexgen
