#pragma once
// Drawing a token is finding a maximum: the largest of x / temperature + Gumbel noise over a row is a draw from softmax(x / temperature) (the Gumbel-max trick; Maddison,
// Tarlow and Minka 2014). So a draw goes chunk by chunk over the vocabulary and keeps nothing, on any backend. The noise of an id depends on the draw's key and the id
// alone: counter-based random bits, by two rounds of an integer hash. Pure functions.

#include <cmath>
#include <cstdint>

namespace flexgen {

/// How a row's token is drawn.
struct Draw {
  float inverse_temperature = 0;  ///< 0: it is not drawn, the largest is taken as it is
  uint32_t key[2] = {0, 0};       ///< random bits of the sequence's seed and the position
};

/// A bijection of 32-bit numbers without visible structure (multiply and xor-shift, as in MurmurHash3's finalizer).
constexpr uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

/// 32 random bits of a token.
constexpr uint32_t token_bits(const Draw& draw, uint32_t id) { return scramble(scramble(id ^ draw.key[0]) + draw.key[1]); }

/// Bits as a number in (0, 1): small ones keep all of their bits, as the largest noise comes from them.
inline constexpr float kLargestBelowOne = 0x1.fffffep-1f;
constexpr float fraction_of(uint32_t bits) {
  // Not std::min(): on a GPU it would take the address of a constant that is the host's, which compiles to a trap.
  const float fraction = (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
  return fraction < kLargestBelowOne ? fraction : kLargestBelowOne;
}

/// What is compared of a logit.
inline float drawn_value(const Draw& draw, uint32_t id, float logit) {
  return logit * draw.inverse_temperature - std::log(-std::log1p(-fraction_of(token_bits(draw, id))));
}

}  // namespace flexgen
