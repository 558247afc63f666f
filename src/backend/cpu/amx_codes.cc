#include "backend/cpu/amx_codes.h"

#include <algorithm>

#include "base/error.h"

namespace flexgen::amx_product {

#if !defined(__x86_64__) || !defined(__linux__)

void unpack_chunk(const ProductTile&, DType, int64_t, int64_t, TileChunk*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }
void multiply_codes(const std::byte*, int64_t, DType, const ProductTile&, TileChunk*, float*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }

#endif

}  // namespace flexgen::amx_product

#if defined(__x86_64__) && defined(__linux__)
#include "backend/cpu/amx_tile_inl.h"
#include "backend/cpu/code_readers_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx512vbmi2")
namespace flexgen::amx_product {
namespace {

using code_tiles::kNextStep;
using code_tiles::kPair;
using code_tiles::kReadPairs;
using code_tiles::LookUp;
using code_tiles::with_reader;
static_assert(kTileRows == code_tiles::kTileRows && kStep == code_tiles::kStep && kMaxChunkColumns % kPair == 0);

/// Zeros where a tile has no rows, in `num_steps` steps of a chunk.
HWY_INLINE void clear_rest(int64_t num_rows, int64_t num_steps, std::byte* to) {
  for (int64_t row = num_rows; row < kTileRows; ++row)
    for (int64_t step = 0; step < num_steps; ++step) _mm512_store_si512(to + row * kStepBytes + step * kNextStep, _mm512_setzero_si512());
}

/// How many pairs a reader unpacks together, where there are so many.
template <class Reader>
inline constexpr int64_t kTogether = requires(const Reader& reader, std::byte* to) {
  reader.unpack_two(LookUp(), 0, 0, 0, to);
}
? 2 : 1;

/// So many rows are unpacked between two steps of a product.
template <class Reader>
inline constexpr int64_t kUnpackedRows = kTileRows / (2 * kTogether<Reader>);

/// Pairs [pair, pair + count), count <= kTogether, of all rows, from the i-th of those read last on. Between rows other work is done, now and then.
template <class Reader, class Other>
HWY_INLINE void unpack_rows(const Reader& reader, int64_t num_rows, int64_t pair, int64_t count, int64_t i, std::byte* to, const Other& other) {
  const LookUp look_up;
  for (int64_t row = 0; row < num_rows; other()) {
    const int64_t end = std::min(num_rows, row + kUnpackedRows<Reader>);
    if constexpr (kTogether<Reader> == 2)
      if (count == 2)
        for (; row < end; ++row) reader.unpack_two(look_up, row, pair, i, to + row * kStepBytes);
    for (; row < end; ++row) reader.unpack(look_up, row, pair, i, to + row * kStepBytes);
  }
}

template <class Reader>
HWY_NOINLINE void unpack_pairs(Reader& reader, int64_t num_rows, int64_t first, int64_t count, std::byte* to) {
  for (int64_t pair = 0, together; pair < count; pair += together, to += together * 2 * kNextStep) {
    if (pair % kReadPairs == 0) reader.read(first + pair, std::min(kReadPairs, count - pair));
    together = std::min(kTogether<Reader>, count - pair);
    unpack_rows(reader, num_rows, first + pair, together, pair % kReadPairs, to, [] {});
    clear_rest(num_rows, 2 * together, to);
  }
}

/// Two blocks of x, or one, times the tile. Pairs are unpacked while those before are multiplied, each in their half of the room.
template <bool kTwoBlocks, class Reader>
HWY_NOINLINE void multiply_pairs(const Blocks& blocks, Reader& reader, const ProductTile& tile, std::byte* room, float* y) {
  constexpr int64_t kPairs = kTogether<Reader>, kHalf = kPairs * 2 * kNextStep;
  static_assert(kReadPairs % kPairs == 0);
  const int64_t x0_stride = 4 * blocks.rows0, x1_stride = 4 * blocks.rows1, num_pairs = tile.cols / kPair;
  const std::byte *x0 = blocks.x0, *x1 = blocks.x1;
  dot_product::EvenFetch fetch(tile);
  const int64_t num_pieces = ceil_div(num_pairs, kPairs) * ceil_div(tile.num_rows, kUnpackedRows<Reader>);
  clear<kSums00>();
  clear<kSums10>();
  if constexpr (kTwoBlocks) {
    clear<kSums01>();
    clear<kSums11>();
  }
  clear_rest(tile.num_rows, 2 * 2 * kPairs, room);
  int64_t steps = 0, pieces = 0;  // steps of the turn before, which are multiplied in this one
  for (int64_t pair = 0, turn = 0; pair < num_pairs || steps > 0; ++turn) {
    const std::byte* w = room + (turn + 1) % 2 * kHalf;
    const auto multiply_step = [&] {
      if (steps == 0) return false;
      add_step<kTwoBlocks>(w, w + kBlockRows * kStepBytes, kStepBytes, x0, x0_stride, x1, x1_stride);
      w += kNextStep;
      x0 += kStep / 2 * x0_stride;
      x1 += kStep / 2 * x1_stride;
      --steps;
      return true;
    };
    const int64_t count = std::min(kPairs, num_pairs - pair);
    if (count > 0) {
      if (pair % kReadPairs == 0) reader.read(pair, std::min(kReadPairs, num_pairs - pair));
      // A step waits for the one before it, and memory takes only so many requests at once: together they would hold up what follows.
      unpack_rows(reader, tile.num_rows, pair, count, pair % kReadPairs, room + turn % 2 * kHalf, [&] {
        multiply_step();
        fetch.reach(++pieces, num_pieces);
      });
    }
    while (multiply_step()) {
    }
    pair += count;
    steps = 2 * count;
  }
  write_sums<kSums00, kSums10>(blocks.rows0, y);
  if constexpr (kTwoBlocks) write_sums<kSums01, kSums11>(blocks.rows1, y + kBlockRows * kTileRows);
}

}  // namespace

void unpack_chunk(const ProductTile& tile, DType dtype, int64_t first, int64_t count, TileChunk* chunk) {
  with_reader(tile, dtype, [&](auto& reader) { unpack_pairs(reader, tile.num_rows, first / kPair, count / kPair, chunk->w); });
}

void multiply_codes(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, TileChunk* scratch, float* y) {
  const int64_t rows0 = std::min(kBlockRows, num_rows), rows1 = num_rows - rows0;
  const Blocks blocks{x, x + rows0 * 2 * tile.cols, rows0, rows1};
  set_shapes(shapes_of(kTileRows, rows0, rows1));
  with_reader(tile, dtype, [&](auto& reader) {
    if (rows1 > 0) multiply_pairs<true>(blocks, reader, tile, scratch->w, y);
    else multiply_pairs<false>(blocks, reader, tile, scratch->w, y);
  });
  release();
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
#endif
