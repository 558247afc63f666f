#pragma once
// What the products of the cpu backend have in common: a weight cut into tiles of rows, a bias as floats.

#include <algorithm>
#include <vector>

#include "backend/cpu/product_tile.h"
#include "backend/cpu/vector_rows.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/weight_view.h"

namespace flexgen {

/// Rows of W that go through the product together; fewer than a whole tile's at the end of a piece.
struct LinearTile {
  const std::byte* data;
  int64_t first_row, num_rows;
  const WeightPiece* piece;
  int64_t piece_row;  ///< of the piece, the first
};

/// What a product reads of the tile, as it lies.
inline ProductTile product_tile(const LinearTile& tile, const WeightView& weight) {
  ProductTile product{tile.data, weight.cols, tile.num_rows};
  product.format = weight.format;
  product.piece = tile.piece;
  product.piece_row = tile.piece_row;
  return product;
}

/// `tiles` becomes those of the weight, of `tile_rows` each. Returns whether one has fewer.
inline bool cut_tiles(const WeightView& weight, int64_t tile_rows, std::vector<LinearTile>* tiles) {
  tiles->clear();
  bool has_short = false;
  int64_t first_row = 0;
  for (const WeightPiece& piece : weight.pieces) {
    for (int64_t row = 0; row < piece.rows; row += tile_rows) {
      const int64_t count = std::min(tile_rows, piece.rows - row);
      has_short |= count < tile_rows;
      tiles->push_back({piece.data + row * row_bytes(weight.dtype, weight.cols), first_row + row, count, &piece, row});
    }
    first_row += piece.rows;
  }
  FLEXGEN_CHECK(first_row == weight.rows, "pieces hold {} rows of {}", first_row, weight.rows);
  return has_short;
}

/// How many of `num_rows` rows go through the weight together: about `most` at most, in multiples of `grain`, and panels of one size, as a last one of few rows would read all of W for them.
inline int64_t panel_rows(int64_t num_rows, int64_t most, int64_t grain) { return round_up(ceil_div(num_rows, ceil_div(num_rows, most)), grain); }

/// How a product is dealt out to a team: a unit of work is some tiles in turn, each asking memory for the next; where there are few tiles, rows of x are dealt out as well.
class TileUnits {
 public:
  TileUnits(int64_t num_tiles, int64_t num_rows, int num_workers) : num_tiles_(num_tiles), num_rows_(num_rows) {
    run_ = std::clamp<int64_t>(num_tiles / (8 * num_workers), 1, 8);
    num_runs_ = ceil_div(num_tiles, run_);
    parts_ = std::clamp<int64_t>(4 * num_workers / num_runs_, 1, ceil_div(num_rows, 24));
    part_rows_ = ceil_div(num_rows, parts_);
  }
  int64_t count() const { return num_runs_ * parts_; }

  /// Tiles [first_tile, end_tile) times rows [first_row, first_row + num_rows); no rows: the unit is empty.
  struct Unit {
    int64_t first_tile, end_tile, first_row, num_rows;
  };
  Unit operator[](int64_t unit) const {
    const int64_t first_row = unit % parts_ * part_rows_, first_tile = unit / parts_ * run_;
    return {first_tile, std::min(num_tiles_, first_tile + run_), first_row, std::max<int64_t>(0, std::min(part_rows_, num_rows_ - first_row))};
  }

 private:
  int64_t num_tiles_, num_rows_, run_, num_runs_, parts_, part_rows_;
};

/// A unit is a tile by itself, times all panels of rows of x. Of the tiles that are left once all workers have had as many, several units share the panels.
class PanelUnits {
 public:
  PanelUnits(int64_t num_tiles, int64_t num_panels, int num_workers) : rest_(num_tiles % num_workers), whole_(num_tiles - rest_) {
    // Where these are all there is, several turns even out what workers are held up by.
    constexpr int64_t kTurns = 4;
    if (rest_ > 0) groups_ = std::clamp<int64_t>((whole_ == 0 ? kTurns : 1) * num_workers / rest_, 1, num_panels);
  }
  int64_t count() const { return whole_ + rest_ * groups_; }

  /// A tile, and every step-th panel from the first on.
  struct Unit {
    int64_t tile, first_panel, step;
  };
  Unit operator[](int64_t unit) const {
    if (unit < whole_) return {unit, 0, 1};
    return {whole_ + (unit - whole_) / groups_, (unit - whole_) % groups_, groups_};
  }

 private:
  int64_t rest_, whole_, groups_ = 1;
};

/// A unit is a tile by itself, times all rows of x or a part of them.
class ProductUnits {
 public:
  ProductUnits(int64_t num_tiles, int64_t num_rows, int num_workers) : num_tiles_(num_tiles), num_rows_(num_rows) {
    parts_ = std::clamp<int64_t>(4 * num_workers / std::max<int64_t>(num_tiles, 1), 1, ceil_div(num_rows, 24));
    part_rows_ = ceil_div(num_rows, parts_);
  }
  int64_t count() const { return num_tiles_ * parts_; }
  int64_t num_rows() const { return num_rows_; }
  int64_t num_parts() const { return parts_; }
  /// Of the first part; the others have no more.
  int64_t part_rows() const { return part_rows_; }

  /// Rows [first_row, first_row + num_rows); no rows: the unit is empty.
  struct Part {
    int64_t first_row, num_rows;
  };
  Part part(int64_t part) const {
    const int64_t first_row = part * part_rows_;
    return {first_row, std::max<int64_t>(0, std::min(part_rows_, num_rows_ - first_row))};
  }
  int64_t tile_of(int64_t unit) const { return unit / parts_; }
  int64_t part_of(int64_t unit) const { return unit % parts_; }

 private:
  int64_t num_tiles_, num_rows_, parts_, part_rows_;
};

/// The bias [rows] in `floats`; null if it is empty.
inline const float* bias_floats(const WeightView& bias, int64_t rows, std::vector<float>* floats) {
  if (bias.empty()) return nullptr;
  floats->resize(static_cast<size_t>(rows));
  vector_rows::convert(bias.data(), bias.dtype, rows, DType::kF32, floats->data());
  return floats->data();
}

/// The rows of a tile as elements of `to`, an unquantized type, one after the other.
inline void convert_tile(const LinearTile& tile, const WeightView& weight, DType to, std::byte* out) {
  const DType from = weight.dtype;
  const int64_t cols = weight.cols;
  if (is_scaled(from)) return vector_rows::unpack_codes(*weight.format, from, *tile.piece, tile.piece_row, tile.num_rows, cols, to, out);
  if (!is_quantized(from)) return static_cast<void>(vector_rows::convert(tile.data, from, tile.num_rows * cols, to, out));
  for (int64_t row = 0; row < tile.num_rows; ++row)
    vector_rows::convert(tile.data + row * row_bytes(from, cols), from, cols, to, out + size_bytes(to, row * cols));
}

}  // namespace flexgen
