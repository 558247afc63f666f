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
#include "backend/cpu/product_tile.h"
#include "backend/cpu/unit_shares.h"
#include "backend/cpu/weight_order.h"
#include "backend/cpu/worker_team.h"
#include "base/units.h"

namespace flexgen {

/// Rows of x at a time: a chunk of their columns stays in the second cache.
inline constexpr int64_t kMaxProductRows = 256;

/// Products in fp32, of weights in fp32 and bf16 as they lie.
struct FloatRows {
  static constexpr DType kElements = DType::kF32;
  static constexpr int64_t kTileRows = float_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

  struct Scratch {
    float_product::PackedChunk chunk;
  };
  /// Up to so many rows of x go through tiles as pack() leaves them.
  static constexpr int64_t kPackedRows = 0;
  static void pack(const std::byte*, int64_t, int64_t, std::byte*) {}
  /// y [num_rows, kTileRows] f32, 64-byte aligned = x [num_rows, cols], packed if there are so few rows, times the tile, of a type that packs.
  static void multiply(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, Scratch& scratch, float* y) {
    int64_t fetched = 0;
    for (int64_t column = 0, count = 0; column < tile.cols; column += count) {
      count = float_product::chunk_columns(tile.cols - column);
      const int64_t fetched_then = tile.next_bytes * (column + count) / tile.cols;
      float_product::pack_chunk(tile.rows, dtype, tile.cols, tile.num_rows, column, count, tile.next == nullptr ? nullptr : tile.next + fetched, fetched_then - fetched, &scratch.chunk);
      float_product::multiply(reinterpret_cast<const float*>(x) + column, tile.cols, num_rows, scratch.chunk, count, column == 0, y);
      fetched = fetched_then;
    }
  }
};

/// Products of bf16, where dot_product::is_supported().
struct DotRows {
  static constexpr DType kElements = DType::kBF16;
  static constexpr int64_t kTileRows = dot_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kBF16; }

  struct Scratch {
    dot_product::PackedChunk chunk;
    alignas(64) float part[kMaxProductRows * kTileRows];  ///< sums of columns that are not all there yet
  };
  /// As FloatRows'.
  static constexpr int64_t kPackedRows = dot_product::kFewRows;
  static void pack(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed) { dot_product::pack_rows(x, num_rows, cols, packed); }
  static void multiply(const std::byte* x, int64_t num_rows, DType, const ProductTile& tile, Scratch& scratch, float* y) {
    if (num_rows <= dot_product::kFewRows) return dot_product::multiply_few(x, num_rows, tile, y);
    const int64_t cols = tile.cols, of_part = dot_product::sum_columns(cols);
    ProductTile fetching = tile;
    for (int64_t column = 0; column < cols; column += dot_product::kMaxChunk) {
      const int64_t count = std::min(dot_product::kMaxChunk, cols - column), end = column + count, fetched = tile.next_bytes * column / cols;
      if (tile.next != nullptr) fetching.next = tile.next + fetched;
      fetching.next_bytes = tile.next_bytes * end / cols - fetched;
      dot_product::pack_chunk(fetching, column, count, &scratch.chunk);
      dot_product::multiply(x + size_bytes(DType::kBF16, column), cols, num_rows, scratch.chunk, count, {column % of_part == 0, end % of_part == 0 || end == cols, column < of_part}, scratch.part, y);
    }
  }
};

template <typename Product>
class LinearPacked {
 public:
  /// `team` must outlive it, and is not shared with anyone who works at the same time.
  explicit LinearPacked(WorkerTeam& team)
      : team_(team), workers_(hwy::MakeUniqueAlignedArray<Worker>(static_cast<size_t>(team.size()))), shares_(team.size()), converted_(static_cast<size_t>(team.size())), packed_(static_cast<size_t>(team.size())) {}

  /// As Kernels::linear, x of Product::kElements.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
    if (num_rows == 0 || weight.rows == 0) return;
    cut_tiles(weight, kTileRows, &tiles_);
    const float* bias_data = bias_floats(bias, weight.rows, &bias_);
    if (!Product::packs(weight.dtype))
      for (std::vector<std::byte>& rows : converted_)
        if (const auto size = static_cast<size_t>(size_bytes(Product::kElements, kTileRows * weight.cols)); rows.size() < size) rows.resize(size);
    for (int64_t row = 0; row < num_rows; row += kMaxProductRows)
      run_panel(x + size_bytes(Product::kElements, row * weight.cols), std::min(kMaxProductRows, num_rows - row), weight, bias_data, accumulate, y + row * weight.rows);
  }

 private:
  static constexpr int64_t kTileRows = Product::kTileRows;
  /// So many multiplications and additions take about as long as a byte from memory.
  static constexpr double kFlopsPerByte = 16;
  /// Up to so many rows of x a product waits for memory.
  static constexpr int64_t kRowsThatWait = 16;
  /// Bytes that a worker asks for before the product that reads them: what its second cache has room for beside a tile and its rows of x.
  static constexpr int64_t kMostAhead = 512 * 1024;

  struct Worker {
    typename Product::Scratch scratch;
    alignas(64) float product[kMaxProductRows * kTileRows];
  };

  void run_panel(const std::byte* x, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y) {
    const int64_t cols = weight.cols, weight_bytes = weight.rows * row_bytes(weight.dtype, cols);
    const double flops = 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.rows) * static_cast<double>(cols);
    const int team = team_.workers_for(std::max(flops, kFlopsPerByte * static_cast<double>(weight_bytes)));
    const ProductUnits units(std::ssize(tiles_), num_rows, team);
    ++round_;
    shares_.start(units.count(), team);
    ask_ahead(weight, num_rows);
    team_.run(team, units.count(), [&](int64_t, int worker) {
      const UnitShares::Unit mine = shares_.take(worker);
      const auto [t, first, rows] = units[mine.unit];
      if (rows == 0) return;
      const LinearTile& tile = tiles_[static_cast<size_t>(t)];
      const int64_t next = mine.next < 0 ? t : units[mine.next].tile;
      float* const product = workers_[static_cast<size_t>(worker)].product;
      run_tile(worker, tile, next == t ? nullptr : &tiles_[static_cast<size_t>(next)], weight, rows_of(worker, x + size_bytes(Product::kElements, first * cols), rows, cols), rows);
      vector_rows::add_product(product, kTileRows, rows, tile.num_rows, bias == nullptr ? nullptr : bias + tile.first_row, accumulate, y + first * weight.rows + tile.first_row, weight.rows);
    });
  }

  /// Few rows as the product wants them, once a round by each worker for itself: to have them from another's cache takes longer.
  const std::byte* rows_of(int worker, const std::byte* x, int64_t num_rows, int64_t cols) {
    if (num_rows > Product::kPackedRows || num_rows == 1) return x;
    PackedRows& mine = packed_[static_cast<size_t>(worker)];
    if (mine.round == round_ && mine.from == x) return mine.rows.data();
    if (const auto bytes = static_cast<size_t>(size_bytes(Product::kElements, num_rows * cols)); mine.rows.size() < bytes) mine.rows.resize(bytes);
    Product::pack(x, num_rows, cols, mine.rows.data());
    mine.round = round_, mine.from = x;
    return mine.rows.data();
  }

  /// Tells the workers what they will read once this product is done: each the beginning of its share of the weight that comes next.
  void ask_ahead(const WeightView& weight, int64_t num_rows) {
    const WeightOrder::Place next = order_.next_after(weight);
    // Where rows are many, memory waits for the workers.
    const bool wanted = num_rows <= kRowsThatWait;
    const int64_t num_tiles = ceil_div(next.rows, kTileRows);
    for (int worker = 0; worker < team_.size(); ++worker) {
      const int64_t first = UnitShares::first_of(worker, num_tiles, team_.size()) * kTileRows, end = std::min(next.rows, UnitShares::first_of(worker + 1, num_tiles, team_.size()) * kTileRows);
      team_.set_ahead(worker, next.data + first * next.row_bytes, wanted ? std::min(kMostAhead, (end - first) * next.row_bytes) : 0);
    }
  }

  /// The worker's product becomes that of the rows and the tile; meanwhile `next` is fetched from memory, or where there is none, what was asked ahead.
  void run_tile(int worker, const LinearTile& tile, const LinearTile* next, const WeightView& weight, const std::byte* x, int64_t num_rows) {
    Worker& mine = workers_[static_cast<size_t>(worker)];
    const int64_t cols = weight.cols, tile_bytes = tile.num_rows * row_bytes(weight.dtype, cols);
    const WorkerTeam::Stretch fetched = next == nullptr ? team_.take_ahead(worker, tile_bytes) : WorkerTeam::Stretch{next->data, next->num_rows * row_bytes(weight.dtype, cols)};
    const std::byte* data = tile.data;
    DType dtype = weight.dtype;
    if (!Product::packs(dtype)) {
      std::byte* const rows = converted_[static_cast<size_t>(worker)].data();
      convert_tile(tile, weight, Product::kElements, rows);
      data = rows;
      dtype = Product::kElements;
    }
    Product::multiply(x, num_rows, dtype, {data, cols, tile.num_rows, fetched.data, fetched.bytes}, mine.scratch, mine.product);
  }

  WorkerTeam& team_;
  hwy::AlignedUniquePtr<Worker[]> workers_;
  UnitShares shares_;
  WeightOrder order_;
  std::vector<std::vector<std::byte>> converted_;  ///< of a worker: a tile [kTileRows, K] of a type that is not packed as it lies
  struct alignas(64) PackedRows {
    int64_t round = 0;
    const std::byte* from = nullptr;
    std::vector<std::byte> rows;
  };
  std::vector<PackedRows> packed_;                  ///< of a worker
  int64_t round_ = 0;                               ///< a panel's
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
