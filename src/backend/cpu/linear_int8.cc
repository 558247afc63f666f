#include "backend/cpu/linear_int8.h"

#include <algorithm>

#include "backend/cpu/vector_rows.h"
#include "backend/symmetric_quant.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {

using int8_product::kChunkColumns;
using int8_product::kTileRows;

LinearInt8::LinearInt8(WorkerTeam& team) : team_(team), workers_(hwy::MakeUniqueAlignedArray<Worker>(static_cast<size_t>(team.size()))) {}

void LinearInt8::run(const std::byte* x, DType x_dtype, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
  FLEXGEN_CHECK(integer_group(weight) > 0);
  if (num_rows == 0 || weight.rows == 0) return;
  cut_tiles(weight, kTileRows, &tiles_);
  const float* bias_data = bias_floats(bias, weight.rows, &bias_);
  for (int64_t row = 0; row < num_rows; row += kMaxPanel)
    run_panel(x + size_bytes(x_dtype, row * weight.cols), x_dtype, std::min(kMaxPanel, num_rows - row), weight, bias_data, accumulate, y + row * weight.rows);
}

void LinearInt8::run_panel(const std::byte* x, DType x_dtype, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y) {
  const int64_t cols = weight.cols, group = integer_group(weight), num_groups = ceil_div(cols, group), chunk = kChunkColumns / group;
  const bool in_parts = group == int8_product::kPart;
  const double flops = 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.rows) * static_cast<double>(cols);
  // In integers a core does several times what workers_for() reckons with.
  const int team = team_.workers_for(flops / 3);

  if (const auto count = static_cast<size_t>(num_rows * num_groups); count > scales_.size()) {
    scales_.resize(count);
    offsets_.resize(count);
    starts_.resize(count);
  }
  if (const auto bytes = static_cast<size_t>(num_rows * num_groups * group); bytes > codes_bytes_) {
    codes_.reset();  // never both at once
    codes_ = hwy::AllocateAligned<int8_t>(bytes);
    codes_bytes_ = bytes;
  }
  int8_product::QuantizedRows quantized{.codes = codes_.get(), .scales = scales_.data(), .num_groups = num_groups, .group = group};
  if (in_parts) quantized.starts = starts_.data(), quantized.zero = int8_product::zero_of(weight.dtype);
  else quantized.offsets = offsets_.data();
  const int64_t stretch = ceil_div(num_rows, 4 * team);
  team_.run(team, ceil_div(num_rows, stretch), [&](int64_t unit, int) {
    const int64_t first = unit * stretch;
    int8_product::quantize_rows(x + size_bytes(x_dtype, first * cols), x_dtype, std::min(stretch, num_rows - first), cols, quantized, first);
  });

  const TileUnits units(std::ssize(tiles_), num_rows, team);
  team_.run(team, units.count(), [&](int64_t unit, int worker) {
    const auto [first_tile, end_tile, first, rows] = units[unit];
    if (rows == 0) return;
    Worker& mine = workers_[static_cast<size_t>(worker)];
    for (int64_t t = first_tile; t < end_tile; ++t) {
      const LinearTile& tile = tiles_[static_cast<size_t>(t)];
      const LinearTile* next = t + 1 < end_tile ? &tiles_[static_cast<size_t>(t + 1)] : nullptr;
      const int64_t next_bytes = next == nullptr ? 0 : next->num_rows * row_bytes(weight.dtype, cols), share = ceil_div(next_bytes * chunk, num_groups);
      for (int64_t g = 0; g < num_groups; g += chunk) {
        const int64_t count = std::min(chunk, num_groups - g), at = std::min(next_bytes, g / chunk * share), ahead = std::min(share, next_bytes - at);
        const std::byte* const fetched = next == nullptr ? nullptr : next->data + at;
        if (in_parts) int8_product::pack_parts(weight, tile, g, count, fetched, ahead, &mine.tile);
        else int8_product::pack_tile(tile.data, weight.dtype, cols, tile.num_rows, g, count, fetched, ahead, &mine.tile);
        int8_product::multiply(quantized, first, rows, mine.tile, weight.dtype, g, count, g == 0, mine.product);
      }
      vector_rows::add_product(mine.product, kTileRows, rows, tile.num_rows, bias == nullptr ? nullptr : bias + tile.first_row, accumulate,
                               y + first * weight.rows + tile.first_row, weight.rows);
    }
  });
}

}  // namespace flexgen
