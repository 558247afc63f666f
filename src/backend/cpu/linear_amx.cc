#include "backend/cpu/linear_amx.h"

#include <algorithm>

#include "backend/cpu/code_tiles.h"
#include "base/units.h"

namespace flexgen {

using amx_product::kBlockRows;
using amx_product::kTileRows;

namespace {
/// Whether tiles become rows of bf16 before they are cut in chunks.
bool is_converted(const WeightView& weight) { return weight.dtype != DType::kBF16 && !code_tiles::takes(weight); }

/// Of two blocks' `bytes` each, `stride` apart, the t-th of `count` shares.
amx_product::Ahead share_of_blocks(const std::byte* blocks, int64_t bytes, int64_t stride, int64_t t, int64_t count) {
  if (count == 1) return {blocks, bytes, 2, stride};
  const int64_t of_first = (count + 1) / 2, block = t / of_first, shares = block == 0 ? of_first : count - of_first, share = t % of_first;
  const int64_t begin = bytes * share / shares, end = bytes * (share + 1) / shares;
  return {blocks + block * stride + begin, end - begin, 1, 0};
}
}  // namespace

LinearAmx::LinearAmx(WorkerTeam& team) : team_(team), few_(team), workers_(static_cast<size_t>(team.size())), converted_(static_cast<size_t>(team.size())) {}

void LinearAmx::run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
  if (num_rows == 0 || weight.rows == 0) return;
  const bool in_chunks = code_tiles::takes(weight);
  if (num_rows <= (in_chunks ? kPairRows : kFewRows)) return few_.run(x, num_rows, weight, bias, accumulate, y);
  cut_tiles(weight, kTileRows, &tiles_);
  const float* bias_data = bias_floats(bias, weight.rows, &bias_);
  const int64_t most = std::clamp(kMostPacked / amx_product::padded_bytes(weight.cols) * kBlockRows, kPairRows, kMaxPanel);
  const int64_t panel = panel_rows(num_rows, most, kPairRows);
  for (int64_t row = 0; row < num_rows; row += panel)
    run_panel(x + size_bytes(DType::kBF16, row * weight.cols), weight, {std::min(panel, num_rows - row), bias_data, accumulate, y + row * weight.rows});
}

void LinearAmx::run_panel(const std::byte* x, const WeightView& weight, const Panel& panel) {
  const int64_t cols = weight.cols, block_bytes = amx_product::padded_bytes(cols), blocks = round_up(ceil_div(panel.num_rows, kBlockRows), 2);
  if (const int64_t bytes = blocks * block_bytes; bytes > packed_bytes_) {
    packed_ = hwy::AllocateAligned<std::byte>(static_cast<size_t>(bytes));
    packed_bytes_ = bytes;
  }
  const double flops = 2.0 * static_cast<double>(panel.num_rows) * static_cast<double>(weight.rows) * static_cast<double>(cols);
  // A core does several times what workers_for() reckons with.
  const int team = team_.workers_for(flops / 8);
  team_.run(team, blocks, [&](int64_t block, int) {
    const int64_t first = block * kBlockRows, rows = std::clamp<int64_t>(panel.num_rows - first, 0, kBlockRows);
    amx_product::pack_padded_block(x + size_bytes(DType::kBF16, first * cols), rows, cols, packed_.get() + block * block_bytes);
  });
  const auto num_tiles = std::ssize(tiles_);
  int64_t run = std::clamp<int64_t>(ceil_div(num_tiles, 2 * team), 1, kMaxTiles);
  // What is converted stays in the second cache.
  constexpr int64_t kMostConverted = 1 << 20;
  if (is_converted(weight)) run = std::clamp<int64_t>(kMostConverted / size_bytes(DType::kBF16, kTileRows * cols), 1, run);
  team_.run(team, ceil_div(num_tiles, run),
            [&](int64_t unit, int worker) { multiply_tiles(worker, unit * run, std::min(run, num_tiles - unit * run), weight, panel); });
}

void LinearAmx::multiply_tiles(int worker, int64_t first, int64_t count, const WeightView& weight, const Panel& panel) {
  hwy::AlignedUniquePtr<Worker>& made = workers_[static_cast<size_t>(worker)];
  if (!made) made = hwy::MakeUniqueAligned<Worker>();
  Worker& mine = *made;
  const int64_t cols = weight.cols, block_bytes = amx_product::padded_bytes(cols), pairs = ceil_div(panel.num_rows, kPairRows);
  ProductTile tiles[kMaxTiles];
  std::vector<std::byte>& converted = converted_[static_cast<size_t>(worker)];
  const int64_t tile_bytes = size_bytes(DType::kBF16, kTileRows * cols);
  const bool has_codes = code_tiles::takes(weight), converts = is_converted(weight);
  if (converts && std::ssize(converted) < count * tile_bytes) converted.resize(static_cast<size_t>(count * tile_bytes));
  for (int64_t t = 0; t < count; ++t) {
    const LinearTile& tile = tiles_[static_cast<size_t>(first + t)];
    tiles[t] = product_tile(tile, weight);
    if (!converts) continue;
    std::byte* const rows = converted.data() + t * tile_bytes;
    convert_tile(tile, weight, DType::kBF16, rows);
    tiles[t].rows = rows;
  }
  const int64_t stride = has_codes ? row_bytes(weight.dtype, cols) : 2 * cols;
  const auto bytes_of = [&](int64_t columns) {
    if (!has_codes) return 2 * columns;
    return is_grouped(weight.dtype) ? weight.dtype == DType::kInt4 ? columns / 2 : columns : row_bytes(weight.dtype, columns);
  };
  amx_product::begin_chunks();
  const int64_t chunk = amx_product::chunk_columns(cols);
  for (int64_t column = 0; column < cols; column += chunk) {
    const int64_t columns = std::min(chunk, cols - column), steps = ceil_div(columns, amx_product::kStep);
    const int64_t x_at = 2 * kBlockRows * column, x_bytes = 2 * kBlockRows * amx_product::kStep * steps;
    const int64_t next_columns = std::clamp<int64_t>(cols - column - chunk, 0, chunk);
    for (int64_t t = 0; t < count; ++t)
      if (has_codes) amx_product::unpack_chunk(tiles[t], weight.dtype, column, columns, &mine.chunks[t]);
      else amx_product::copy_chunk(tiles[t], column, columns, &mine.chunks[t]);
    const bool is_last = next_columns == 0;
    for (int64_t p = 0; p < pairs; ++p) {
      const std::byte* const x0 = packed_.get() + 2 * p * block_bytes + x_at;
      const int64_t row = p * kPairRows, rows = std::min(kPairRows, panel.num_rows - row);
      for (int64_t t = 0; t < count; ++t) {
        // Meanwhile this tile's share of the next rows of x is fetched, and this pair's of W's next columns.
        amx_product::Ahead x_ahead, w_ahead;
        if (p + 1 < pairs) x_ahead = share_of_blocks(x0 + 2 * block_bytes, x_bytes, block_bytes, t, count);
        const int64_t first_row = tiles[t].num_rows * p / pairs, end_row = tiles[t].num_rows * (p + 1) / pairs;
        if (!is_last) w_ahead = {tiles[t].rows + first_row * stride + bytes_of(column + chunk), bytes_of(next_columns), end_row - first_row, stride};
        amx_product::BlockSums& sums = mine.sums[p * count + t];
        amx_product::add_chunk(x0, x0 + block_bytes, mine.chunks[t], steps, column == 0, x_ahead, w_ahead, &sums);
        if (!is_last) continue;
        const LinearTile& tile = tiles_[static_cast<size_t>(first + t)];
        amx_product::turn(sums, rows,
                          {panel.y + row * weight.rows + tile.first_row, weight.rows, tile.num_rows,
                           panel.bias == nullptr ? nullptr : panel.bias + tile.first_row, panel.accumulate});
      }
    }
  }
  amx_product::end_chunks();
}

}  // namespace flexgen
