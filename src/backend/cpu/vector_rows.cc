#include "backend/cpu/vector_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "tensor/block_formats.h"

// SSE-only machines get the portable fallback: they are too old to be worth the compile time.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vector_rows.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
#include "backend/cpu/simd_inl.h"
#include "backend/cpu/quant_inl.h"
#include "backend/cpu/quant_search_inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using Floats = hn::ScalableTag<float>;

/// Calls body(i, n) for blocks of n <= Lanes elements at i that cover [0, count).
template <class Body>
HWY_INLINE void for_blocks(int64_t count, const Body& body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  for (int64_t i = 0; i < count; i += lanes) body(i, static_cast<size_t>(std::min(lanes, count - i)));
}

template <typename T>
bool pack_row(const T* x, DType dtype, int64_t cols, GroupRange range, std::byte* out) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  const hn::Rebind<uint8_t, Floats> bytes;
  const bool four_bits = dtype == DType::kInt4;
  const float levels = four_bits ? 15 : 255;
  auto* codes = reinterpret_cast<uint8_t*>(out);
  uint8_t* parameters = codes + (four_bits ? (cols + 1) / 2 : cols);
  for (int64_t first = 0; first < cols; first += kQuantGroup, parameters += 4) {
    const int64_t count = std::min(kQuantGroup, cols - first), half = (count + 1) / 2;
    const T* group = x + first;
    // Lanes past the end repeat the first value.
    const auto fill = load(d, group, 1);
    auto least = hn::Set(d, hn::GetLane(fill)), most = least, poison = hn::Zero(d);
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
      auto v = load(d, group + i, n);
      if (n < hn::Lanes(d)) v = hn::IfThenElse(hn::FirstN(d, n), v, hn::Set(d, hn::GetLane(fill)));
      least = hn::Min(least, v);
      most = hn::Max(most, v);
      poison = hn::MulAdd(v, hn::Zero(d), poison);  // infinities and NaN give NaN
    });
    const float smallest = hn::GetLane(hn::MinOfLanes(d, least)), largest = hn::GetLane(hn::MaxOfLanes(d, most));
    if (!std::isfinite(hn::GetLane(hn::SumOfLanes(d, poison))) || !std::isfinite(largest - smallest)) return false;
    GroupEnds ends(smallest, largest, levels);
    if (range == GroupRange::kMse && ends.scale != 0) {
      alignas(64) float values[kQuantGroup] = {};
      for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, load(d, group + i, n), values + i, n); });
      ends = least_error(values, count, ends, levels);
    }
    const uint16_t bits[2] = {ends.scale, ends.minimum};
    std::memcpy(parameters, bits, sizeof(bits));
    const auto scale = hn::Set(d, float_from_bf16(bits[0])), minimum = hn::Set(d, float_from_bf16(bits[1]));
    auto code = [&](int64_t i, size_t n) HWY_ATTR {
      const auto scaled = hn::Mul(hn::Sub(load(d, group + i, n), minimum), scale);
      return hn::NearestInt(hn::Min(hn::Max(scaled, hn::Zero(d)), hn::Set(d, levels)));
    };
    auto put = [&](hn::Vec<decltype(di)> values, uint8_t* to, size_t n) HWY_ATTR {
      alignas(64) uint8_t part[hn::MaxLanes(bytes)];
      hn::StoreU(hn::DemoteTo(bytes, values), bytes, part);
      std::memcpy(to, part, n);
    };
    if (four_bits) {
      for_blocks(half, [&](int64_t i, size_t n) HWY_ATTR {
        const auto above = static_cast<size_t>(std::clamp<int64_t>(count - half - i, 0, static_cast<int64_t>(n)));
        auto high = above == 0 ? hn::Zero(di) : code(half + i, above);
        if (above < hn::Lanes(d)) high = hn::IfThenElseZero(hn::FirstN(di, above), high);
        put(hn::Or(code(i, n), hn::ShiftLeft<4>(high)), codes + first / 2 + i, n);
      });
    } else {
      for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { put(code(i, n), codes + first + i, n); });
    }
  }
  return true;
}

/// A row of blocks as elements of T.
template <DType kType, typename T>
HWY_NOINLINE void unpack_blocks(const void* row, int64_t cols, T* out) {
  const Floats d;
  constexpr QuantBlock kShape = quant_block(kType);
  const auto* block = static_cast<const uint8_t*>(row);
  for (int64_t first = 0; first < cols; first += kShape.elements, block += kShape.bytes) {
    if constexpr (std::is_same_v<T, float>) {
      blocks::unpack<kType>(block, out + first);
#if HWY_TARGET != HWY_SCALAR
    } else if constexpr (blocks::has_sixteen_values(kType) && std::is_same_v<T, hwy::bfloat16_t>) {
      alignas(64) float values[16];
      const uint8_t* const codes = blocks::sixteen_values<kType>(block, values);
      const FourBitTable table([&](size_t i) HWY_ATTR { return hn::Load(d, values + i); });
      look_up_halves(table, table, codes, out + first, out + first + 16);
    } else if constexpr (kType == DType::kQ4_K && std::is_same_v<T, hwy::bfloat16_t>) {
      for (int part = 0; part < 8; part += 2) {
        const blocks::Part low = blocks::q4_k_part(block, part), high = blocks::q4_k_part(block, part + 1);
        auto table_of = [&](const blocks::Part& of) HWY_ATTR {
          return FourBitTable([&](size_t i)
                                  HWY_ATTR { return hn::Sub(hn::Mul(hn::Set(d, of.scale), hn::Iota(d, static_cast<float>(i))), hn::Set(d, of.minimum)); });
        };
        const FourBitTable low_table = table_of(low), high_table = table_of(high);
        for (int i = 0; i < 32; i += 16) look_up_halves(low_table, high_table, low.codes + i, out + first + part * 32 + i, out + first + part * 32 + 32 + i);
      }
    } else if constexpr (kType == DType::kIQ4_XS && std::is_same_v<T, hwy::bfloat16_t>) {
      for (int i = 0; i < 8; ++i) {
        const blocks::Part part = blocks::iq4_xs_part(block, i);
        const FourBitTable table([&](size_t q) HWY_ATTR { return hn::Mul(hn::Set(d, part.scale), hn::LoadU(d, blocks::kNonLinear + q)); });
        look_up_halves(table, table, part.codes, out + first + i * 32, out + first + i * 32 + 16);
      }
#endif
    } else {
      alignas(64) float values[kShape.elements];
      blocks::unpack<kType>(block, values);
      for (int64_t i = 0; i < kShape.elements; i += static_cast<int64_t>(hn::Lanes(d))) store(d, hn::Load(d, values + i), out + first + i);
    }
  }
}

bool Convert(const void* src, DType src_dtype, int64_t count, DType dst_dtype, void* dst, GroupRange range) {
  const Floats d;
  bool good = true;
  if (is_blocked(src_dtype) && is_grouped(dst_dtype)) {
    std::vector<float> row(static_cast<size_t>(count));
    blocks::with_format(src_dtype, [&]<DType kType>() HWY_ATTR { unpack_blocks<kType>(src, count, row.data()); });
    good = pack_row(row.data(), dst_dtype, count, range, static_cast<std::byte*>(dst));
  } else if (is_blocked(src_dtype)) {
    with_type(dst_dtype, dst,
              [&](auto* to) HWY_ATTR { blocks::with_format(src_dtype, [&]<DType kType>() HWY_ATTR { unpack_blocks<kType>(src, count, to); }); });
  } else if (is_quantized(src_dtype)) {
    with_type(dst_dtype, dst, [&](auto* to) HWY_ATTR { unpack_row(static_cast<const std::byte*>(src), src_dtype, count, to); });
  } else if (is_quantized(dst_dtype)) {
    with_type(src_dtype, src, [&](const auto* from) HWY_ATTR { good = pack_row(from, dst_dtype, count, range, static_cast<std::byte*>(dst)); });
  } else {
    with_type(src_dtype, src, [&](const auto* from) HWY_ATTR {
      with_type(dst_dtype, dst,
                [&](auto* to) HWY_ATTR { for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, load(d, from + i, n), to + i, n); }); });
    });
  }
  return good;
}

#if HWY_TARGET != HWY_SCALAR
/// A row of codes of four bits in groups of `size` columns, a multiple of 16. table_of(group): what the codes of a group mean.
template <typename TableOf>
HWY_INLINE void look_up_groups(const uint8_t* at, int64_t cols, int64_t size, const TableOf& table_of, hwy::bfloat16_t* out) {
  for (int64_t group = 0; group < cols / size; ++group) {
    const FourBitTable table = table_of(group);
    int64_t done = 0;
    for (; done + 32 <= size; done += 32, at += 16, out += 32) look_up_pairs<16>(table, at, out);
    if (done < size) look_up_pairs<8>(table, at, out), at += 8, out += 16;
  }
}

#if HWY_TARGET <= HWY_AVX3  // and what has more
/// As unpack_pairs(), of e2m1 codes whose scales are powers of two (MXFP4): nothing is multiplied where all that codes mean stays normal.
HWY_INLINE void unpack_powers(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t cols, int64_t size, hwy::bfloat16_t* out) {
  const Floats d;
  alignas(64) float numbers[16];
  for (uint32_t code = 0; code < 16; ++code) numbers[code] = codes::e2m1_value(code);
  const auto values = hn::Load(d, numbers);
  const FourBitTable unscaled([&](size_t) HWY_ATTR { return values; });
  constexpr int kBias = 127;
  const auto* scales = reinterpret_cast<const uint8_t*>(piece.beside[kScales]) + format.first_scale(row);
  const auto* at = reinterpret_cast<const uint8_t*>(piece.data) + row * row_bytes(DType::kFp4, cols);
  const auto table_of = [&](int64_t group) HWY_ATTR {
    const int code = scales[group];
    if (code >= codes::kLeastUsualPower && code <= codes::kMostUsualPower) return unscaled.times_two_to(code - kBias);
    const auto scale = hn::Set(d, codes::e8m0_value(static_cast<uint8_t>(code)));
    return FourBitTable([&](size_t) HWY_ATTR { return hn::Mul(values, scale); });
  };
  look_up_groups(at, cols, size, table_of, out);
}
#endif

/// A row of codes of four bits in groups of `size` columns, a multiple of 16: what the codes of a group mean is computed once, as unpack_row() would.
template <DType kType>
HWY_INLINE void unpack_pairs(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t cols, int64_t size, hwy::bfloat16_t* out) {
#if HWY_TARGET <= HWY_AVX3
  if (kType == DType::kFp4 && format.scale_type == ScaleType::kE8M0 && !format.has_global) return unpack_powers(format, piece, row, cols, size, out);
#endif
  const Floats d;
  alignas(64) constexpr uint8_t kAll[8] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};  // each code once, in order
  alignas(64) float numbers[16];
  codes::row_codes<kType>(kAll, 0, 16, numbers);
  const auto* at = reinterpret_cast<const uint8_t*>(piece.data) + row * row_bytes(kType, cols);
  constexpr int64_t kScales = 64;
  alignas(64) float scales[kScales];
  const auto table_of = [&](int64_t group) HWY_ATTR {
    if (group % kScales == 0) codes::row_scales(format, piece, row, group, std::min(kScales, cols / size - group), scales);
    const auto zero = hn::Set(d, codes::row_zero<kType>(format, piece, row, group)), scale = hn::Set(d, scales[group % kScales]);
    return FourBitTable([&](size_t i) HWY_ATTR { return hn::Mul(hn::Sub(hn::Load(d, numbers + i), zero), scale); });
  };
  look_up_groups(at, cols, size, table_of, out);
}

/// Rows of codes of four bits that lie by columns, in groups of `size` columns, a multiple of 64, likewise.
template <DType kType>
HWY_INLINE void look_up_columns(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, int64_t size,
                                hwy::bfloat16_t* out) {
  const Floats d;
  std::vector<float> scales(static_cast<size_t>(format.num_groups * num_rows)), zeros(scales.size());
  codes::column_groups<kType>(format, piece, first, num_rows, scales.data(), zeros.data());
  uint32_t words[(codes::kRowPart / 4 + 1) * codes::kColumnPart];  // as unpack_columns() has them
  for (int64_t column = 0; column < cols; column += codes::kColumnPart) {
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t part = row / codes::kRowPart * codes::kRowPart, at = column / size * num_rows + row;
      if (row == part) codes::column_words<kType>(format, piece, first + part, std::min(num_rows - part, codes::kRowPart), column, codes::kColumnPart, words);
      const auto zero = hn::Set(d, zeros[static_cast<size_t>(at)]), scale = hn::Set(d, scales[static_cast<size_t>(at)]);
      const FourBitTable table([&](size_t i) HWY_ATTR { return hn::Mul(hn::Sub(hn::Iota(d, static_cast<float>(i)), zero), scale); });
      hwy::bfloat16_t* const to = out + row * cols + column;
      if constexpr (kType == DType::kGptq4) {
        alignas(16) uint32_t of_row[codes::kColumnPart / 8];  // a word's codes in the order of the columns, so bytes of two
        for (int64_t i = 0; i < codes::kColumnPart / 8; ++i) of_row[i] = words[i * codes::kRowPart + row - part];
        for (int64_t i = 0; i < codes::kColumnPart; i += 32) look_up_pairs<16>(table, reinterpret_cast<const uint8_t*>(of_row) + i / 2, to + i);
      } else {
        const uint32_t* const of_row = words + ((first + row) / 8 - (first + part) / 8) * codes::kColumnPart;
        const auto shift = static_cast<uint32_t>(4 * codes::awq_place(first + row));
        alignas(64) uint8_t one_each[codes::kColumnPart];
        for (int64_t i = 0; i < codes::kColumnPart; ++i) one_each[i] = static_cast<uint8_t>(of_row[i] >> shift & 15);
        for (int64_t i = 0; i < codes::kColumnPart; i += 16) look_up_codes(table, hn::Load(hn::Full128<uint8_t>(), one_each + i), to + i);
      }
    }
  }
}
#endif

/// A function for each type of codes and of elements, as compilers look at one at a time.
template <DType kType, typename T>
HWY_NOINLINE void unpack_code_rows(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, T* out) {
  const Floats d;
#if HWY_TARGET != HWY_SCALAR
  if constexpr ((kType == DType::kFp4 || kType == DType::kPacked4) && std::is_same_v<T, hwy::bfloat16_t>) {
    const int64_t size = format.scale_columns == 0 ? cols : format.scale_columns;
    if (!format.has_order && size % 16 == 0 && cols % size == 0) {
      for (int64_t row = 0; row < num_rows; ++row) unpack_pairs<kType>(format, piece, first + row, cols, size, out + row * cols);
      return;
    }
  } else if constexpr ((kType == DType::kGptq4 || kType == DType::kAwq4) && std::is_same_v<T, hwy::bfloat16_t>) {
    const int64_t size = format.scale_columns == 0 ? cols : format.scale_columns;
    if (!format.has_order && size % codes::kColumnPart == 0 && cols % size == 0) return look_up_columns<kType>(format, piece, first, num_rows, cols, size, out);
  }
#endif
  codes::unpack_rows<kType>(format, piece, first, num_rows, cols, [&](int64_t row, int64_t column, int64_t count, const float* values) HWY_ATTR {
    T* const to = out + row * cols + column;
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, load(d, values + i, n), to + i, n); });
  });
}

void UnpackCodes(const CodeFormat& format, DType dtype, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, DType to, void* out) {
  with_type(to, out, [&](auto* rows) HWY_ATTR {
    codes::with_codes(dtype, [&]<DType kType>() HWY_ATTR { unpack_code_rows<kType>(format, piece, first, num_rows, cols, rows); });
  });
}

void Add(const void* row, DType dtype, int64_t count, float* out) {
  const Floats d;
  with_type(dtype, row, [&](const auto* from) HWY_ATTR {
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, hn::Add(load(d, out + i, n), load(d, from + i, n)), out + i, n); });
  });
}

void AddProduct(const float* x, int64_t x_stride, int64_t num_rows, int64_t cols, const float* bias, bool accumulate, float* y, int64_t y_stride) {
  const Floats d;
  for (int64_t r = 0; r < num_rows; ++r, x += x_stride, y += y_stride)
    for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR {
      auto v = load(d, x + i, n);
      if (bias != nullptr) v = hn::Add(v, load(d, bias + i, n));
      if (accumulate) v = hn::Add(load(d, y + i, n), v);
      store(d, v, y + i, n);
    });
}

void LayerNorm(const float* x, int64_t num_rows, int64_t cols, const float* weight, const float* bias, float epsilon, DType dtype, void* out) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  with_type(dtype, out, [&](auto* y) HWY_ATTR {
    for (int64_t r = 0; r < num_rows; ++r, x += cols, y += cols) {
      auto sum = hn::Zero(d);
      for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR { sum = hn::Add(sum, load(d, x + i, n)); });
      const auto mean = hn::Div(hn::SumOfLanes(d, sum), hn::Set(d, static_cast<float>(cols)));
      auto square = hn::Zero(d);
      for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR {
        auto centered = hn::Sub(load(d, x + i, n), mean);
        if (static_cast<int64_t>(n) < lanes) centered = hn::IfThenElseZero(hn::FirstN(d, n), centered);
        square = hn::MulAdd(centered, centered, square);
      });
      const float variance = hn::GetLane(hn::SumOfLanes(d, square)) / static_cast<float>(cols);
      const auto scale = hn::Set(d, 1.0f / std::sqrt(variance + epsilon));
      for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR {
        auto v = hn::Mul(hn::Sub(load(d, x + i, n), mean), scale);
        v = bias != nullptr ? hn::MulAdd(v, load(d, weight + i, n), load(d, bias + i, n)) : hn::Mul(v, load(d, weight + i, n));
        store(d, v, y + i, n);
      });
    }
  });
}

void RmsNorm(const float* x, int64_t num_rows, int64_t cols, const float* weight, float epsilon, DType dtype, void* out) {
  const Floats d;
  with_type(dtype, out, [&](auto* y) HWY_ATTR {
    for (int64_t r = 0; r < num_rows; ++r, x += cols, y += cols) {
      auto square = hn::Zero(d);
      for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR {
        const auto v = load(d, x + i, n);
        square = hn::MulAdd(v, v, square);
      });
      const float mean = hn::GetLane(hn::SumOfLanes(d, square)) / static_cast<float>(cols);
      const auto scale = hn::Set(d, 1.0f / std::sqrt(mean + epsilon));
      for_blocks(cols, [&](int64_t i, size_t n) HWY_ATTR { store(d, hn::Mul(hn::Mul(load(d, x + i, n), scale), load(d, weight + i, n)), y + i, n); });
    }
  });
}

/// erf by the C library, lane by lane: rare, and exact to the last bits of a float.
template <class D>
HWY_INLINE hn::Vec<D> erf_lanes(D d, hn::Vec<D> v) {
  alignas(64) float lane[hn::MaxLanes(D())];
  hn::Store(v, d, lane);
  for (float& x : lane) x = std::erf(x);
  return hn::Load(d, lane);
}

template <Activation kActivation, class D>
HWY_INLINE hn::Vec<D> activation_of(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  const auto half_x = hn::Mul(x, hn::Set(d, 0.5f));
  if constexpr (kActivation == Activation::kRelu || kActivation == Activation::kReluSquared) {
    const auto positive = hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);  // NaN stays, as a maximum would not let it
    return kActivation == Activation::kRelu ? positive : hn::Mul(positive, positive);
  } else if constexpr (kActivation == Activation::kGelu) {
    return hn::Mul(half_x, hn::Add(one, erf_lanes(d, hn::Mul(x, hn::Set(d, 0.70710678118654752f)))));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    const auto cube = hn::Mul(hn::Mul(x, x), x);
    const auto inner = hn::Mul(hn::Set(d, 0.79788456080286536f), hn::MulAdd(hn::Set(d, 0.044715f), cube, x));
    return hn::Mul(half_x, hn::Add(one, hn::Tanh(d, inner)));
  } else {
    // exp overflows past 88; x / (1 + exp(80)) is 0 already.
    const auto negated = hn::Min(hn::Neg(x), hn::Set(d, 80.0f));
    return hn::Div(x, hn::Add(one, hn::Exp(d, negated)));
  }
}

template <Activation kActivation>
void activate_as(const float* x, const float* up, int64_t count, DType dtype, void* out) {
  const Floats d;
  with_type(dtype, out, [&](auto* y) HWY_ATTR {
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
      auto v = activation_of<kActivation>(d, load(d, x + i, n));
      if (up != nullptr) v = hn::Mul(v, load(d, up + i, n));
      store(d, v, y + i, n);
    });
  });
}

void Activate(const float* x, const float* up, int64_t count, Activation activation, DType dtype, void* out) {
  switch (activation) {
    case Activation::kRelu: return activate_as<Activation::kRelu>(x, up, count, dtype, out);
    case Activation::kReluSquared: return activate_as<Activation::kReluSquared>(x, up, count, dtype, out);
    case Activation::kGelu: return activate_as<Activation::kGelu>(x, up, count, dtype, out);
    case Activation::kGeluTanh: return activate_as<Activation::kGeluTanh>(x, up, count, dtype, out);
    case Activation::kSilu: return activate_as<Activation::kSilu>(x, up, count, dtype, out);
  }
}

void ClampGate(const GatedValues& x, int64_t count, const ClampedGate& rule, DType dtype, void* out) {
  const Floats d;
  const auto limit = hn::Set(d, rule.limit), one = hn::Set(d, 1.0f);
  with_type(dtype, out, [&](auto* y) HWY_ATTR {
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
      hn::Vec<Floats> gate, up;
      if (x.step == 1) {
        gate = load(d, x.gate + i, n);
        up = load(d, x.up + i, n);
      } else {
        alignas(64) float part[2 * hn::MaxLanes(Floats())] = {};
        const float* pairs = x.gate + 2 * i;
        if (n < hn::Lanes(d)) pairs = static_cast<const float*>(std::memcpy(part, pairs, 2 * n * sizeof(float)));
        hn::LoadInterleaved2(d, pairs, gate, up);
      }
      gate = hn::IfThenElse(hn::Gt(gate, limit), limit, gate);  // not Min(), which need not keep NaN
      up = hn::IfThenElse(hn::Gt(hn::Abs(up), limit), hn::CopySign(limit, up), up);
      const auto negated = hn::Min(hn::Mul(gate, hn::Set(d, -rule.alpha)), hn::Set(d, 80.0f));
      store(d, hn::Mul(hn::Div(gate, hn::Add(one, hn::Exp(d, negated))), hn::Add(up, one)), y + i, n);
    });
  });
}

void AddScaled(const float* x, int64_t count, float factor, float* y) {
  const Floats d;
  for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, hn::MulAdd(load(d, x + i, n), hn::Set(d, factor), load(d, y + i, n)), y + i, n); });
}

void Scale(float* x, int64_t count, float factor, float cap) {
  const Floats d;
  if (cap == 0) {
    for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR { store(d, hn::Mul(load(d, x + i, n), hn::Set(d, factor)), x + i, n); });
    return;
  }
  for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
    const auto v = load(d, x + i, n);
    const auto capped = hn::Mul(hn::Tanh(d, hn::Div(hn::Mul(v, hn::Set(d, factor)), hn::Set(d, cap))), hn::Set(d, cap));
    store(d, hn::IfThenElse(hn::IsNaN(v), v, capped), x + i, n);  // Tanh() need not keep NaN
  });
}

void Clamp(float* x, int64_t count, float limit) {
  const Floats d;
  const auto most = hn::Set(d, limit);
  for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
    const auto v = load(d, x + i, n);
    store(d, hn::IfThenElse(hn::Gt(hn::Abs(v), most), hn::CopySign(most, v), v), x + i, n);  // not Min() and Max(), which need not keep NaN
  });
}

void RotateNeighbours(float* x, int64_t num_heads, int64_t head_size, int64_t half, const float* cosine, const float* sine) {
  for (int64_t head = 0; head < num_heads; ++head, x += head_size)
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cosine[i] - b * sine[i];
      x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

void Rotate(float* x, int64_t num_heads, int64_t head_size, int64_t half, bool interleaved, const float* cosine, const float* sine) {
  const Floats d;
  if (interleaved) return RotateNeighbours(x, num_heads, head_size, half, cosine, sine);
  for (int64_t head = 0; head < num_heads; ++head, x += head_size)
    for_blocks(half, [&](int64_t i, size_t n) HWY_ATTR {
      const auto a = load(d, x + i, n), b = load(d, x + half + i, n);
      const auto c = load(d, cosine + i, n), s = load(d, sine + i, n);
      store(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), x + i, n);
      store(d, hn::MulAdd(a, s, hn::Mul(b, c)), x + half + i, n);
    });
}

/// The first value that is NaN or +infinity; -1: none.
int64_t first_not_finite(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!(x[i] < std::numeric_limits<float>::infinity())) return i;
  return -1;
}

int64_t LargestAt(const float* x, int64_t count) {
  const Floats d;
  constexpr int64_t kBlock = 1024;
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  float largest = kLeast;
  int64_t block = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    auto most = hn::Set(d, kLeast), sum = hn::Zero(d);
    for_blocks(std::min(kBlock, count - first), [&](int64_t i, size_t n) HWY_ATTR {
      auto v = load(d, x + first + i, n);
      sum = hn::Add(sum, v);
      if (n < hn::Lanes(d)) v = hn::IfThenElse(hn::FirstN(d, n), v, hn::Set(d, kLeast));
      most = hn::Max(most, v);
    });
    // NaN and +infinity stay in a sum, which large numbers could overflow too: so they are looked for.
    if (!(hn::GetLane(hn::SumOfLanes(d, sum)) < std::numeric_limits<float>::infinity()))
      if (const int64_t at = first_not_finite(x + first, std::min(kBlock, count - first)); at >= 0) return first + at;
    const float of_block = hn::GetLane(hn::MaxOfLanes(d, most));
    if (of_block > largest) largest = of_block, block = first;
  }
  while (x[block] != largest) ++block;
  return block;
}

using Bits = hn::RebindToUnsigned<Floats>;

/// scramble() of each lane.
HWY_INLINE hn::Vec<Bits> scramble_lanes(hn::Vec<Bits> x) {
  const Bits d;
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(d, 0x7feb352du));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(d, 0x846ca68bu));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

/// fraction_of() of each lane.
HWY_INLINE hn::Vec<Floats> fractions_of(hn::Vec<Bits> bits) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  // In halves, as not all machines convert unsigned numbers.
  const auto high = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<16>(bits)));
  const auto low = hn::ConvertTo(d, hn::BitCast(di, hn::And(bits, hn::Set(Bits(), 0xffffu))));
  const auto number = hn::Add(hn::Add(hn::Mul(high, hn::Set(d, 65536.0f)), low), hn::Set(d, 0.5f));
  return hn::Min(hn::Mul(number, hn::Set(d, 0x1p-32f)), hn::Set(d, kLargestBelowOne));
}

/// No less than the noise of a fraction, as -log(-log(1 - v)) <= -log(v), by its exponent alone.
HWY_INLINE hn::Vec<Floats> most_noise(hn::Vec<Floats> fraction) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  const auto exponent = hn::ConvertTo(d, hn::ShiftRight<23>(hn::BitCast(di, fraction)));
  return hn::NegMulAdd(exponent, hn::Set(d, 0.693147181f), hn::Set(d, 127 * 0.693147181f + 1e-3f));
}

Largest LargestDrawn(const float* x, int64_t count, const Draw& draw, int64_t first_id) {
  const Floats d;
  const Bits du;
  const hn::RebindToSigned<Floats> di;
  const auto least = hn::Set(d, -std::numeric_limits<float>::infinity()), factor = hn::Set(d, draw.inverse_temperature);
  const auto ids = hn::Iota(du, static_cast<uint32_t>(first_id)), key = hn::Set(du, draw.key[0]);
  Largest largest{-std::numeric_limits<float>::infinity(), 0};
  auto sum = hn::Zero(d);
  for_blocks(count, [&](int64_t i, size_t n) HWY_ATTR {
    const auto of_key = hn::Xor(hn::Add(ids, hn::Set(du, static_cast<uint32_t>(i))), key);
    const auto fraction = fractions_of(scramble_lanes(hn::Add(scramble_lanes(of_key), hn::Set(du, draw.key[1]))));
    auto v = load(d, x + i, n);
    sum = hn::Add(sum, v);
    v = hn::Mul(v, factor);
    if (n < hn::Lanes(d)) v = hn::IfThenElse(hn::FirstN(d, n), v, least);
    // Few of the many could be the largest so far: of all tokens about as many as have that much probability between them.
    if (hn::AllFalse(d, hn::Gt(hn::Add(v, most_noise(fraction)), hn::Set(d, largest.value)))) return;
    v = hn::Sub(v, hn::Log(d, hn::Neg(hn::Log1p(d, hn::Neg(fraction)))));
    v = hn::IfThenElse(hn::IsNaN(v), least, v);
    const auto most = hn::MaxOfLanes(d, v);
    if (!(hn::GetLane(most) > largest.value)) return;
    const auto places =
        hn::IfThenElse(hn::RebindMask(di, hn::Eq(v, most)), hn::Iota(di, static_cast<int32_t>(i)), hn::Set(di, std::numeric_limits<int32_t>::max()));
    largest = {hn::GetLane(most), hn::GetLane(hn::MinOfLanes(di, places))};
  });
  if (!(hn::GetLane(hn::SumOfLanes(d, sum)) < std::numeric_limits<float>::infinity()))  // as in LargestAt()
    if (const int64_t at = first_not_finite(x, count); at >= 0) return {std::numeric_limits<float>::quiet_NaN(), static_cast<int32_t>(at)};
  return largest;
}

double SumOfExp(const float* x, int64_t count, float maximum) {
  const Floats d;
  const int64_t block = 8 * static_cast<int64_t>(hn::Lanes(d));  // so few that fp32 loses nothing to speak of
  double sum = 0;
  for (int64_t first = 0; first < count; first += block) {
    auto of_block = hn::Zero(d);
    for_blocks(std::min(block, count - first), [&](int64_t i, size_t n) HWY_ATTR {
      const auto v = hn::Sub(load(d, x + first + i, n), hn::Set(d, maximum));
      auto e = hn::IfThenElse(hn::IsNaN(v), v, hn::Exp(d, v));  // Exp() makes NaN nothing
      if (n < hn::Lanes(d)) e = hn::IfThenElseZero(hn::FirstN(d, n), e);
      of_block = hn::Add(of_block, e);
    });
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, of_block)));
  }
  return sum;
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(Convert);
HWY_EXPORT(UnpackCodes);
HWY_EXPORT(Add);
HWY_EXPORT(AddProduct);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(Activate);
HWY_EXPORT(ClampGate);
HWY_EXPORT(AddScaled);
HWY_EXPORT(Scale);
HWY_EXPORT(Clamp);
HWY_EXPORT(Rotate);
HWY_EXPORT(LargestAt);
HWY_EXPORT(LargestDrawn);
HWY_EXPORT(SumOfExp);
HWY_EXPORT(TargetName);

namespace vector_rows {

bool convert(const void* src, DType src_dtype, int64_t count, DType dst_dtype, void* dst, GroupRange range) {
  return HWY_DYNAMIC_DISPATCH(Convert)(src, src_dtype, count, dst_dtype, dst, range);
}
void unpack_codes(const CodeFormat& format, DType dtype, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, DType to, void* out) {
  HWY_DYNAMIC_DISPATCH(UnpackCodes)(format, dtype, piece, first, num_rows, cols, to, out);
}
void add(const void* row, DType dtype, int64_t count, float* out) { HWY_DYNAMIC_DISPATCH(Add)(row, dtype, count, out); }
void add_product(const float* x, int64_t x_stride, int64_t num_rows, int64_t cols, const float* bias, bool accumulate, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(AddProduct)(x, x_stride, num_rows, cols, bias, accumulate, y, y_stride);
}
void layer_norm(const float* x, int64_t num_rows, int64_t cols, const float* weight, const float* bias, float epsilon, DType dtype, void* out) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(x, num_rows, cols, weight, bias, epsilon, dtype, out);
}
void rms_norm(const float* x, int64_t num_rows, int64_t cols, const float* weight, float epsilon, DType dtype, void* out) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, num_rows, cols, weight, epsilon, dtype, out);
}
void activate(const float* x, const float* up, int64_t count, Activation activation, DType dtype, void* out) {
  HWY_DYNAMIC_DISPATCH(Activate)(x, up, count, activation, dtype, out);
}
void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, DType dtype, void* out) {
  HWY_DYNAMIC_DISPATCH(ClampGate)(x, count, rule, dtype, out);
}
void add_scaled(const float* x, int64_t count, float factor, float* y) { HWY_DYNAMIC_DISPATCH(AddScaled)(x, count, factor, y); }
void scale(float* x, int64_t count, float factor, float cap) { HWY_DYNAMIC_DISPATCH(Scale)(x, count, factor, cap); }
void clamp(float* x, int64_t count, float limit) { HWY_DYNAMIC_DISPATCH(Clamp)(x, count, limit); }
void rotate(float* x, int64_t num_heads, int64_t head_size, int64_t half, bool interleaved, const float* cosine, const float* sine) {
  HWY_DYNAMIC_DISPATCH(Rotate)(x, num_heads, head_size, half, interleaved, cosine, sine);
}
int64_t largest_at(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(LargestAt)(x, count); }
Largest largest(const float* x, int64_t count, const Draw& draw, int64_t first_id) {
  if (draw.inverse_temperature > 0) return HWY_DYNAMIC_DISPATCH(LargestDrawn)(x, count, draw, first_id);
  const int64_t at = largest_at(x, count);
  return {x[at] < std::numeric_limits<float>::infinity() ? x[at] : std::numeric_limits<float>::quiet_NaN(), static_cast<int32_t>(at)};
}
double sum_of_exp(const float* x, int64_t count, float maximum) { return HWY_DYNAMIC_DISPATCH(SumOfExp)(x, count, maximum); }
const char* target_name() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace vector_rows
}  // namespace flexgen
#endif  // HWY_ONCE
