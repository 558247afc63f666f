#include "backend/cpu/int8_product.h"

#include <algorithm>
#include <array>
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
#include "backend/cpu/transpose_inl.h"
#include "tensor/block_formats.h"
#include "tensor/code_format.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using int8_product::kChunkParts;
using int8_product::kPart;
using int8_product::kTileRows;
using int8_product::PackedTile;
using int8_product::QuantizedRows;

using Floats = hn::ScalableTag<float>;
using Ints = hn::RebindToSigned<Floats>;

constexpr int64_t kFours = kQuantGroup / 4, kPartFours = kPart / 4;  ///< fours of columns in a group, in a part
constexpr int64_t kFourBytes = 4 * kTileRows;
constexpr int64_t kPlaneBytes = kFours * kFourBytes, kPartPlaneBytes = kPartFours * kFourBytes;

/// Values as bytes, `zero` for 0.
constexpr std::array<uint8_t, 16> around(int32_t zero, const float (&values)[16]) {
  std::array<uint8_t, 16> bytes{};
  for (size_t code = 0; code < bytes.size(); ++code) bytes[code] = static_cast<uint8_t>(zero + static_cast<int32_t>(values[code]));
  return bytes;
}

/// The codes of a type in parts, around its zero: what codes of four bits stand for.
template <DType kType>
struct PartCodes {
  alignas(16) static constexpr std::array<uint8_t, 16> kTable{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static constexpr int32_t kZero = 8;
};
template <>
struct PartCodes<DType::kMXFP4> {
  static constexpr int32_t kZero = 12;
  alignas(16) static constexpr std::array<uint8_t, 16> kTable = around(kZero, blocks::kTwiceE2m1);
};
template <>
struct PartCodes<DType::kFp4> : PartCodes<DType::kMXFP4> {};
template <>
struct PartCodes<DType::kIQ4_NL> {
  static constexpr int32_t kZero = 127;
  alignas(16) static constexpr std::array<uint8_t, 16> kTable = around(kZero, blocks::kNonLinear);
};
template <>
struct PartCodes<DType::kQ8_0> {
  static constexpr int32_t kZero = 128;
};

/// Calls use.operator()<dtype>() for a type in parts.
template <typename Use>
HWY_INLINE void with_parts(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kFp4: return use.template operator()<DType::kFp4>();
    case DType::kMXFP4: return use.template operator()<DType::kMXFP4>();
    case DType::kQ4_0: return use.template operator()<DType::kQ4_0>();
    case DType::kQ8_0: return use.template operator()<DType::kQ8_0>();
    case DType::kIQ4_NL: return use.template operator()<DType::kIQ4_NL>();
    default: HWY_ABORT("no type in parts");
  }
}

int32_t ZeroOf(DType dtype) {
  int32_t zero = 0;
  with_parts(dtype, [&]<DType kType>() { zero = PartCodes<kType>::kZero; });
  return zero;
}

/// Bytes from one part of a row to the next, and before a part's codes.
template <DType kType>
constexpr int64_t kPartBytes = kType == DType::kFp4 ? kPart / 2 : quant_block(kType == DType::kFp4 ? DType::kQ4_0 : kType).bytes;
template <DType kType>
constexpr int64_t kPartHead = kType == DType::kFp4     ? 0
                              : kType == DType::kMXFP4 ? 1
                                                       : 2;

/// The steps of parts [first, first + count) of the tile's rows, to the tile; of rows that are not there 0.
template <DType kType>
void steps_of_parts(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, PackedTile* tile) {
  const int64_t stride = row_bytes(kType, weight.cols);
  for (int64_t r = 0; r < kTileRows; ++r) {
    float steps[kChunkParts] = {};
    if (r < rows.num_rows) {
      if constexpr (kType == DType::kFp4) {
        codes::row_scales(*weight.format, *rows.piece, rows.piece_row + r, first, count, steps);
        for (int64_t i = 0; i < count; ++i) steps[i] *= 0.5f;  // as codes are twice the values
      } else {
        const auto* part = reinterpret_cast<const uint8_t*>(rows.data) + r * stride + first * kPartBytes<kType>;
        for (int64_t i = 0; i < count; ++i, part += kPartBytes<kType>) steps[i] = kType == DType::kMXFP4 ? blocks::mxfp4_step(part[0]) : blocks::half_at(part);
      }
    }
    for (int64_t i = 0; i < count; ++i) tile->steps[i * kTileRows + r] = steps[i];
  }
}

constexpr int64_t kGroupsAtOnce = 16;  ///< whose scales are computed together: one by one each would wait for two divisions

/// Up to kGroupsAtOnce groups of a row, `count` columns in all.
template <typename T>
HWY_INLINE void quantize_groups(const T* from, int64_t count, const QuantizedRows& out, int64_t at) {
  const Floats d;
  const Ints di;
  const hn::Rebind<int8_t, Floats> bytes;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t num_groups = (count + out.group - 1) / out.group;
  alignas(64) float scales[kGroupsAtOnce] = {}, inverses[kGroupsAtOnce];
  alignas(64) int32_t sums[kGroupsAtOnce] = {};
  bool is_finite[kGroupsAtOnce];
  for (int64_t g = 0; g < num_groups; ++g) {
    const T* const group = from + g * out.group;
    const int64_t end = std::min(out.group, count - g * out.group);
    auto most = hn::Zero(d), poison = hn::Zero(d);
    for (int64_t i = 0; i < end; i += lanes) {
      const auto v = load(d, group + i, static_cast<size_t>(std::min(lanes, end - i)));
      most = hn::Max(most, hn::Abs(v));
      poison = hn::MulAdd(v, hn::Zero(d), poison);  // infinities and NaN give NaN
    }
    scales[g] = hn::GetLane(hn::MaxOfLanes(d, most));
    is_finite[g] = hn::AllFalse(d, hn::IsNaN(poison));
  }
  for (int64_t g = 0; g < kGroupsAtOnce; g += lanes) {
    const auto most = hn::Load(d, scales + g), inverse = hn::Div(hn::Set(d, 127.0f), most);
    const auto large_enough = hn::IsFinite(inverse);  // no zeros, nor next to it
    hn::Store(hn::IfThenElseZero(large_enough, inverse), d, inverses + g);
    hn::Store(hn::IfThenElseZero(large_enough, hn::Div(most, hn::Set(d, 127.0f))), d, scales + g);
  }
  for (int64_t g = 0; g < num_groups; ++g) {
    if (!is_finite[g]) inverses[g] = 0, scales[g] = NAN;
    const T* const group = from + g * out.group;
    const int64_t end = std::min(out.group, count - g * out.group);
    int8_t* const codes = out.codes + (at + g) * out.group;
    auto sum = hn::Zero(di);
    for (int64_t i = 0; i < out.group; i += lanes) {
      auto code = hn::Zero(di);
      if (i < end && inverses[g] != 0)
        code = hn::NearestInt(hn::Mul(load(d, group + i, static_cast<size_t>(std::min(lanes, end - i))), hn::Set(d, inverses[g])));
      sum = hn::Add(sum, code);
      hn::StoreU(hn::DemoteTo(bytes, code), bytes, codes + i);
    }
    sums[g] = hn::GetLane(hn::SumOfLanes(di, sum));
  }
  for (int64_t g = 0; g < num_groups; ++g) {
    out.scales[at + g] = scales[g];
    if (out.offsets) out.offsets[at + g] = scales[g] * static_cast<float>(sums[g]);
    if (out.starts) out.starts[at + g] = -out.zero * sums[g];
  }
}

void QuantizeRows(const std::byte* x, DType dtype, int64_t num_rows, int64_t cols, const QuantizedRows& out, int64_t first_row) {
  with_type(dtype, x, [&](const auto* from) HWY_ATTR {
    for (int64_t t = 0; t < num_rows; ++t, from += cols)
      for (int64_t g = 0; g < out.num_groups; g += kGroupsAtOnce)
        quantize_groups(from + g * out.group, std::min(kGroupsAtOnce * out.group, cols - g * out.group), out, (first_row + t) * out.num_groups + g);
  });
}

#if HWY_TARGET != HWY_AVX2 && HWY_TARGET != HWY_AVX3 && HWY_TARGET != HWY_AVX3_DL

/// Plain loops; one code a byte in a single plane.
void PackTile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, const std::byte*, int64_t,
              PackedTile* tile) {
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

void PackParts(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, const std::byte*, int64_t, PackedTile* tile) {
  std::memset(tile, 0, sizeof(*tile));
  with_parts(weight.dtype, [&]<DType kType>() {
    steps_of_parts<kType>(weight, rows, first, count, tile);
    for (int64_t r = 0; r < rows.num_rows; ++r)
      for (int64_t part = 0; part < count; ++part) {
        const auto* codes =
            reinterpret_cast<const uint8_t*>(rows.data) + r * row_bytes(kType, weight.cols) + (first + part) * kPartBytes<kType> + kPartHead<kType>;
        for (int64_t i = 0; i < kPart; ++i) {
          uint8_t code;
          if constexpr (kType == DType::kQ8_0) code = codes[i] ^ 0x80;
          else if constexpr (kType == DType::kFp4) code = PartCodes<kType>::kTable[static_cast<size_t>(codes[i / 2] >> (i % 2 * 4) & 15)];
          else code = PartCodes<kType>::kTable[static_cast<size_t>(codes[i % 16] >> (i / 16 * 4) & 15)];
          tile->codes[part * kPartPlaneBytes + i / 4 * kFourBytes + 4 * r + i % 4] = code;
        }
      }
  });
}

void Multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType, int64_t first_group, int64_t num_groups,
              bool is_first, float* y) {
  for (int64_t t = 0; t < num_rows; ++t, y += kTileRows) {
    if (is_first) std::fill_n(y, kTileRows, 0.0f);
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t at = (first_row + t) * x.num_groups + first_group + g;
      for (int64_t r = 0; r < kTileRows; ++r) {
        const uint8_t* w = tile.codes + g * (x.group / 4 * kFourBytes) + 4 * r;
        int32_t sum = x.starts ? x.starts[at] : 0;
        for (int64_t i = 0; i < x.group; ++i) sum += w[i / 4 * kFourBytes + i % 4] * x.codes[at * x.group + i];
        if (!x.starts) y[r] += x.offsets[at] * tile.minima[g * kTileRows + r];
        y[r] += static_cast<float>(sum) * tile.steps[g * kTileRows + r] * x.scales[at];
      }
    }
  }
}

#else

using IntVector = hn::Vec<Ints>;
using Register = decltype(IntVector::raw);  ///< arrays of these stay in registers; arrays of Highway's vectors end on the stack

/// sums[lane] += products of the lane's four unsigned and signed bytes, over a stretch of kStretch fours.
#if HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kLongestStretch = kFours;
constexpr bool kWholeBytes = true;  ///< takes codes of 8 bits
HWY_INLINE Register add_products(Register sums, Register w, Register x, bool is_first) {
  if (is_first) sums = hn::Zero(Ints()).raw;
  // Highway 1.0.3 does not tell the compiler of this target's AVX512-VNNI, so no intrinsic.
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
  return sums;
}
HWY_INLINE IntVector whole(Register sums) { return IntVector{sums}; }
#else
/// Pairs in 16 bits: a stretch is as long as they hold, 8 * 2 * 15 * 127 < 2^15. Codes of 8 bits are multiplied in two planes of 4.
constexpr int64_t kLongestStretch = kFours / 2;
constexpr bool kWholeBytes = false;
HWY_INLINE Register add_products(Register sums, Register w, Register x, bool is_first) {
#if HWY_TARGET == HWY_AVX2
  const Register products = _mm256_maddubs_epi16(w, x);
  sums = is_first ? products : _mm256_add_epi16(sums, products);
#else
  const Register products = _mm512_maddubs_epi16(w, x);
  sums = is_first ? products : _mm512_add_epi16(sums, products);
#endif
  asm("" : "+v"(sums));  // or else the compiler makes trees of these sums that no registers hold
  return sums;
}
HWY_INLINE IntVector whole(Register sums) {
#if HWY_TARGET == HWY_AVX2
  return IntVector{_mm256_madd_epi16(sums, _mm256_set1_epi16(1))};
#else
  return IntVector{_mm512_madd_epi16(sums, _mm512_set1_epi16(1))};
#endif
}
#endif

/// Rows of x whose sums, with two vectors of rows of W, fill the registers; with dot products, the rows' results have theirs beside them.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3_DL
constexpr int kRowsAtOnce = 6;
#else
constexpr int kRowsAtOnce = 8;
#endif

/// Eight rows' codes of one group; to = their place in the tile's group.
template <bool kFourBits>
HWY_INLINE void pack_group(const uint8_t* const (&rows)[8], uint8_t* to) {
  const Eight d;
  const hn::Repartition<uint8_t, Eight> bytes;
  const auto low_halves = hn::Set(d, 0x0f0f0f0fu);
  auto put = [&](EightVector v, int64_t plane, int64_t four)
                 HWY_ATTR { hn::Store(hn::BitCast(bytes, v), bytes, to + plane * kPlaneBytes + four * kFourBytes); };
  for (int64_t part = 0; part < (kFourBits ? 1 : 2); ++part) {
    EightVector v[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) v[i] = words_at(rows[i] + 32 * part);
    transpose(v);
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; ++i) {
      if constexpr (!kFourBits && kWholeBytes) {
        put(v[i], 0, 8 * part + i);
      } else {
        put(hn::And(v[i], low_halves), 0, 8 * part + i);
        put(hn::And(hn::ShiftRight<4>(v[i]), low_halves), kFourBits ? 0 : 1, kFourBits ? kFours / 2 + i : 8 * part + i);
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
void pack_as(const uint8_t* rows, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, const std::byte* next, int64_t next_bytes,
             PackedTile* tile) {
  constexpr int64_t kCodeBytes = kFourBits ? kQuantGroup / 2 : kQuantGroup;
  constexpr int64_t kGroupBytes = (kFourBits || kWholeBytes ? 1 : 2) * kPlaneBytes;
  alignas(32) static constexpr uint8_t kNothing[int8_product::kChunkGroups * kQuantGroup] = {};
  const Eight d;
  const hn::RebindToFloat<Eight> df;
  const int64_t stride = row_bytes(kFourBits ? DType::kInt4 : DType::kInt8, cols), all_groups = (cols + kQuantGroup - 1) / kQuantGroup;
  const int64_t whole_groups = std::min(num_groups, cols / kQuantGroup - first_group);
  const int64_t share = next_bytes / (kTileRows / 8 * std::max<int64_t>(whole_groups, 1)) + 63;
  int64_t fetched = 0;
  for (int64_t r = 0; r < kTileRows; r += 8) {
    const uint8_t *codes[8], *parameters[8];
    for (int64_t i = 0; i < 8; ++i) {
      const bool is_there = r + i < num_rows;
      const uint8_t* row = rows + (r + i) * stride;
      codes[i] = is_there ? row + first_group * kCodeBytes : kNothing;
      parameters[i] = is_there ? row + stride - 4 * (all_groups - first_group) : kNothing;
    }
    auto group_of_rows = [&](int64_t g, uint8_t* to) HWY_ATTR {
      const uint8_t* from[8];
      for (int64_t i = 0; i < 8; ++i) from[i] = codes[i] + g * kCodeBytes;
      pack_group<kFourBits>(from, to);
    };
    uint8_t* to = tile->codes + 4 * r;
    for (int64_t g = 0; g < whole_groups; ++g) {
      // A share at a time, as memory takes only so many requests at once.
      for (const int64_t end = std::min(next_bytes, fetched + share); fetched < end; fetched += 64) _mm_prefetch(next + fetched, _MM_HINT_T1);
      group_of_rows(g, to + g * kGroupBytes);
    }
    if (whole_groups < num_groups) {
      uint8_t wide[8][kQuantGroup];
      for (int64_t i = 0; i < 8; ++i) {
        widen_group<kFourBits>(codes[i] + whole_groups * kCodeBytes, cols % kQuantGroup, wide[i]);
        codes[i] = wide[i];
      }
      group_of_rows(0, to + whole_groups * kGroupBytes);
    }
    // Scale and minimum of a group are a word: rows of words become columns as the codes do.
    static_assert(int8_product::kChunkGroups == 8);
    EightVector v[8];
    uint8_t few[8][32] = {};
    for (int64_t i = 0; i < 8; ++i) {
      if (num_groups < int8_product::kChunkGroups) {
        std::memcpy(few[i], parameters[i], static_cast<size_t>(4 * num_groups));
        parameters[i] = few[i];
      }
      v[i] = words_at(parameters[i]);
    }
    transpose(v);
    for (int64_t g = 0; g < num_groups; ++g) {
      const auto scale = hn::BitCast(df, hn::ShiftLeft<16>(v[g])), minimum = hn::BitCast(df, hn::And(v[g], hn::Set(d, 0xffff0000u)));
      const auto step = hn::IfThenElse(hn::Eq(scale, hn::Zero(df)), scale, hn::Div(hn::Set(df, 1.0f), scale));
      hn::Store(step, df, tile->steps + g * kTileRows + r);
      hn::Store(minimum, df, tile->minima + g * kTileRows + r);
    }
  }
}

/// A part's codes as bytes around the type's zero; p: where they begin.
template <DType kType>
HWY_INLINE EightVector bytes_of_part(const uint8_t* p) {
  using All = hn::Repartition<uint8_t, Eight>;
  const All all;
  if constexpr (kType == DType::kQ8_0) {
    return hn::BitCast(Eight(), hn::Xor(hn::LoadU(all, p), hn::Set(all, uint8_t{0x80})));
  } else {
    const hn::Half<All> half;
    const auto codes = hn::LoadU(half, p), table = hn::Load(half, PartCodes<kType>::kTable.data());
    const auto low = hn::TableLookupBytes(table, hn::And(codes, hn::Set(half, uint8_t{15}))), high = hn::TableLookupBytes(table, hn::ShiftRight<4>(codes));
    // gpt-oss's bytes have neighbours, GGUF's one of the first half and one of the second.
    if constexpr (kType == DType::kFp4)
      return hn::BitCast(Eight(), hn::Combine(all, hn::InterleaveUpper(half, low, high), hn::InterleaveLower(half, low, high)));
    else return hn::BitCast(Eight(), hn::Combine(all, high, low));
  }
}

template <DType kType>
void pack_parts_as(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes,
                   PackedTile* tile) {
  alignas(32) static constexpr uint8_t kNothing[kPart] = {};
  constexpr int64_t kAllBytes = (kWholeBytes ? 1 : 2) * kPartPlaneBytes;
  const Eight d;
  const hn::Repartition<uint8_t, Eight> bytes;
  const auto low_halves = hn::Set(d, 0x0f0f0f0fu);
  const int64_t stride = row_bytes(kType, weight.cols), share = next_bytes / (kTileRows / 8 * count) + 63;
  int64_t fetched = 0;
  for (int64_t r = 0; r < kTileRows; r += 8) {
    const uint8_t* from[8];
    int64_t step[8];
    for (int64_t i = 0; i < 8; ++i) {
      const bool is_there = r + i < rows.num_rows;
      from[i] = is_there ? reinterpret_cast<const uint8_t*>(rows.data) + (r + i) * stride + first * kPartBytes<kType> + kPartHead<kType> : kNothing;
      step[i] = is_there ? kPartBytes<kType> : 0;
    }
    uint8_t* to = tile->codes + 4 * r;
    for (int64_t part = 0; part < count; ++part, to += kAllBytes) {
      for (const int64_t end = std::min(next_bytes, fetched + share); fetched < end; fetched += 64) _mm_prefetch(next + fetched, _MM_HINT_T1);
      EightVector v[8];
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) v[i] = bytes_of_part<kType>(from[i] + part * step[i]);
      transpose(v);
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) {
        if constexpr (kWholeBytes) {
          hn::Store(hn::BitCast(bytes, v[i]), bytes, to + i * kFourBytes);
        } else {
          hn::Store(hn::BitCast(bytes, hn::And(v[i], low_halves)), bytes, to + i * kFourBytes);
          hn::Store(hn::BitCast(bytes, hn::And(hn::ShiftRight<4>(v[i]), low_halves)), bytes, to + kPartPlaneBytes + i * kFourBytes);
        }
      }
    }
  }
  steps_of_parts<kType>(weight, rows, first, count, tile);
}

void PackParts(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedTile* tile) {
  with_parts(weight.dtype, [&]<DType kType>() { pack_parts_as<kType>(weight, rows, first, count, next, next_bytes, tile); });
}

void PackTile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, const std::byte* next,
              int64_t next_bytes, PackedTile* tile) {
  const auto* from = reinterpret_cast<const uint8_t*>(rows);
  (dtype == DType::kInt4 ? pack_as<true> : pack_as<false>)(from, cols, num_rows, first_group, num_groups, next, next_bytes, tile);
}

/// What multiply_rows() works on: the first of its rows, the first of its groups.
struct Operands {
  const int8_t* x;  ///< codes, rows of x_stride
  const float *scales, *offsets;
  const int32_t* starts;
  int64_t num_groups_all;  ///< in a row of x
  const PackedTile* tile;
  int64_t num_groups;
  bool is_first;
  bool is_last;  ///< no rows after these
  float* y;      ///< rows of kTileRows
};

constexpr int kVectors = 2;  ///< of rows of W, at a time

/// Four codes of x in every lane.
HWY_INLINE Register broadcast_four(const int8_t* x) {
  float columns;  // no number: broadcasting a float from memory is the fastest way for any 4 bytes
  std::memcpy(&columns, x, sizeof(columns));
  return hn::BitCast(Ints(), hn::Set(Floats(), columns)).raw;
}

/// sums [kRows, kVectors vectors] of a stretch, or added to what they are: rows of x from `x` on, the fours of the tile from `w` on.
template <int kRows, int64_t kStretch, bool kAdd>
HWY_INLINE void sum_products(const int8_t* x, int64_t x_stride, const uint8_t* w, Register (&sums)[kRows][kVectors]) {
  const Ints di;
  const hn::Repartition<uint8_t, Ints> bytes;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
#pragma GCC unroll 16
  for (int64_t four = 0; four < kStretch; ++four) {
    const Register w0 = hn::Load(bytes, w + four * kFourBytes).raw, w1 = hn::Load(bytes, w + four * kFourBytes + 4 * lanes).raw;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const Register broadcast = broadcast_four(x + m * x_stride + 4 * four);
      sums[m][0] = add_products(sums[m][0], w0, broadcast, !kAdd && four == 0);
      sums[m][1] = add_products(sums[m][1], w1, broadcast, !kAdd && four == 0);
    }
  }
}

#if HWY_TARGET == HWY_AVX3_DL

/// kRows rows of x times the whole tile. A group's sums and the results stay in registers: stores are what this would wait for.
template <int kRows, int kPlanes, bool kParts>
HWY_INLINE void multiply_rows(const Operands& at) {
  static_assert(kPlanes == 1 && kLongestStretch == kFours && kWholeBytes);
  constexpr int64_t kGroup = kParts ? kPart : kQuantGroup;
  using Floated = hn::Vec<Floats>;
  const Floats d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  static_assert(kVectors * kLanes == kTileRows);
  const int64_t all_groups = at.num_groups_all, x_stride = all_groups * kGroup;
  decltype(Floated::raw) y[kRows][kVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) y[m][v] = at.is_first ? hn::Zero(d).raw : hn::Load(d, at.y + m * kTileRows + v * kLanes).raw;
  const int8_t* x = at.x;
  const uint8_t* w = at.tile->codes;
  for (int64_t g = 0; g < at.num_groups; ++g, x += kGroup, w += kParts ? kPartPlaneBytes : kPlaneBytes) {
    if (!at.is_last)  // what the next rows begin with is not in the nearest cache yet
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) _mm_prefetch(reinterpret_cast<const char*>(x + (kRows + m) * x_stride), _MM_HINT_T0);
    Register sums[kRows][kVectors];
    const float* const steps = at.tile->steps + g * kTileRows;
    if constexpr (kParts) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) sums[m][0] = sums[m][1] = hn::Set(Ints(), at.starts[m * all_groups + g]).raw;
    }
    sum_products<kRows, kGroup / 4, kParts>(x, x_stride, w, sums);
    if constexpr (kParts) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const auto scale = hn::Set(d, at.scales[m * all_groups + g]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          y[m][v] = hn::MulAdd(hn::Mul(hn::ConvertTo(d, IntVector{sums[m][v]}), hn::Load(d, steps + v * kLanes)), scale, Floated{y[m][v]}).raw;
      }
    } else {
      const float* const minima = at.tile->minima + g * kTileRows;
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const auto scale = hn::Set(d, at.scales[m * all_groups + g]), offset = hn::Set(d, at.offsets[m * all_groups + g]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          const auto codes = hn::Mul(hn::ConvertTo(d, IntVector{sums[m][v]}), hn::Load(d, steps + v * kLanes));
          y[m][v] = hn::MulAdd(codes, scale, hn::MulAdd(offset, hn::Load(d, minima + v * kLanes), Floated{y[m][v]})).raw;
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) hn::Store(Floated{y[m][v]}, d, at.y + m * kTileRows + v * kLanes);
}

#else

/// Adds the sums of a stretch, times 2^kShift, to total [kRows, kVectors vectors], or sets it.
template <int kRows, int kShift, bool kAdd>
HWY_INLINE void sum_stretch(const int8_t* x, int64_t x_stride, const uint8_t* w, int32_t* total) {
  const Ints di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
  Register sums[kRows][kVectors];
  sum_products<kRows, kLongestStretch, false>(x, x_stride, w, sums);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const IntVector part = hn::ShiftLeft<kShift>(whole(sums[m][v]));
      int32_t* const to = total + (m * kVectors + v) * lanes;
      hn::Store(kAdd ? hn::Add(hn::Load(di, to), part) : part, di, to);
    }
}

/// kRows rows of x times the whole tile.
template <int kRows, int kPlanes, bool kParts>
HWY_INLINE void multiply_rows(const Operands& at) {
  const Floats d;
  const Ints di;
  constexpr int64_t kGroup = kParts ? kPart : kQuantGroup, kPlane = kParts ? kPartPlaneBytes : kPlaneBytes;
  constexpr bool kSecondStretch = kLongestStretch < kGroup / 4;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t all_groups = at.num_groups_all, num_groups = at.num_groups, x_stride = all_groups * kGroup;
  const float *const scales = at.scales, *const offsets = at.offsets;
  for (int64_t n = 0; n < kTileRows; n += kVectors * lanes) {
    float* const y = at.y + n;
    if (at.is_first)
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v) hn::Store(hn::Zero(d), d, y + m * kTileRows + v * lanes);
    const int8_t* x = at.x;
    const uint8_t* w = at.tile->codes + 4 * n;
    const float *steps = at.tile->steps + n, *minima = at.tile->minima + n;
    for (int64_t g = 0; g < num_groups; ++g) {
      if (!at.is_last && n == 0)  // what the next rows begin with is not in the nearest cache yet
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) _mm_prefetch(reinterpret_cast<const char*>(x + (kRows + m) * x_stride), _MM_HINT_T0);
      alignas(64) int32_t total[kRows * kVectors * hn::MaxLanes(Ints())];
      if constexpr (kPlanes == 2) {
        sum_stretch<kRows, 4, false>(x, x_stride, w + kPlane, total);
        if constexpr (kSecondStretch) sum_stretch<kRows, 4, true>(x + 4 * kLongestStretch, x_stride, w + kPlane + kLongestStretch * kFourBytes, total);
        asm("" : "+r"(x));  // or else the compiler keeps what it has broadcast for the other plane, on the stack
      }
      sum_stretch<kRows, 0, kPlanes == 2>(x, x_stride, w, total);
      if constexpr (kSecondStretch) sum_stretch<kRows, 0, true>(x + 4 * kLongestStretch, x_stride, w + kLongestStretch * kFourBytes, total);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const auto scale = hn::Set(d, scales[m * all_groups + g]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          float* const out = y + m * kTileRows + v * lanes;
          auto sum = hn::Load(di, total + (m * kVectors + v) * lanes);
          if constexpr (kParts) sum = hn::Add(sum, hn::Set(di, at.starts[m * all_groups + g]));
          const auto codes = hn::Mul(hn::ConvertTo(d, sum), hn::Load(d, steps + v * lanes));
          auto rest = hn::Load(d, out);
          if constexpr (!kParts) rest = hn::MulAdd(hn::Set(d, offsets[m * all_groups + g]), hn::Load(d, minima + v * lanes), rest);
          hn::Store(hn::MulAdd(codes, scale, rest), d, out);
        }
      }
      x += kGroup;
      w += kPlanes * kPlane;
      steps += kTileRows;
      minima += kTileRows;
    }
  }
}

#endif  // with dot products, and without

/// Calls multiply_rows for the last rows, fewer than kRows + 1.
template <int kRows, int kPlanes, bool kParts>
HWY_INLINE void multiply_last(const Operands& at, int64_t num_rows) {
  if constexpr (kRows > 0) {
    if (num_rows == kRows) multiply_rows<kRows, kPlanes, kParts>(at);
    else multiply_last<kRows - 1, kPlanes, kParts>(at, num_rows);
  }
}

template <int kPlanes, bool kParts>
void multiply_as(Operands at, int64_t num_rows) {
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce) {
    at.is_last = num_rows - row < 2 * kRowsAtOnce;
    if (num_rows - row >= kRowsAtOnce) multiply_rows<kRowsAtOnce, kPlanes, kParts>(at);
    else multiply_last<kRowsAtOnce - 1, kPlanes, kParts>(at, num_rows - row);
    at.x += kRowsAtOnce * at.num_groups_all * (kParts ? kPart : kQuantGroup);
    at.scales += kRowsAtOnce * at.num_groups_all;
    if constexpr (kParts) at.starts += kRowsAtOnce * at.num_groups_all;
    else at.offsets += kRowsAtOnce * at.num_groups_all;
    at.y += kRowsAtOnce * kTileRows;
  }
}

void Multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType dtype, int64_t first_group, int64_t num_groups,
              bool is_first, float* y) {
  const int64_t at = first_row * x.num_groups + first_group;
  Operands operands{x.codes + at * x.group, x.scales + at, nullptr, nullptr, x.num_groups, &tile, num_groups, is_first, true, y};
  if (x.starts) {
    operands.starts = x.starts + at;
    constexpr int kPlanes = kWholeBytes ? 1 : 2;
    return multiply_as<kPlanes, true>(operands, num_rows);
  }
  operands.offsets = x.offsets + at;
  if constexpr (kWholeBytes) multiply_as<1, false>(operands, num_rows);
  else (dtype == DType::kInt4 ? multiply_as<1, false> : multiply_as<2, false>)(operands, num_rows);
}

#endif  // the kind of machine

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(ZeroOf);
HWY_EXPORT(QuantizeRows);
HWY_EXPORT(PackTile);
HWY_EXPORT(PackParts);
HWY_EXPORT(Multiply);

namespace int8_product {

int32_t zero_of(DType dtype) { return HWY_DYNAMIC_DISPATCH(ZeroOf)(dtype); }
void quantize_rows(const std::byte* x, DType dtype, int64_t num_rows, int64_t cols, const QuantizedRows& out, int64_t first_row) {
  HWY_DYNAMIC_DISPATCH(QuantizeRows)(x, dtype, num_rows, cols, out, first_row);
}
void pack_tile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, const std::byte* next,
               int64_t next_bytes, PackedTile* tile) {
  HWY_DYNAMIC_DISPATCH(PackTile)(rows, dtype, cols, num_rows, first_group, num_groups, next, next_bytes, tile);
}
void pack_parts(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedTile* tile) {
  HWY_DYNAMIC_DISPATCH(PackParts)(weight, rows, first, count, next, next_bytes, tile);
}
void multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType dtype, int64_t first_group, int64_t num_groups,
              bool is_first, float* y) {
  HWY_DYNAMIC_DISPATCH(Multiply)(x, first_row, num_rows, tile, dtype, first_group, num_groups, is_first, y);
}

}  // namespace int8_product
}  // namespace flexgen
#endif  // HWY_ONCE
