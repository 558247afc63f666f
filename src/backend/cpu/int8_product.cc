#include "backend/cpu/int8_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// SSE-only machines get the portable fallback, as in vector_rows.cc. AVX3_DL is AVX-512 with integer dot products (VNNI).
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/int8_product.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "backend/cpu/simd_inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using int8_product::kChunkGroups;
using int8_product::kTileRows;
using int8_product::PackedTile;
using int8_product::QuantizedRows;

using Floats = hn::ScalableTag<float>;
using Ints = hn::RebindToSigned<Floats>;

constexpr int64_t kFours = kQuantGroup / 4;  ///< fours of columns in a group
constexpr int64_t kFourBytes = 4 * kTileRows;
constexpr int64_t kPlaneBytes = kFours * kFourBytes;

void QuantizeRows(const std::byte* x, DType dtype, int64_t num_rows, int64_t cols, const QuantizedRows& out, int64_t first_row) {
  const Floats d;
  const Ints di;
  const hn::Rebind<int8_t, Floats> bytes;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  with_type(dtype, x, [&](const auto* from) HWY_ATTR {
    for (int64_t t = 0; t < num_rows; ++t, from += cols) {
      const int64_t at = (first_row + t) * out.num_groups;
      for (int64_t g = 0; g < out.num_groups; ++g) {
        const auto* group = from + g * kQuantGroup;
        const int64_t count = std::min(kQuantGroup, cols - g * kQuantGroup);
        auto most = hn::Zero(d), poison = hn::Zero(d);
        for (int64_t i = 0; i < count; i += lanes) {
          const auto v = load(d, group + i, static_cast<size_t>(std::min(lanes, count - i)));
          most = hn::Max(most, hn::Abs(v));
          poison = hn::MulAdd(v, hn::Zero(d), poison);  // infinities and NaN give NaN
        }
        const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
        float inverse = 127.0f / largest, scale = largest / 127.0f;
        if (!std::isfinite(inverse)) inverse = scale = 0;  // zeros, or next to it
        if (!std::isfinite(hn::GetLane(hn::SumOfLanes(d, poison)))) inverse = 0, scale = NAN;
        int8_t* codes = out.codes + (at + g) * kQuantGroup;
        auto sum = hn::Zero(di);
        for (int64_t i = 0; i < kQuantGroup; i += lanes) {
          auto code = hn::Zero(di);
          if (i < count && inverse != 0)
            code = hn::NearestInt(hn::Mul(load(d, group + i, static_cast<size_t>(std::min(lanes, count - i))), hn::Set(d, inverse)));
          sum = hn::Add(sum, code);
          hn::StoreU(hn::DemoteTo(bytes, code), bytes, codes + i);
        }
        out.scales[at + g] = scale;
        out.offsets[at + g] = scale * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, sum)));
      }
    }
  });
}

#if HWY_TARGET == HWY_SCALAR

/// One code a byte in a single plane.
void PackTile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, PackedTile* tile) {
  std::memset(tile, 0, sizeof(*tile));
  const int64_t stride = row_bytes(dtype, cols), all_groups = (cols + kQuantGroup - 1) / kQuantGroup;
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(rows) + r * stride;
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t first = (first_group + g) * kQuantGroup, count = std::min(kQuantGroup, cols - first), half = (count + 1) / 2;
      for (int64_t i = 0; i < count; ++i) {
        const uint8_t code = dtype == DType::kInt8 ? row[first + i] : i < half ? row[first / 2 + i] & 15 : row[first / 2 + i - half] >> 4;
        tile->codes[g * kPlaneBytes + i / 4 * kFourBytes + 4 * r + i % 4] = code;
      }
      uint16_t parameters[2];
      std::memcpy(parameters, row + stride - 4 * (all_groups - first_group - g), sizeof(parameters));
      const float scale = float_from_bf16(parameters[0]);
      tile->steps[g * kTileRows + r] = scale == 0 ? 0 : 1 / scale;
      tile->minima[g * kTileRows + r] = float_from_bf16(parameters[1]);
    }
  }
}

void Multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType, int64_t first_group, int64_t num_groups, bool is_first,
              float* y) {
  for (int64_t t = 0; t < num_rows; ++t, y += kTileRows) {
    if (is_first) std::fill_n(y, kTileRows, 0.0f);
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t at = (first_row + t) * x.num_groups + first_group + g;
      for (int64_t r = 0; r < kTileRows; ++r) {
        const uint8_t* w = tile.codes + g * kPlaneBytes + 4 * r;
        int32_t sum = 0;
        for (int64_t i = 0; i < kQuantGroup; ++i) sum += w[i / 4 * kFourBytes + i % 4] * x.codes[at * kQuantGroup + i];
        y[r] += x.offsets[at] * tile.minima[g * kTileRows + r];
        y[r] += static_cast<float>(sum) * tile.steps[g * kTileRows + r] * x.scales[at];
      }
    }
  }
}

#else

using Shorts = hn::Repartition<int16_t, Ints>;
using IntVector = hn::Vec<Ints>;

/// Sums of products of unsigned and signed bytes, each lane its four, over a stretch of kStretch fours.
#if HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kStretch = kFours;
constexpr bool kWholeBytes = true;  ///< takes codes of 8 bits
using Sums = IntVector;
HWY_INLINE Sums no_sums() { return hn::Zero(Ints()); }
HWY_INLINE void add_products(Sums& sums, IntVector w, IntVector x) {
  // Highway 1.0.3 does not tell the compiler of this target's AVX512-VNNI, so no intrinsic.
  asm("vpdpbusd %2, %1, %0" : "+v"(sums.raw) : "v"(w.raw), "v"(x.raw));
}
HWY_INLINE IntVector whole(Sums sums) { return sums; }
#else
/// Pairs in 16 bits: a stretch is as long as they hold, 8 * 2 * 15 * 127 < 2^15. Codes of 8 bits are multiplied in two planes of 4.
constexpr int64_t kStretch = kFours / 2;
constexpr bool kWholeBytes = false;
using Sums = hn::Vec<Shorts>;
HWY_INLINE Sums no_sums() { return hn::Zero(Shorts()); }
HWY_INLINE void add_products(Sums& sums, IntVector w, IntVector x) {
#if HWY_TARGET == HWY_AVX2
  sums.raw = _mm256_add_epi16(sums.raw, _mm256_maddubs_epi16(w.raw, x.raw));
  asm("" : "+x"(sums.raw));  // or else the compiler makes trees of these sums that no registers hold
#elif HWY_TARGET == HWY_AVX3
  sums.raw = _mm512_add_epi16(sums.raw, _mm512_maddubs_epi16(w.raw, x.raw));
  asm("" : "+v"(sums.raw));
#else
  const Shorts d;
  const auto w16 = hn::BitCast(d, w), x16 = hn::BitCast(d, x);
  const auto even = hn::Mul(hn::And(w16, hn::Set(d, 255)), hn::ShiftRight<8>(hn::ShiftLeft<8>(x16)));
  sums = hn::Add(sums, hn::Add(even, hn::Mul(hn::ShiftRight<8>(w16), hn::ShiftRight<8>(x16))));
#endif
}
HWY_INLINE IntVector whole(Sums sums) {
#if HWY_TARGET == HWY_AVX2
  return IntVector{_mm256_madd_epi16(sums.raw, _mm256_set1_epi16(1))};
#elif HWY_TARGET == HWY_AVX3
  return IntVector{_mm512_madd_epi16(sums.raw, _mm512_set1_epi16(1))};
#else
  const auto pairs = hn::BitCast(Ints(), sums);
  return hn::Add(hn::ShiftRight<16>(pairs), hn::ShiftRight<16>(hn::ShiftLeft<16>(pairs)));
#endif
}
#endif

/// Rows of x whose sums, with two vectors of rows of W, fill the registers.
#if HWY_TARGET == HWY_AVX2
constexpr int kRowsAtOnce = 6;
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr int kRowsAtOnce = 12;
#else
constexpr int kRowsAtOnce = 4;
#endif

using Four = hn::FixedTag<uint32_t, 4>;
using FourVector = hn::Vec<Four>;

/// v[i] had words of row i; afterwards it has word i of four rows.
HWY_INLINE void transpose(FourVector (&v)[4]) {
  const Four d;
  const hn::Repartition<uint64_t, Four> d64;
  const auto a = hn::BitCast(d64, hn::InterleaveLower(d, v[0], v[1])), b = hn::BitCast(d64, hn::InterleaveLower(d, v[2], v[3]));
  const auto c = hn::BitCast(d64, hn::InterleaveUpper(d, v[0], v[1])), e = hn::BitCast(d64, hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(d64, a, b));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(d64, a, b));
  v[2] = hn::BitCast(d, hn::InterleaveLower(d64, c, e));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(d64, c, e));
}

HWY_INLINE FourVector words_at(const uint8_t* p) { return hn::BitCast(Four(), hn::LoadU(hn::Repartition<uint8_t, Four>(), p)); }

/// Four rows' codes of one group, from `rows` on; to = their place in the tile's group.
template <bool kFourBits>
HWY_INLINE void pack_group(const uint8_t* const (&rows)[4], uint8_t* to) {
  const Four d;
  const hn::Repartition<uint8_t, Four> bytes;
  const auto low_halves = hn::Set(d, 0x0f0f0f0fu);
  auto put = [&](FourVector v, int64_t plane, int64_t four) HWY_ATTR { hn::Store(hn::BitCast(bytes, v), bytes, to + plane * kPlaneBytes + four * kFourBytes); };
  for (int64_t part = 0; part < (kFourBits ? 2 : 4); ++part) {
    FourVector v[4] = {words_at(rows[0] + 16 * part), words_at(rows[1] + 16 * part), words_at(rows[2] + 16 * part), words_at(rows[3] + 16 * part)};
    transpose(v);
    for (int64_t i = 0; i < 4; ++i) {
      if constexpr (!kFourBits && kWholeBytes) {
        put(v[i], 0, 4 * part + i);
      } else {
        const auto low = hn::And(v[i], low_halves), high = hn::And(hn::ShiftRight<4>(v[i]), low_halves);
        put(low, 0, 4 * part + i);
        if constexpr (kFourBits) put(high, 0, kFours / 2 + 4 * part + i);
        else put(high, 1, 4 * part + i);
      }
    }
  }
}

/// The codes of a last, short group as a whole one has them, zeros at its end.
template <bool kFourBits>
void widen_group(const uint8_t* codes, int64_t count, uint8_t* out) {
  uint8_t all[kQuantGroup] = {};
  if constexpr (kFourBits) {
    const int64_t half = (count + 1) / 2;
    for (int64_t i = 0; i < half; ++i) {
      all[i] = codes[i] & 15;
      if (half + i < count) all[half + i] = codes[i] >> 4;
    }
    for (int64_t i = 0; i < kQuantGroup / 2; ++i) out[i] = static_cast<uint8_t>(all[i] | all[kQuantGroup / 2 + i] << 4);
  } else {
    std::memcpy(all, codes, static_cast<size_t>(count));
    std::memcpy(out, all, sizeof(all));
  }
}

template <bool kFourBits>
void pack_as(const uint8_t* rows, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, PackedTile* tile) {
  constexpr int64_t kCodeBytes = kFourBits ? kQuantGroup / 2 : kQuantGroup;
  constexpr int64_t kGroupBytes = (kFourBits || kWholeBytes ? 1 : 2) * kPlaneBytes;
  constexpr int64_t kMostBytes = kChunkGroups * (kQuantGroup + 4);
  alignas(16) static constexpr uint8_t kNothing[kMostBytes] = {};
  const Four d;
  const DType dtype = kFourBits ? DType::kInt4 : DType::kInt8;
  const int64_t stride = row_bytes(dtype, cols), all_groups = (cols + kQuantGroup - 1) / kQuantGroup;
  const int64_t whole_groups = std::min(num_groups, cols / kQuantGroup - first_group);
  for (int64_t r = 0; r < kTileRows; r += 4) {
    const uint8_t *codes[4], *parameters[4];
    for (int64_t i = 0; i < 4; ++i) {
      const bool is_there = r + i < num_rows;
      const uint8_t* row = rows + (r + i) * stride;
      codes[i] = is_there ? row + first_group * kCodeBytes : kNothing;
      parameters[i] = is_there ? row + stride - 4 * (all_groups - first_group) : kNothing;
    }
    uint8_t* to = tile->codes + 4 * r;
    for (int64_t g = 0; g < whole_groups; ++g) {
      const uint8_t* const from[4] = {codes[0] + g * kCodeBytes, codes[1] + g * kCodeBytes, codes[2] + g * kCodeBytes, codes[3] + g * kCodeBytes};
      pack_group<kFourBits>(from, to + g * kGroupBytes);
    }
    if (whole_groups < num_groups) {
      uint8_t wide[4][kQuantGroup];
      for (int64_t i = 0; i < 4; ++i) widen_group<kFourBits>(codes[i] + whole_groups * kCodeBytes, cols % kQuantGroup, wide[i]);
      const uint8_t* const from[4] = {wide[0], wide[1], wide[2], wide[3]};
      pack_group<kFourBits>(from, to + whole_groups * kGroupBytes);
    }
    // Scale and minimum of a group are a word: rows of words become columns as the codes do.
    for (int64_t g = 0; g < num_groups; g += 4) {
      FourVector v[4];
      for (int64_t i = 0; i < 4; ++i) {
        uint32_t words[4] = {};
        std::memcpy(words, parameters[i] + 4 * g, static_cast<size_t>(4 * std::min<int64_t>(4, num_groups - g)));
        v[i] = hn::LoadU(d, words);
      }
      transpose(v);
      const hn::RebindToFloat<Four> df;
      for (int64_t i = 0; i < std::min<int64_t>(4, num_groups - g); ++i) {
        const auto scale = hn::BitCast(df, hn::ShiftLeft<16>(v[i])), minimum = hn::BitCast(df, hn::And(v[i], hn::Set(d, 0xffff0000u)));
        const auto step = hn::IfThenElse(hn::Eq(scale, hn::Zero(df)), scale, hn::Div(hn::Set(df, 1.0f), scale));
        hn::Store(step, df, tile->steps + (g + i) * kTileRows + r);
        hn::Store(minimum, df, tile->minima + (g + i) * kTileRows + r);
      }
    }
  }
}

void PackTile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, PackedTile* tile) {
  const auto* from = reinterpret_cast<const uint8_t*>(rows);
  (dtype == DType::kInt4 ? pack_as<true> : pack_as<false>)(from, cols, num_rows, first_group, num_groups, tile);
}

/// What multiply_rows() works on: the first of its rows, the first of its groups.
struct Operands {
  const int8_t* x;         ///< codes, rows of x_stride
  const float *scales, *offsets;
  int64_t num_groups_all;  ///< in a row of x
  const PackedTile* tile;
  int64_t num_groups;
  bool is_first;
  float* y;                ///< rows of kTileRows
};

/// kRows rows of x times the whole tile.
template <int kRows, int kPlanes>
HWY_INLINE void multiply_rows(const Operands& at) {
  constexpr int kVectors = 2;
  const Floats d;
  const Ints di;
  const hn::Repartition<uint8_t, Ints> bytes;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t x_stride = at.num_groups_all * kQuantGroup;
  for (int64_t n = 0; n < kTileRows; n += kVectors * lanes) {
    if (at.is_first)
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v) hn::Store(hn::Zero(d), d, at.y + m * kTileRows + n + v * lanes);
    for (int64_t g = 0; g < at.num_groups; ++g) {
      const uint8_t* w = at.tile->codes + g * kPlanes * kPlaneBytes + 4 * n;
      IntVector total[kRows][kVectors];
#pragma GCC unroll 4
      for (int plane = kPlanes - 1; plane >= 0; --plane)
#pragma GCC unroll 4
        for (int64_t first = 0; first < kFours; first += kStretch) {
          const int8_t* x = at.x + g * kQuantGroup + 4 * first;
          const uint8_t* codes = w + plane * kPlaneBytes + first * kFourBytes;
          Sums sums[kRows][kVectors];
#pragma GCC unroll 16
          for (int m = 0; m < kRows; ++m)
            for (int v = 0; v < kVectors; ++v) sums[m][v] = no_sums();
#pragma GCC unroll 16
          for (int64_t four = 0; four < kStretch; ++four) {
            const IntVector w0 = hn::BitCast(di, hn::Load(bytes, codes + four * kFourBytes));
            const IntVector w1 = hn::BitCast(di, hn::Load(bytes, codes + four * kFourBytes + 4 * lanes));
#pragma GCC unroll 16
            for (int m = 0; m < kRows; ++m) {
              int32_t columns;
              std::memcpy(&columns, x + m * x_stride + 4 * four, sizeof(columns));
              const IntVector broadcast = hn::Set(di, columns);
              add_products(sums[m][0], w0, broadcast);
              add_products(sums[m][1], w1, broadcast);
            }
          }
#pragma GCC unroll 16
          for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) {
              const IntVector part = whole(sums[m][v]);
              if (first > 0) total[m][v] = hn::Add(total[m][v], part);
              else if (plane < kPlanes - 1) total[m][v] = hn::Add(hn::ShiftLeft<4>(total[m][v]), part);
              else total[m][v] = part;
            }
        }
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const auto step = hn::Load(d, at.tile->steps + g * kTileRows + n + v * lanes), minimum = hn::Load(d, at.tile->minima + g * kTileRows + n + v * lanes);
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          float* y = at.y + m * kTileRows + n + v * lanes;
          const auto scale = hn::Set(d, at.scales[m * at.num_groups_all + g]), offset = hn::Set(d, at.offsets[m * at.num_groups_all + g]);
          const auto sum = hn::MulAdd(offset, minimum, hn::Load(d, y));
          hn::Store(hn::MulAdd(hn::Mul(hn::ConvertTo(d, total[m][v]), step), scale, sum), d, y);
        }
      }
    }
  }
}

/// Calls multiply_rows for the last rows, fewer than kRows + 1.
template <int kRows, int kPlanes>
HWY_INLINE void multiply_last(const Operands& at, int64_t num_rows) {
  if constexpr (kRows > 0) {
    if (num_rows == kRows) multiply_rows<kRows, kPlanes>(at);
    else multiply_last<kRows - 1, kPlanes>(at, num_rows);
  }
}

template <int kPlanes>
void multiply_as(Operands at, int64_t num_rows) {
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce) {
    if (num_rows - row >= kRowsAtOnce) multiply_rows<kRowsAtOnce, kPlanes>(at);
    else multiply_last<kRowsAtOnce - 1, kPlanes>(at, num_rows - row);
    at.x += kRowsAtOnce * at.num_groups_all * kQuantGroup;
    at.scales += kRowsAtOnce * at.num_groups_all;
    at.offsets += kRowsAtOnce * at.num_groups_all;
    at.y += kRowsAtOnce * kTileRows;
  }
}

void Multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType dtype, int64_t first_group, int64_t num_groups,
              bool is_first, float* y) {
  const int64_t at = first_row * x.num_groups + first_group;
  const Operands operands{x.codes + at * kQuantGroup, x.scales + at, x.offsets + at, x.num_groups, &tile, num_groups, is_first, y};
  (dtype == DType::kInt4 || kWholeBytes ? multiply_as<1> : multiply_as<2>)(operands, num_rows);
}

#endif  // HWY_SCALAR

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(QuantizeRows);
HWY_EXPORT(PackTile);
HWY_EXPORT(Multiply);

namespace int8_product {

void quantize_rows(const std::byte* x, DType dtype, int64_t num_rows, int64_t cols, const QuantizedRows& out, int64_t first_row) {
  HWY_DYNAMIC_DISPATCH(QuantizeRows)(x, dtype, num_rows, cols, out, first_row);
}
void pack_tile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, PackedTile* tile) {
  HWY_DYNAMIC_DISPATCH(PackTile)(rows, dtype, cols, num_rows, first_group, num_groups, tile);
}
void multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType dtype, int64_t first_group, int64_t num_groups,
              bool is_first, float* y) {
  HWY_DYNAMIC_DISPATCH(Multiply)(x, first_row, num_rows, tile, dtype, first_group, num_groups, is_first, y);
}

}  // namespace int8_product
}  // namespace flexgen
#endif  // HWY_ONCE
