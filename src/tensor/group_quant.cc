#include "tensor/group_quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/block_formats.h"

namespace flexgen {
namespace {

struct GroupParameters {
  uint16_t scale, minimum;
};

/// Calls body(first, count, codes, parameters): the values of a group, where its codes are, and where its parameters are.
template <typename Byte, typename Body>
void for_groups(Byte* row, DType dtype, int64_t cols, const Body& body) {
  Byte* parameters = row + (dtype == DType::kInt4 ? (cols + 1) / 2 : cols);
  for (int64_t first = 0; first < cols; first += kQuantGroup, parameters += sizeof(GroupParameters)) {
    const int64_t count = std::min(kQuantGroup, cols - first);
    body(first, count, row + (dtype == DType::kInt4 ? first / 2 : first), parameters);
  }
}

/// Value i of a group of `count`.
float value_of(const std::byte* codes, const std::byte* parameters, DType dtype, int64_t count, int64_t i) {
  GroupParameters rounded;
  std::memcpy(&rounded, parameters, sizeof rounded);
  const float scale = float_from_bf16(rounded.scale), minimum = float_from_bf16(rounded.minimum);
  const float step = scale == 0 ? 0 : 1 / scale;
  const int64_t half = (count + 1) / 2;
  const unsigned code = dtype == DType::kInt8 ? std::to_integer<unsigned>(codes[i])
                        : i < half            ? std::to_integer<unsigned>(codes[i]) & 15u
                                              : std::to_integer<unsigned>(codes[i - half]) >> 4;
  return std::fma(static_cast<float>(code), step, minimum);
}

GroupParameters parameters_for(float low, float high, float levels) {
  GroupParameters rounded{bf16_from_float(levels / (high - low)), bf16_from_float(low)};
  if (!std::isfinite(float_from_bf16(rounded.scale))) rounded.scale = 0;
  return rounded;
}

float squared_error(const float* group, int64_t count, GroupParameters rounded, float levels) {
  const float scale = float_from_bf16(rounded.scale), minimum = float_from_bf16(rounded.minimum);
  const float step = scale == 0 ? 0 : 1 / scale;
  float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float above = group[i] - minimum, code = std::nearbyint(std::clamp(above * scale, 0.0f, levels)), left = code * step;
    const float error = above - left, square = error * error;
    lanes[i % 16] += square;
  }
  for (int64_t half = 8; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

/// The search of GroupRange::kMse in a finite group.
GroupParameters least_error(const float* group, int64_t count, float smallest, float largest, float levels) {
  GroupParameters best = parameters_for(smallest, largest, levels);
  if (best.scale == 0) return best;
  float best_error = squared_error(group, count, best, levels), best_low = smallest, best_high = largest;
  auto try_ends = [&](float low, float high) {
    const GroupParameters tried = parameters_for(low, high, levels);
    const float error = squared_error(group, count, tried, levels);
    if (error < best_error) best = tried, best_error = error, best_low = low, best_high = high;
  };
  float unit = 0.04f * (largest - smallest);
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 5; ++j) {
      const float low = static_cast<float>(i) * unit, high = static_cast<float>(j) * unit;
      try_ends(smallest + low, largest - high);
    }
  for (int round = 0; round < 2; ++round) {
    unit *= 0.5f;
    const float low = best_low, high = best_high;
    for (float a : {-unit, 0.0f, unit})
      for (float b : {-unit, 0.0f, unit}) try_ends(low + a, high + b);
  }
  return best;
}

/// Block `number` of a row of blocks: out [quant_block().elements].
void unpack_block(const std::byte* row, DType dtype, int64_t number, float* out) {
  const auto* block = reinterpret_cast<const uint8_t*>(row) + number * quant_block(dtype).bytes;
  blocks::with_format(dtype, [&]<DType kType>() { blocks::unpack<kType>(block, out); });
}

int64_t num_groups(int64_t cols) { return (cols + kQuantGroup - 1) / kQuantGroup; }

}  // namespace

bool quantize_row(const float* x, int64_t cols, DType dtype, std::byte* out, GroupRange range) {
  const float levels = dtype == DType::kInt4 ? 15.0f : 255.0f;
  bool finite = true;
  for_groups(out, dtype, cols, [&](int64_t first, int64_t count, std::byte* codes, std::byte* parameters) {
    const float* group = x + first;
    float smallest = group[0], largest = group[0];
    for (int64_t i = 0; i < count; ++i) {
      finite &= std::isfinite(group[i]);
      smallest = std::min(smallest, group[i]);
      largest = std::max(largest, group[i]);
    }
    finite &= std::isfinite(largest - smallest);
    if (!finite) return;
    const GroupParameters rounded =
        range == GroupRange::kMse ? least_error(group, count, smallest, largest, levels) : parameters_for(smallest, largest, levels);
    const float scale = float_from_bf16(rounded.scale), minimum = float_from_bf16(rounded.minimum);
    auto code = [&](int64_t i) { return i < count ? static_cast<unsigned>(std::nearbyint(std::clamp((group[i] - minimum) * scale, 0.0f, levels))) : 0u; };
    if (dtype == DType::kInt8) {
      for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<std::byte>(code(i));
    } else {
      const int64_t half = (count + 1) / 2;
      for (int64_t i = 0; i < half; ++i) codes[i] = static_cast<std::byte>(code(i) | code(i + half) << 4);
    }
    std::memcpy(parameters, &rounded, sizeof rounded);
  });
  return finite;
}

void dequantize_row(const std::byte* row, DType dtype, int64_t cols, float* out) {
  if (is_blocked(dtype)) {
    for (int64_t first = 0, size = quant_block(dtype).elements; first < cols; first += size) unpack_block(row, dtype, first / size, out + first);
    return;
  }
  for_groups(row, dtype, cols, [&](int64_t first, int64_t count, const std::byte* codes, const std::byte* parameters) {
    for (int64_t i = 0; i < count; ++i) out[first + i] = value_of(codes, parameters, dtype, count, i);
  });
}

float load_in_row(const std::byte* row, DType dtype, int64_t cols, int64_t column) {
  if (!is_quantized(dtype)) return load_float(row, dtype, column);
  if (is_blocked(dtype)) {
    float block[kLongestBlock];
    unpack_block(row, dtype, column / quant_block(dtype).elements, block);
    return block[column % quant_block(dtype).elements];
  }
  const int64_t group = column / kQuantGroup, first = group * kQuantGroup;
  const std::byte* parameters = row + row_bytes(dtype, cols) + static_cast<int64_t>(sizeof(GroupParameters)) * (group - num_groups(cols));
  return value_of(row + (dtype == DType::kInt4 ? first / 2 : first), parameters, dtype, std::min(kQuantGroup, cols - first), column - first);
}

void store_row(const float* x, int64_t cols, DType dtype, std::byte* out) {
  if (is_quantized(dtype)) {
    if (!quantize_row(x, cols, dtype, out)) std::memset(out, 0xff, static_cast<size_t>(row_bytes(dtype, cols)));
    return;
  }
  for (int64_t i = 0; i < cols; ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out + 4 * i, x + i, 4);
    } else {
      const uint16_t half = dtype == DType::kBF16 ? bf16_from_float(x[i]) : f16_from_float(x[i]);
      std::memcpy(out + 2 * i, &half, 2);
    }
  }
}

}  // namespace flexgen
