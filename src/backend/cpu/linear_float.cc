#include "backend/cpu/linear_float.h"

#include <algorithm>

#include "base/units.h"

namespace flexgen {

using float_product::chunk_columns;
using float_product::kTileRows;

namespace {

/// So many multiplications and additions take about as long as a byte from memory.
constexpr double kFlopsPerByte = 16;

bool packs_as_it_lies(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

}  // namespace

LinearFloat::LinearFloat(WorkerTeam& team)
    : team_(team), workers_(hwy::MakeUniqueAlignedArray<Worker>(static_cast<size_t>(team.size()))), converted_(static_cast<size_t>(team.size())) {}

void LinearFloat::run(const float* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
  if (num_rows == 0 || weight.rows == 0) return;
  cut_tiles(weight, kTileRows, &tiles_);
  const float* bias_data = bias_floats(bias, weight.rows, &bias_);
  if (!packs_as_it_lies(weight.dtype))
    for (std::vector<std::byte>& rows : converted_)
      if (const auto size = static_cast<size_t>(size_bytes(DType::kF32, kTileRows * weight.cols)); rows.size() < size) rows.resize(size);
  for (int64_t row = 0; row < num_rows; row += kMaxPanel)
    run_panel(x + row * weight.cols, std::min(kMaxPanel, num_rows - row), weight, bias_data, accumulate, y + row * weight.rows);
}

void LinearFloat::run_panel(const float* x, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y) {
  const int64_t cols = weight.cols, tile_bytes = kTileRows * row_bytes(weight.dtype, cols);
  const auto num_tiles = static_cast<int64_t>(tiles_.size());
  const double elements = static_cast<double>(weight.rows) * static_cast<double>(cols);
  const int team = team_.workers_for(std::max(2.0 * static_cast<double>(num_rows) * elements, kFlopsPerByte * static_cast<double>(num_tiles * tile_bytes)));
  // A unit of work is some tiles in turn, each asking memory for the next; where there are few tiles, rows of x are dealt out as well.
  const int64_t run = std::clamp<int64_t>(num_tiles / (8 * team), 1, 8), num_runs = ceil_div(num_tiles, run);
  const int64_t parts = std::clamp<int64_t>(4 * team / num_runs, 1, ceil_div(num_rows, 24)), part_rows = ceil_div(num_rows, parts);
  team_.run(team, num_runs * parts, [&](int64_t unit, int worker) {
    const int64_t first = unit % parts * part_rows, rows = std::min(part_rows, num_rows - first);
    const int64_t first_tile = unit / parts * run, end_tile = std::min(num_tiles, first_tile + run);
    if (rows <= 0) return;
    Worker& mine = workers_[static_cast<size_t>(worker)];
    for (int64_t t = first_tile; t < end_tile; ++t) {
      const LinearTile& tile = tiles_[static_cast<size_t>(t)];
      const LinearTile* next = t + 1 < end_tile ? &tiles_[static_cast<size_t>(t + 1)] : nullptr;
      const int64_t next_bytes = next == nullptr ? 0 : next->num_rows * row_bytes(weight.dtype, cols);
      const std::byte* data = tile.data;
      DType dtype = weight.dtype;
      if (!packs_as_it_lies(dtype)) {
        data = converted_[static_cast<size_t>(worker)].data();
        convert_tile(tile, dtype, cols, DType::kF32, converted_[static_cast<size_t>(worker)].data());
        dtype = DType::kF32;
      }
      int64_t fetched = 0;
      for (int64_t column = 0, count = 0; column < cols; column += count) {
        count = chunk_columns(cols - column);
        const int64_t fetched_then = next_bytes * (column + count) / cols;
        float_product::pack_chunk(data, dtype, cols, tile.num_rows, column, count, next == nullptr ? nullptr : next->data + fetched, fetched_then - fetched, &mine.chunk);
        float_product::multiply(x + first * cols + column, cols, rows, mine.chunk, count, column == 0, mine.product);
        fetched = fetched_then;
      }
      vector_rows::add_product(mine.product, kTileRows, rows, tile.num_rows, bias == nullptr ? nullptr : bias + tile.first_row, accumulate,
                               y + first * weight.rows + tile.first_row, weight.rows);
    }
  });
}

}  // namespace flexgen
