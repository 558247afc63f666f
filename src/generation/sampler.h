#pragma once
// Sampling: from logits to a token. Pure functions of the logits, the parameters, the seed and the position, so that
// an answer depends on nothing else.

#include <cstdint>
#include <span>

#include "backend/gumbel.h"
#include "generation/request.h"

namespace flexgen {

/// Uniform in [0, 1): random number `position` of sequence `seed` (counter-based: SplitMix64).
double uniform_random(uint64_t seed, uint64_t position);

/// How the token at `position` is drawn of all tokens; greedily with temperature 0 or top_k 1.
Draw draw_of(const ChoiceParams& params, int64_t position);

/// Draws a token from softmax(logits / temperature), of all tokens as draw_of() says, or cut by min_p (Nguyen et al. 2024), to the top_k best, and then to the
/// smallest set whose probability reaches top_p (Holtzman et al. 2020), in this order, as vLLM does. temperature 0: the best, lowest id first among equals.
int32_t sample(std::span<const float> logits, const ChoiceParams& params, int64_t position);

}  // namespace flexgen
