// Eight rows of words become eight columns, for the targets of Highway that have vectors of 256 bits. Included once a target by the .cc files that use
// foreach_target.h, after simd_inl.h, so no #pragma once.

#if defined(FLEXGEN_BACKEND_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXGEN_BACKEND_CPU_TRANSPOSE_INL_H_
#undef FLEXGEN_BACKEND_CPU_TRANSPOSE_INL_H_
#else
#define FLEXGEN_BACKEND_CPU_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL

using Eight = hn::FixedTag<uint32_t, 8>;
using EightVector = hn::Vec<Eight>;

HWY_INLINE EightVector words_at(const uint8_t* p) { return hn::BitCast(Eight(), hn::LoadU(hn::Repartition<uint8_t, Eight>(), p)); }

/// v[i] had 8 words of row i; afterwards it has word i of 8 rows.
HWY_INLINE void transpose(EightVector (&v)[8]) {
  const Eight d;
  const hn::Repartition<uint64_t, Eight> d64;
  EightVector t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // each 128 bits by themselves
    const auto a = hn::BitCast(d64, hn::InterleaveLower(d, v[i], v[i + 1])), b = hn::BitCast(d64, hn::InterleaveLower(d, v[i + 2], v[i + 3]));
    const auto c = hn::BitCast(d64, hn::InterleaveUpper(d, v[i], v[i + 1])), e = hn::BitCast(d64, hn::InterleaveUpper(d, v[i + 2], v[i + 3]));
    t[i] = hn::BitCast(d, hn::InterleaveLower(d64, a, b));
    t[i + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, a, b));
    t[i + 2] = hn::BitCast(d, hn::InterleaveLower(d64, c, e));
    t[i + 3] = hn::BitCast(d, hn::InterleaveUpper(d64, c, e));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = hn::ConcatLowerLower(d, t[4 + i], t[i]);
    v[4 + i] = hn::ConcatUpperUpper(d, t[4 + i], t[i]);
  }
}

#endif

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
