// Unpacking of quantized rows (tensor/group_quant.h) for every target Highway compiles for. Included once a target by the
// .cc files that use foreach_target.h, after simd_inl.h, so no #pragma once.

#if defined(FLEXGEN_BACKEND_CPU_QUANT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXGEN_BACKEND_CPU_QUANT_INL_H_
#undef FLEXGEN_BACKEND_CPU_QUANT_INL_H_
#else
#define FLEXGEN_BACKEND_CPU_QUANT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

/// The codes of a group as floats: low halves of its bytes, high halves, whole bytes.
enum class CodeBytes { kLow, kHigh, kBytes };

template <CodeBytes kCodes>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_codes(const uint8_t* p, size_t n) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> bytes;
  alignas(64) uint8_t part[hn::MaxLanes(bytes)] = {};
  if (n < hn::Lanes(d)) {
    std::memcpy(part, p, n);
    p = part;
  }
  auto code = hn::PromoteTo(di, hn::LoadU(bytes, p));
  if constexpr (kCodes == CodeBytes::kLow) code = hn::And(code, hn::Set(di, 15));
  if constexpr (kCodes == CodeBytes::kHigh) code = hn::ShiftRight<4>(code);
  return hn::ConvertTo(d, code);
}

#if HWY_TARGET <= HWY_AVX3  // and what has more
/// The sixteen elements that codes of four bits may mean, computed and rounded once for all codes of a group, in a register: 16-bit lanes are looked up at once. (Highway's tables
/// have lanes of 32 bits and more.)
class FourBitTable {
 public:
  /// Of value(0), a vector of floats: what codes 0, 1, ... mean.
  template <typename Value>
  explicit HWY_INLINE FourBitTable(const Value& value) : FourBitTable(bf16_bits(hn::Full512<float>(), value(0))) {}
  explicit HWY_INLINE FourBitTable(hn::Vec<hn::Full256<uint16_t>> elements) : elements_(hn::Combine(hn::Full512<uint16_t>(), elements, elements)) {}

  /// Of its elements times 2^exponent, all of which but zeros must be normal numbers before and after: their exponents are added to.
  HWY_INLINE FourBitTable times_two_to(int exponent) const {
    const hn::Full512<uint16_t> dw;
    const auto is_zero = hn::VecFromMask(dw, hn::Eq(hn::Add(elements_, elements_), hn::Zero(dw)));
    return FourBitTable(hn::Add(elements_, hn::AndNot(is_zero, hn::Set(dw, static_cast<uint16_t>(exponent * (1 << 7))))));
  }

  /// The elements of codes in the lower four bits of each lane, whatever the others are.
  HWY_INLINE hn::Vec<hn::Full512<uint16_t>> operator[](hn::Vec<hn::Full512<uint16_t>> codes) const {
    return hn::Vec<hn::Full512<uint16_t>>{_mm512_permutexvar_epi16(codes.raw, elements_.raw)};  // of five bits; the table is there twice
  }
  HWY_INLINE hn::Vec<hn::Full256<uint16_t>> operator[](hn::Vec<hn::Full256<uint16_t>> codes) const {
    return hn::Vec<hn::Full256<uint16_t>>{_mm256_permutexvar_epi16(codes.raw, hn::LowerHalf(hn::Full256<uint16_t>(), elements_).raw)};
  }

 private:
  explicit HWY_INLINE FourBitTable(hn::Vec<hn::Full512<uint16_t>> twice) : elements_(twice) {}

  hn::Vec<hn::Full512<uint16_t>> elements_;
};

/// The elements of kBytes bytes, 8 or 16 of them: of each byte that of its lower half, then that of its upper half.
template <int64_t kBytes>
HWY_INLINE void look_up_pairs(const FourBitTable& table, const uint8_t* codes, hwy::bfloat16_t* out) {
  const hn::CappedTag<uint32_t, kBytes> d;
  const hn::Repartition<uint16_t, decltype(d)> dw;
  const auto bytes = hn::PromoteTo(d, hn::LoadU(hn::Rebind<uint8_t, decltype(d)>(), codes));
  // In the lower 16 bits the byte, in the upper ones its upper half.
  hn::StoreU(table[hn::BitCast(dw, hn::Or(bytes, hn::ShiftLeft<12>(bytes)))], dw, reinterpret_cast<uint16_t*>(out));
}

/// The elements of 16 codes, a byte each.
HWY_INLINE void look_up_codes(const FourBitTable& table, hn::Vec<hn::Full128<uint8_t>> codes, hwy::bfloat16_t* out) {
  const hn::Full256<uint16_t> dw;
  hn::StoreU(table[hn::PromoteTo(dw, codes)], dw, reinterpret_cast<uint16_t*>(out));
}

/// The elements of 16 bytes: 16 of the lower halves at `low_out`, 16 of the upper ones at `high_out`.
HWY_INLINE void look_up_halves(const FourBitTable& low, const FourBitTable& high, const uint8_t* codes, hwy::bfloat16_t* low_out, hwy::bfloat16_t* high_out) {
  const hn::Full256<uint16_t> dw;
  const auto both = hn::PromoteTo(dw, hn::LoadU(hn::Full128<uint8_t>(), codes));
  hn::StoreU(low[both], dw, reinterpret_cast<uint16_t*>(low_out));
  hn::StoreU(high[hn::ShiftRight<4>(both)], dw, reinterpret_cast<uint16_t*>(high_out));
}

/// The elements of a whole group of four bits.
HWY_INLINE void unpack_whole_group(const uint8_t* codes, hn::Vec<hn::ScalableTag<float>> step, hn::Vec<hn::ScalableTag<float>> minimum, hwy::bfloat16_t* out) {
  const hn::Full512<float> d;
  const hn::Full512<uint16_t> dw;
  static_assert(kQuantGroup == 64);
  const FourBitTable table([&](size_t) HWY_ATTR { return hn::MulAdd(hn::Iota(d, 0.0f), step, minimum); });
  const auto both = hn::PromoteTo(dw, hn::LoadU(hn::Full256<uint8_t>(), codes));
  hn::StoreU(table[both], dw, reinterpret_cast<uint16_t*>(out));
  hn::StoreU(table[hn::ShiftRight<4>(both)], dw, reinterpret_cast<uint16_t*>(out) + kQuantGroup / 2);
}
#elif HWY_TARGET != HWY_SCALAR
/// The sixteen elements that codes of four bits may mean, computed and rounded once for all codes of a group, their bytes apart: codes are looked up byte by byte.
struct FourBitTable {
  alignas(16) uint8_t lower[16], upper[16];

  /// Of value(i), a vector of floats: what codes i, i + 1, ... mean.
  template <typename Value>
  explicit HWY_INLINE FourBitTable(const Value& value) {
    const hn::ScalableTag<float> d;
    alignas(64) uint16_t values[16];
    for (size_t i = 0; i < 16; i += hn::Lanes(d)) store(d, value(i), reinterpret_cast<hwy::bfloat16_t*>(values + i));
    const hn::Full128<uint8_t> half;
    const auto first = hn::Load(half, reinterpret_cast<const uint8_t*>(values)), second = hn::Load(half, reinterpret_cast<const uint8_t*>(values + 8));
    hn::Store(hn::ConcatEven(half, second, first), half, lower);
    hn::Store(hn::ConcatOdd(half, second, first), half, upper);
  }
};

/// The elements of kBytes bytes, 8 or 16 of them: of each byte that of its lower half, then that of its upper half.
template <int64_t kBytes>
HWY_INLINE void look_up_pairs(const FourBitTable& table, const uint8_t* codes, hwy::bfloat16_t* out) {
  const hn::CappedTag<uint8_t, kBytes> db;
  const hn::Repartition<uint16_t, decltype(db)> dw;
  const auto lower = hn::Load(hn::Full128<uint8_t>(), table.lower), upper = hn::Load(hn::Full128<uint8_t>(), table.upper);
  const auto both = hn::LoadU(db, codes), low = hn::And(both, hn::Set(db, 15)), high = hn::ShiftRight<4>(both);
  const auto low0 = hn::TableLookupBytes(lower, low), low1 = hn::TableLookupBytes(upper, low);
  const auto high0 = hn::TableLookupBytes(lower, high), high1 = hn::TableLookupBytes(upper, high);
  const auto first_low = hn::BitCast(dw, hn::InterleaveLower(db, low0, low1)), last_low = hn::BitCast(dw, hn::InterleaveUpper(db, low0, low1));
  const auto first_high = hn::BitCast(dw, hn::InterleaveLower(db, high0, high1)), last_high = hn::BitCast(dw, hn::InterleaveUpper(db, high0, high1));
  auto* to = reinterpret_cast<uint16_t*>(out);
  hn::StoreU(hn::InterleaveLower(dw, first_low, first_high), dw, to);
  hn::StoreU(hn::InterleaveUpper(dw, first_low, first_high), dw, to + kBytes / 2);
  hn::StoreU(hn::InterleaveLower(dw, last_low, last_high), dw, to + kBytes);
  hn::StoreU(hn::InterleaveUpper(dw, last_low, last_high), dw, to + kBytes * 3 / 2);
}

/// The elements of 16 codes, a byte each.
HWY_INLINE void look_up_codes(const FourBitTable& table, hn::Vec<hn::Full128<uint8_t>> codes, hwy::bfloat16_t* out) {
  const hn::Full128<uint8_t> db;
  const auto low = hn::TableLookupBytes(hn::Load(db, table.lower), codes), high = hn::TableLookupBytes(hn::Load(db, table.upper), codes);
  auto* to = reinterpret_cast<uint8_t*>(out);
  hn::StoreU(hn::InterleaveLower(db, low, high), db, to);
  hn::StoreU(hn::InterleaveUpper(db, low, high), db, to + 16);
}

/// The elements of 16 bytes: 16 of the lower halves at `low_out`, 16 of the upper ones at `high_out`.
HWY_INLINE void look_up_halves(const FourBitTable& low, const FourBitTable& high, const uint8_t* codes, hwy::bfloat16_t* low_out, hwy::bfloat16_t* high_out) {
  const hn::Full128<uint8_t> db;
  const auto both = hn::LoadU(db, codes);
  look_up_codes(low, hn::And(both, hn::Set(db, 15)), low_out);
  look_up_codes(high, hn::ShiftRight<4>(both), high_out);
}

/// The elements of a whole group of four bits.
HWY_INLINE void unpack_whole_group(const uint8_t* codes, hn::Vec<hn::ScalableTag<float>> step, hn::Vec<hn::ScalableTag<float>> minimum, hwy::bfloat16_t* out) {
  const hn::ScalableTag<float> d;
  const FourBitTable table([&](size_t i) HWY_ATTR { return hn::MulAdd(hn::Iota(d, static_cast<float>(i)), step, minimum); });
  const hn::CappedTag<uint8_t, kQuantGroup / 2> db;
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(db));
  const auto lower = hn::LoadDup128(db, table.lower), upper = hn::LoadDup128(db, table.upper);
  auto* to = reinterpret_cast<uint8_t*>(out);
  for (int64_t i = 0; i < kQuantGroup / 2; i += kLanes) {
    const auto both = hn::LoadU(db, codes + i);
    for (int64_t part = 0; part < 2; ++part) {
      const auto code = part == 0 ? hn::And(both, hn::Set(db, 15)) : hn::ShiftRight<4>(both);
      const auto low = hn::TableLookupBytes(lower, code), high = hn::TableLookupBytes(upper, code);
      // Of each 128 bits, the first and the last eight.
      const auto eights = hn::InterleaveLower(db, low, high), others = hn::InterleaveUpper(db, low, high);
      uint8_t* at = to + 2 * (i + part * kQuantGroup / 2);
      if constexpr (kLanes == 32) {
        hn::StoreU(hn::ConcatLowerLower(db, others, eights), db, at);
        hn::StoreU(hn::ConcatUpperUpper(db, others, eights), db, at + 32);
      } else {
        hn::StoreU(eights, db, at);
        hn::StoreU(others, db, at + 16);
      }
    }
  }
}
#endif

/// A row of a quantized type as elements of T.
template <typename T>
HWY_INLINE void unpack_row(const std::byte* row, DType dtype, int64_t cols, T* out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool four_bits = dtype == DType::kInt4;
  const auto* codes = reinterpret_cast<const uint8_t*>(row);
  const uint8_t* parameters = codes + (four_bits ? (cols + 1) / 2 : cols);
  for (int64_t first = 0; first < cols; first += kQuantGroup, parameters += 4) {
    const int64_t count = std::min(kQuantGroup, cols - first), half = (count + 1) / 2;
    uint16_t bits[2];
    std::memcpy(bits, parameters, sizeof(bits));
    const float scale = float_from_bf16(bits[0]);
    const auto step = hn::Set(d, scale == 0 ? 0.0f : 1 / scale);
    const auto minimum = hn::Set(d, float_from_bf16(bits[1]));
#if HWY_TARGET != HWY_SCALAR
    if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
      if (four_bits && count == kQuantGroup) {
        unpack_whole_group(codes + first / 2, step, minimum, out + first);
        continue;
      }
    }
#endif
    if (four_bits) {
      for (int64_t i = 0; i < half; i += lanes) {
        const uint8_t* at = codes + first / 2 + i;
        const auto low = static_cast<size_t>(std::min(lanes, half - i));
        const auto high = static_cast<size_t>(std::min(lanes, count - half - i));  // an odd group has one less up there
        store(d, hn::MulAdd(load_codes<CodeBytes::kLow>(at, low), step, minimum), out + first + i, low);
        store(d, hn::MulAdd(load_codes<CodeBytes::kHigh>(at, high), step, minimum), out + first + half + i, high);
      }
    } else {
      for (int64_t i = 0; i < count; i += lanes) {
        const auto n = static_cast<size_t>(std::min(lanes, count - i));
        store(d, hn::MulAdd(load_codes<CodeBytes::kBytes>(codes + first + i, n), step, minimum), out + first + i, n);
      }
    }
  }
}

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
