#pragma once
// LinearPacked: x W^T of the cpu backend by chunks of W that are packed in a worker's cache and go through all rows of x, so that one row costs little more than reading W, and many cost what their
// multiplications do. A result depends on its row of x and its row of W alone. Not for two threads at once.

#include <algorithm>
#include <cstdint>
#include <hwy/aligned_allocator.h>
#include <vector>

#include "backend/cpu/dot_product.h"
#include "backend/cpu/float_product.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/worker_team.h"
#include "base/units.h"

namespace flexgen {

/// Products in fp32, of weights in fp32 and bf16 as they lie.
struct FloatRows {
  using Chunk = float_product::PackedChunk;
  static constexpr DType kElements = DType::kF32;
  static constexpr int64_t kTileRows = float_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }
  static int64_t chunk_columns(int64_t left) { return float_product::chunk_columns(left); }
  static constexpr auto pack = float_product::pack_chunk;
  static void multiply(const std::byte* x, int64_t x_stride, int64_t num_rows, const Chunk& chunk, int64_t count, bool is_first, float* y) {
    float_product::multiply(reinterpret_cast<const float*>(x), x_stride, num_rows, chunk, count, is_first, y);
  }
};

/// Products of bf16, where dot_product::is_supported().
struct DotRows {
  using Chunk = dot_product::PackedChunk;
  static constexpr DType kElements = DType::kBF16;
  static constexpr int64_t kTileRows = dot_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kBF16; }
  static int64_t chunk_columns(int64_t left) { return std::min(dot_product::kMaxChunk, left); }
  static void pack(const std::byte* rows, DType, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, Chunk* chunk) {
    dot_product::pack_chunk(rows, cols, num_rows, first, count, next, next_bytes, chunk);
  }
  static constexpr auto multiply = dot_product::multiply;
};

template <typename Product>
class LinearPacked {
 public:
  /// `team` must outlive it, and is not shared with anyone who works at the same time.
  explicit LinearPacked(WorkerTeam& team)
      : team_(team), workers_(hwy::MakeUniqueAlignedArray<Worker>(static_cast<size_t>(team.size()))), converted_(static_cast<size_t>(team.size())) {}

  /// As Kernels::linear, x of Product::kElements.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
    if (num_rows == 0 || weight.rows == 0) return;
    cut_tiles(weight, kTileRows, &tiles_);
    const float* bias_data = bias_floats(bias, weight.rows, &bias_);
    if (!Product::packs(weight.dtype))
      for (std::vector<std::byte>& rows : converted_)
        if (const auto size = static_cast<size_t>(size_bytes(Product::kElements, kTileRows * weight.cols)); rows.size() < size) rows.resize(size);
    for (int64_t row = 0; row < num_rows; row += kMaxPanel)
      run_panel(x + size_bytes(Product::kElements, row * weight.cols), std::min(kMaxPanel, num_rows - row), weight, bias_data, accumulate, y + row * weight.rows);
  }

 private:
  static constexpr int64_t kTileRows = Product::kTileRows;
  static constexpr int64_t kMaxPanel = 256;  ///< rows of x at a time: a chunk of their columns stays in the second cache
  /// So many multiplications and additions take about as long as a byte from memory.
  static constexpr double kFlopsPerByte = 16;

  struct Worker {
    typename Product::Chunk chunk;
    alignas(64) float product[kMaxPanel * kTileRows];
  };

  void run_panel(const std::byte* x, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y) {
    const int64_t cols = weight.cols, weight_bytes = weight.rows * row_bytes(weight.dtype, cols);
    const double flops = 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.rows) * static_cast<double>(cols);
    const int team = team_.workers_for(std::max(flops, kFlopsPerByte * static_cast<double>(weight_bytes)));
    const TileUnits units(std::ssize(tiles_), num_rows, team);
    team_.run(team, units.count(), [&](int64_t unit, int worker) {
      const auto [first_tile, end_tile, first, rows] = units[unit];
      if (rows == 0) return;
      float* const product = workers_[static_cast<size_t>(worker)].product;
      for (int64_t t = first_tile; t < end_tile; ++t) {
        const LinearTile& tile = tiles_[static_cast<size_t>(t)];
        run_tile(worker, tile, t + 1 < end_tile ? &tiles_[static_cast<size_t>(t + 1)] : nullptr, weight, x + size_bytes(Product::kElements, first * cols), rows);
        vector_rows::add_product(product, kTileRows, rows, tile.num_rows, bias == nullptr ? nullptr : bias + tile.first_row, accumulate, y + first * weight.rows + tile.first_row, weight.rows);
      }
    });
  }

  /// The worker's product becomes that of the rows and the tile; `next` is fetched from memory meanwhile, if there is one.
  void run_tile(int worker, const LinearTile& tile, const LinearTile* next, const WeightView& weight, const std::byte* x, int64_t num_rows) {
    Worker& mine = workers_[static_cast<size_t>(worker)];
    const int64_t cols = weight.cols, next_bytes = next == nullptr ? 0 : next->num_rows * row_bytes(weight.dtype, cols);
    const std::byte* data = tile.data;
    DType dtype = weight.dtype;
    if (!Product::packs(dtype)) {
      std::byte* const rows = converted_[static_cast<size_t>(worker)].data();
      convert_tile(tile, dtype, cols, Product::kElements, rows);
      data = rows;
      dtype = Product::kElements;
    }
    int64_t fetched = 0;
    for (int64_t column = 0, count = 0; column < cols; column += count) {
      count = Product::chunk_columns(cols - column);
      const int64_t fetched_then = next_bytes * (column + count) / cols;
      Product::pack(data, dtype, cols, tile.num_rows, column, count, next == nullptr ? nullptr : next->data + fetched, fetched_then - fetched, &mine.chunk);
      Product::multiply(x + size_bytes(Product::kElements, column), cols, num_rows, mine.chunk, count, column == 0, mine.product);
      fetched = fetched_then;
    }
  }

  WorkerTeam& team_;
  hwy::AlignedUniquePtr<Worker[]> workers_;
  std::vector<std::vector<std::byte>> converted_;  ///< of a worker: a tile [kTileRows, K] of a type that is not packed as it lies
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
