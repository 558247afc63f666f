#pragma once
// LinearPacked: x W^T of the cpu backend by chunks of W that are packed in a worker's cache and go through all rows of x, so that one row costs little more than reading W, and many cost what their
// multiplications do. A result depends on its row of x and its row of W alone. Not for two threads at once.

#include <hwy/aligned_allocator.h>
#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/cpu/amx_codes.h"
#include "backend/cpu/amx_product.h"
#include "backend/cpu/code_tiles.h"
#include "backend/cpu/dot_codes.h"
#include "backend/cpu/dot_product.h"
#include "backend/cpu/float_product.h"
#include "backend/cpu/int4_product.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/product_tile.h"
#include "backend/cpu/unit_shares.h"
#include "backend/cpu/weight_order.h"
#include "backend/cpu/worker_team.h"
#include "base/units.h"

namespace flexgen {

/// Rows of x at a time: a chunk of their columns stays in the second cache.
inline constexpr int64_t kMaxProductRows = 256;

/// Who packs rows of x for a product: nobody; each worker for itself, as few rows are had from another's cache later than they are packed; or the workers together, each some of them.
enum class RowPacking { kNone, kByEach, kTogether };

/// Products in fp32, of weights in fp32 and bf16 as they lie.
struct FloatRows {
  static constexpr DType kElements = DType::kF32;
  static constexpr int64_t kTileRows = float_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

  struct Scratch {
    float_product::PackedChunk chunk;
  };
  /// How rows [num_rows, cols] of x go through tiles.
  static RowPacking packing(int64_t, int64_t) { return RowPacking::kNone; }
  /// They are packed in so many pieces.
  static int64_t pack_pieces(int64_t, int64_t) { return 0; }
  static void pack(const std::byte*, int64_t, int64_t, int64_t, std::byte*) {}
  /// y [num_rows, kTileRows] f32, 64-byte aligned = x [num_rows, cols], packed as packing() says, times the tile, of a type that packs.
  static void multiply(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, Scratch& scratch, float* y) {
    int64_t fetched = 0;
    for (int64_t column = 0, count = 0; column < tile.cols; column += count) {
      count = float_product::chunk_columns(tile.cols - column);
      const int64_t fetched_then = tile.next_bytes * (column + count) / tile.cols;
      float_product::pack_chunk(tile.rows, dtype, tile.cols, tile.num_rows, column, count, tile.next == nullptr ? nullptr : tile.next + fetched,
                                fetched_then - fetched, &scratch.chunk);
      float_product::multiply(reinterpret_cast<const float*>(x) + column, tile.cols, num_rows, scratch.chunk, count, column == 0, y);
      fetched = fetched_then;
    }
  }
  /// The same of a type that does not pack, where that is faster than to convert the tile first; false if it is not.
  static bool multiply_codes(const std::byte*, int64_t, const WeightView&, const ProductTile&, Scratch&, float*) { return false; }
};

/// Products of bf16, where dot_product::is_supported().
struct DotRows {
  static constexpr DType kElements = DType::kBF16;
  static constexpr int64_t kTileRows = dot_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kBF16; }

  struct Scratch {
    dot_product::Scratch product;
    dot_product::CodeScratch codes;
  };
  /// As FloatRows'. Rows of few columns, each in places of its own in the nearest cache, need no packing.
  static RowPacking packing(int64_t num_rows, int64_t cols) {
    constexpr int64_t kRowsOfEach = 16, kShortRow = 1024;
    if (num_rows == 1) return RowPacking::kNone;
    return num_rows <= kRowsOfEach ? RowPacking::kByEach : cols > kShortRow ? RowPacking::kTogether : RowPacking::kNone;
  }
  static int64_t pack_pieces(int64_t num_rows, int64_t cols) { return dot_product::num_block_pairs(num_rows, cols); }
  static void pack(const std::byte* x, int64_t num_rows, int64_t cols, int64_t piece, std::byte* packed) {
    dot_product::pack_rows(x, num_rows, cols, piece, packed);
  }
  static void multiply(const std::byte* x, int64_t num_rows, DType, const ProductTile& tile, Scratch& scratch, float* y) {
    dot_product::multiply({x, num_rows, packing(num_rows, tile.cols) != RowPacking::kNone}, tile, scratch.product, y);
  }
  static bool multiply_codes(const std::byte* x, int64_t num_rows, const WeightView& weight, const ProductTile& tile, Scratch& scratch, float* y) {
    if (weight.dtype == DType::kInt4 && int4_product::is_supported() && int4_product::takes(num_rows, tile) &&
        int4_product::multiply({x, num_rows, num_rows > 1}, tile, y))
      return true;
    if (!code_tiles::is_supported() || !dot_product::takes_codes(weight, tile)) return false;
    dot_product::multiply_codes({x, num_rows, packing(num_rows, tile.cols) != RowPacking::kNone}, weight.dtype, tile, scratch.product, scratch.codes, y);
    return true;
  }
};
static_assert(dot_product::kMaxRows == kMaxProductRows);

/// Products of bf16, where amx_product::is_supported().
struct AmxRows {
  static constexpr DType kElements = DType::kBF16;
  static constexpr int64_t kTileRows = amx_product::kTileRows;
  static bool packs(DType dtype) { return dtype == DType::kBF16; }

  using Scratch = amx_product::TileChunk;
  /// As FloatRows'.
  static RowPacking packing(int64_t num_rows, int64_t) {
    return num_rows == 1 ? RowPacking::kNone : num_rows <= amx_product::kBlockRows ? RowPacking::kByEach : RowPacking::kTogether;
  }
  static int64_t pack_pieces(int64_t num_rows, int64_t) { return ceil_div(num_rows, amx_product::kBlockRows); }
  static void pack(const std::byte* x, int64_t num_rows, int64_t cols, int64_t piece, std::byte* packed) {
    const int64_t first = piece * amx_product::kBlockRows, at = size_bytes(kElements, first * cols);
    amx_product::pack_block(x + at, std::min(amx_product::kBlockRows, num_rows - first), cols, packed + at);
  }
  static void multiply(const std::byte* x, int64_t num_rows, DType, const ProductTile& tile, Scratch&, float* y) {
    amx_product::multiply(x, num_rows, tile, y);
  }
  static bool multiply_codes(const std::byte* x, int64_t num_rows, const WeightView& weight, const ProductTile& tile, Scratch& scratch, float* y) {
    if (num_rows > 2 * amx_product::kBlockRows || !code_tiles::takes(weight)) return false;
    amx_product::multiply_codes(x, num_rows, weight.dtype, tile, &scratch, y);
    return true;
  }
};

template <typename Product>
class LinearPacked {
 public:
  /// `team` must outlive it, and is not shared with anyone who works at the same time.
  explicit LinearPacked(WorkerTeam& team)
      : team_(team), workers_(hwy::MakeUniqueAlignedArray<Worker>(static_cast<size_t>(team.size()))), shares_(team.size()),
        converted_(static_cast<size_t>(team.size())), packed_(static_cast<size_t>(team.size())) {}

  /// As Kernels::linear, x of Product::kElements.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
    if (num_rows == 0 || weight.rows == 0) return;
    cut_tiles(weight, kTileRows, &tiles_);
    const float* bias_data = bias_floats(bias, weight.rows, &bias_);
    if (!Product::packs(weight.dtype))
      for (std::vector<std::byte>& rows : converted_)
        if (const auto size = static_cast<size_t>(size_bytes(Product::kElements, kTileRows * weight.cols)); rows.size() < size) rows.resize(size);
    const int64_t panel = panel_rows(num_rows, kMaxProductRows, kRowGrain);
    for (int64_t row = 0; row < num_rows; row += panel)
      run_panel(x + size_bytes(Product::kElements, row * weight.cols), std::min(panel, num_rows - row), weight, bias_data, accumulate, y + row * weight.rows);
  }

 private:
  static constexpr int64_t kTileRows = Product::kTileRows;
  static constexpr int64_t kRowGrain = 8;
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
    pack_together(x, units, cols, team);
    team_.run(team, units.count(), [&](int64_t, int worker) {
      const UnitShares::Unit mine = shares_.take(worker);
      const int64_t t = units.tile_of(mine.unit), part = units.part_of(mine.unit);
      const auto [first, rows] = units.part(part);
      if (rows == 0) return;
      const LinearTile& tile = tiles_[static_cast<size_t>(t)];
      const int64_t next = mine.next < 0 ? t : units.tile_of(mine.next);
      float* const product = workers_[static_cast<size_t>(worker)].product;
      run_tile(worker, tile, next == t ? nullptr : &tiles_[static_cast<size_t>(next)], weight, rows_of(worker, x, units, part, cols), rows);
      vector_rows::add_product(product, kTileRows, rows, tile.num_rows, bias == nullptr ? nullptr : bias + tile.first_row, accumulate,
                               y + first * weight.rows + tile.first_row, weight.rows);
    });
  }

  /// The panel's rows [num_rows, cols] packed part by part, where that is the workers' common task.
  void pack_together(const std::byte* x, const ProductUnits& units, int64_t cols, int team) {
    const int64_t part_rows = units.part_rows(), pieces = Product::pack_pieces(part_rows, cols);
    if (Product::packing(part_rows, cols) != RowPacking::kTogether) return;
    if (const auto bytes = static_cast<size_t>(size_bytes(Product::kElements, units.num_rows() * cols)); together_.size() < bytes) together_.resize(bytes);
    team_.run(team, units.num_parts() * pieces, [&](int64_t unit, int) {
      const auto [first, rows] = units.part(unit / pieces);
      const int64_t piece = unit % pieces, at = size_bytes(Product::kElements, first * cols);
      if (Product::packing(rows, cols) == RowPacking::kTogether && piece < Product::pack_pieces(rows, cols))
        Product::pack(x + at, rows, cols, piece, together_.data() + at);
    });
  }

  /// The rows of a unit as the product wants them; each worker packs a part at most once a round.
  const std::byte* rows_of(int worker, const std::byte* x, const ProductUnits& units, int64_t part, int64_t cols) {
    const auto [first, rows] = units.part(part);
    const int64_t at = size_bytes(Product::kElements, first * cols);
    const RowPacking packing = Product::packing(rows, cols);
    if (packing == RowPacking::kNone) return x + at;
    if (packing == RowPacking::kTogether) return together_.data() + at;
    PackedRows& mine = packed_[static_cast<size_t>(worker)];
    if (mine.round != round_) mine.round = round_, mine.parts = 0;
    if (const auto bytes = static_cast<size_t>(size_bytes(Product::kElements, units.num_rows() * cols)); mine.rows.size() < bytes) mine.rows.resize(bytes);
    if ((mine.parts >> part & 1) == 0)
      for (int64_t piece = 0; piece < Product::pack_pieces(rows, cols); ++piece) Product::pack(x + at, rows, cols, piece, mine.rows.data() + at);
    mine.parts |= uint64_t{1} << part;
    return mine.rows.data() + at;
  }

  /// Tells the workers what they will read once this product is done: each the beginning of its share of the weight that comes next.
  void ask_ahead(const WeightView& weight, int64_t num_rows) {
    const WeightOrder::Place next = order_.next_after(weight);
    // Where rows are many, memory waits for the workers.
    const bool wanted = num_rows <= kRowsThatWait;
    const int64_t num_tiles = ceil_div(next.rows, kTileRows);
    for (int worker = 0; worker < team_.size(); ++worker) {
      const int64_t first = UnitShares::first_of(worker, num_tiles, team_.size()) * kTileRows,
                    end = std::min(next.rows, UnitShares::first_of(worker + 1, num_tiles, team_.size()) * kTileRows);
      team_.set_ahead(worker, next.data + first * next.row_bytes, wanted ? std::min(kMostAhead, (end - first) * next.row_bytes) : 0);
    }
  }

  /// The worker's product becomes that of the rows and the tile; meanwhile `next` is fetched from memory, or where there is none, what was asked ahead.
  void run_tile(int worker, const LinearTile& tile, const LinearTile* next, const WeightView& weight, const std::byte* x, int64_t num_rows) {
    Worker& mine = workers_[static_cast<size_t>(worker)];
    const int64_t cols = weight.cols, tile_bytes = tile.num_rows * row_bytes(weight.dtype, cols);
    const WorkerTeam::Stretch fetched =
        next == nullptr ? team_.take_ahead(worker, tile_bytes) : WorkerTeam::Stretch{next->data, next->num_rows * row_bytes(weight.dtype, cols)};
    ProductTile product = product_tile(tile, weight);
    product.next = fetched.data;
    product.next_bytes = fetched.bytes;
    DType dtype = weight.dtype;
    if (!Product::packs(dtype)) {
      if (Product::multiply_codes(x, num_rows, weight, product, mine.scratch, mine.product)) return;
      std::byte* const rows = converted_[static_cast<size_t>(worker)].data();
      convert_tile(tile, weight, Product::kElements, rows);
      product.rows = rows;
      dtype = Product::kElements;
    }
    product.in_memory = product.rows == tile.data;
    product.next_is_alike = product.in_memory && next != nullptr;
    Product::multiply(x, num_rows, dtype, product, mine.scratch, mine.product);
  }

  WorkerTeam& team_;
  hwy::AlignedUniquePtr<Worker[]> workers_;
  UnitShares shares_;
  WeightOrder order_;
  std::vector<std::vector<std::byte>> converted_;  ///< of a worker: a tile [kTileRows, K] of a type that is not packed as it lies
  struct alignas(64) PackedRows {
    int64_t round = 0;
    uint64_t parts = 0;  ///< a bit for each part of the rows that is packed
    std::vector<std::byte> rows;
  };
  std::vector<PackedRows> packed_;   ///< of a worker
  std::vector<std::byte> together_;  ///< the rows of a panel, packed by all
  int64_t round_ = 0;                ///< a panel's
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
