#include "backend/cpu/dot_codes.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "backend/cpu/code_tiles.h"
#include "base/error.h"

namespace flexgen::dot_product {

bool takes_codes(const WeightView& weight, const ProductTile& tile) {
  // kPacked4's scales and zero points are read a number at a time, which takes as long as it saves.
  return tile.num_rows == kTileRows && weight.dtype != DType::kPacked4 && code_tiles::takes(weight);
}

#if !defined(__x86_64__)

void multiply_codes(const Rows&, DType, const ProductTile&, Scratch&, CodeScratch&, float*) {
  FLEXGEN_CHECK(false, "no look-ups of codes on this kind of machine");
}

#endif

}  // namespace flexgen::dot_product

#if defined(__x86_64__)
#define FLEXGEN_DOT_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx512vbmi2"
#include "backend/cpu/code_readers_inl.h"
#include "backend/cpu/dot_tile_inl.h"
#include "backend/cpu/power_codes_inl.h"

HWY_PUSH_ATTRIBUTES(FLEXGEN_DOT_TARGET)
namespace flexgen::dot_product {
namespace {

static_assert(kTileRows == code_tiles::kTileRows && kStep == code_tiles::kStep && kMaxChunk % code_tiles::kPair == 0);

/// 16 rows of whole pairs of steps that are packed, while blocks of x are multiplied.
template <class Reader>
struct PackedPairs {
  const Reader* reader;
  int64_t half;             ///< of the tile's rows
  int64_t pair, num_pairs;  ///< of steps
  uint32_t* to;             ///< their place in the chunk's first pair of columns
  CodeScratch* scratch;
  EvenFetch* fetch;
  int64_t total_pairs;  ///< of the tile

  int64_t num_pieces() const { return 2 * num_pairs * kPiecesOfStep; }
  HWY_INLINE void fetch_pair(int64_t p) const { fetch->reach(2 * p + half + 1, 2 * total_pairs); }
  uint32_t* place_of(int64_t step) const { return to + (step - 2 * pair) * kLanes * kTileRows; }
};

/// Unpacks rows, and turns what they mean.
template <class Reader>
struct CodePacker : PackedPairs<Reader> {
  template <class Between>
  HWY_INLINE void run(const Between& between) const {
    using code_tiles::kNextStep, code_tiles::kStepBytes;
    const code_tiles::LookUp look_up;
    uint32_t(*const turned)[16] = this->scratch->turned;
    for (int64_t p = this->pair; p < this->pair + this->num_pairs; ++p) {
      const int64_t i = p % code_tiles::kReadPairs;
      for (int64_t r = 0; r < kLanes; r += 4) {
        std::byte* const at = this->scratch->unpacked + r * kStepBytes;
        const auto unpack = [&](int64_t of_four) { this->reader->unpack(look_up, this->half * kLanes + r + of_four, p, i, at + of_four * kStepBytes); };
        unpack(0), unpack(1), between();
        unpack(2), unpack(3);
        turn_rows(at, kStepBytes, turned + r);
        turn_rows(at + kNextStep, kStepBytes, turned + kLanes + r);
        between();
      }
      this->fetch_pair(p);
      for (int64_t step = 0; step < 2; ++step)
        for (int64_t column = 0; column < 4; ++column) join_columns(turned + step * kLanes, column, this->place_of(2 * p + step)), between();
    }
  }
};

/// Turns codes, and looks up what they mean.
template <DType kType>
struct CodePacker<code_tiles::PowerReader<kType>> : PackedPairs<code_tiles::PowerReader<kType>> {
  template <class Between>
  HWY_INLINE void run(const Between& between) const {
    const code_tiles::LookUp look_up;
    for (int64_t step = 2 * this->pair; step < 2 * (this->pair + this->num_pairs); ++step) {
      __m512i words[4];
      this->reader->codes(this->half, step, words);
      for (int64_t i = 0; i < 4; ++i) _mm512_store_si512(this->scratch->turned[i], words[i]);
      if (step % 2 == 1) this->fetch_pair(step / 2);
      uint32_t* const out = this->place_of(step);
      for (int64_t word = 0; word < 4; ++word) {
        const __m512i codes = _mm512_load_si512(this->scratch->turned[word]);
        const auto pack = [&](int64_t byte) {
          _mm512_store_si512(out + this->reader->pair_at(word, byte) * kTileRows, this->reader->meanings(look_up, codes, byte, this->half, step));
        };
        pack(0), pack(1), between();
        pack(2), pack(3), between();
      }
    }
  }
};

/// Reads what codes of pairs [pair, pair + count) mean. False: the reader cannot.
template <class Reader>
HWY_INLINE bool read_pairs_of(Reader& reader, int64_t pair, int64_t count) {
  if constexpr (std::is_void_v<decltype(reader.read(pair, count))>) return reader.read(pair, count), true;
  else return reader.read(pair, count);
}

/// Rows of x times the tile, a chunk after the other. False, and nothing of use in y, if the reader cannot read it.
template <class Reader>
HWY_NOINLINE bool multiply_read(const Rows& x, Reader& reader, const ProductTile& tile, Scratch& scratch, CodeScratch& codes, float* y) {
  using code_tiles::kPair, code_tiles::kReadPairs;
  const int64_t cols = tile.cols, total_pairs = cols / kPair;
  EvenFetch fetch(tile);
  PackedChunk *now = &scratch.chunks[0], *next = &scratch.chunks[1];
  const auto packer_of = [&](int64_t half, int64_t column, int64_t count, PackedChunk* to) {
    return CodePacker<Reader>{{&reader, half, column / kPair, count / kPair, to->w + half * kLanes, &codes, &fetch, total_pairs}};
  };
  const auto read = [&](int64_t column) {
    const int64_t pair = column / kPair;
    return pair % kReadPairs != 0 || read_pairs_of(reader, pair, std::min(kReadPairs, total_pairs - pair));
  };
  if (!read(0)) return false;
  for (int64_t half = 0; half < 2; ++half) packer_of(half, 0, std::min(kMaxChunk, cols), now).run([] {});
  for (int64_t first = 0; first < cols; first += kMaxChunk) {
    const int64_t count = std::min(kMaxChunk, cols - first), end = first + count, next_count = std::min(kMaxChunk, cols - end);
    if (next_count > 0 && !read(end)) return false;
    const CodePacker<Reader> packers[2] = {packer_of(0, end, next_count, next), packer_of(1, end, next_count, next)};
    multiply_chunk(x, cols, first, count, *now, next_count > 0 ? packers : nullptr, scratch, y);
    std::swap(now, next);
  }
  return true;
}

/// What multiply_few_read() asks of a reader, so that it is compiled once for most of them: a call is for half of a tile's rows and a pair of steps.
class PairUnpacker {
 public:
  virtual ~PairUnpacker() = default;
  virtual void read(int64_t pair, int64_t count) = 0;
  /// As readers have it, to scratch->turned: [step, pair of columns, row].
  virtual void unpack(int64_t half, int64_t pair, int64_t i, CodeScratch* scratch) const = 0;
};
template <class Reader>
class PairUnpackerOf : public PairUnpacker {
 public:
  explicit PairUnpackerOf(Reader& reader) : reader_(reader) {}
  void read(int64_t pair, int64_t count) override { reader_.read(pair, count); }
  void unpack(int64_t half, int64_t pair, int64_t i, CodeScratch* scratch) const override {
    const code_tiles::LookUp look_up;
    for (int64_t r = 0; r < kLanes; ++r) reader_.unpack(look_up, half * kLanes + r, pair, i, scratch->unpacked + r * code_tiles::kStepBytes);
    for (int64_t step = 0; step < 2; ++step) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) v[r] = _mm512_load_si512(scratch->unpacked + step * code_tiles::kNextStep + r * code_tiles::kStepBytes);
      transpose(v);
#pragma GCC unroll 16
      for (int column = 0; column < 16; ++column) _mm512_store_si512(scratch->turned[step * 16 + column], v[column]);
    }
  }

 private:
  Reader& reader_;
};

/// each(..., use): use(i, w) of each pair of columns i of a step, what 16 rows' codes mean, once prepare() has been called for pair `pair` of steps, the i-th of those read last.
template <class Reader>
struct StepPairs {
  static HWY_INLINE void prepare(const Reader& reader, int64_t half, int64_t pair, int64_t i, CodeScratch& scratch) { reader.unpack(half, pair, i, &scratch); }
  template <class Use>
  static HWY_INLINE void each(const Reader&, const code_tiles::LookUp&, int64_t, int64_t step, const CodeScratch& scratch, const Use& use) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) use(i, _mm512_load_si512(scratch.turned[step % 2 * 16 + i]));
  }
};
template <DType kType>
struct StepPairs<code_tiles::PowerReader<kType>> {
  using Reader = code_tiles::PowerReader<kType>;
  static HWY_INLINE void prepare(const Reader&, int64_t, int64_t, int64_t, CodeScratch&) {}
  template <class Use>
  static HWY_INLINE void each(const Reader& reader, const code_tiles::LookUp& look_up, int64_t half, int64_t step, const CodeScratch&, const Use& use) {
    __m512i words[4];
    reader.codes(half, step, words);
    // From the left, as sums go.
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
#pragma GCC unroll 4
      for (int word = 0; word < 4; ++word)
#pragma GCC unroll 4
        for (int byte = 0; byte < 4; ++byte)
          if (Reader::pair_at(word, byte) == i) use(i, reader.meanings(look_up, words[word], byte, half, step));
  }
};

/// kRows rows of x, packed if there are several, times the tile, half of its rows after the other; of so many columns at a time as the reader reads parameters of. False likewise.
template <int kRows, class Reader>
HWY_NOINLINE bool multiply_few_read(const std::byte* x, Reader& reader, const ProductTile& tile, Scratch& scratch, CodeScratch& codes, float* y) {
  using code_tiles::kPair, code_tiles::kReadPairs;
  const int64_t cols = tile.cols, of_part = sum_columns(cols), total_pairs = cols / kPair;
  const code_tiles::LookUp look_up;
  EvenFetch fetch(tile);
  for (int64_t first = 0, end; first < total_pairs; first = end) {
    end = std::min(total_pairs, first + kReadPairs);
    if (!read_pairs_of(reader, first, end - first)) return false;
    const bool begins = first * kPair % of_part == 0, ends = end * kPair % of_part == 0 || end == total_pairs, is_first = end * kPair <= of_part;
    for (int64_t half = 0; half < 2; ++half) {
      float *const part = scratch.part + half * kLanes, *const out = y + half * kLanes;
      __m512 sums[kRows];
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) sums[m] = begins ? _mm512_setzero_ps() : _mm512_load_ps(part + m * kTileRows);
      for (int64_t pair = first; pair < end; ++pair) {
        fetch.reach(2 * first + half * (end - first) + pair - first + 1, 2 * total_pairs);
        StepPairs<Reader>::prepare(reader, half, pair, pair - first, codes);
        for (int64_t step = 2 * pair; step < 2 * pair + 2; ++step) {
          const std::byte* const at = x + 2 * step * kStep * kRows;
          StepPairs<Reader>::each(reader, look_up, half, step, codes, [&](int i, __m512i w) {
#pragma GCC unroll 16
            for (int m = 0; m < kRows; ++m) sums[m] = _mm512_dpbf16_ps(sums[m], pair_of_all(at + 4 * (i * kRows + m)), reinterpret_cast<__m512bh>(w));
          });
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        if (!ends) _mm512_store_ps(part + m * kTileRows, sums[m]);
        else _mm512_store_ps(out + m * kTileRows, is_first ? sums[m] : _mm512_add_ps(_mm512_load_ps(out + m * kTileRows), sums[m]));
      }
    }
  }
  return true;
}

}  // namespace

void multiply_codes(const Rows& x, DType dtype, const ProductTile& tile, Scratch& scratch, CodeScratch& codes, float* y) {
  const auto multiply_few = [&](auto& reader) {
    bool good = false;
    with_constant<kFewRows>(x.count, [&](auto rows) { good = multiply_few_read<rows>(x.data, reader, tile, scratch, codes, y); });
    return good;
  };
  const bool are_few = uses_tile_as_read(x.count, tile.cols);
  const auto multiply_powers = [&]<DType kType>() {
    code_tiles::PowerReader<kType> reader(tile);
    return are_few ? multiply_few(reader) : multiply_read(x, reader, tile, scratch, codes, y);
  };
  if (code_tiles::has_powers(dtype, tile.format))
    if (dtype == DType::kFp4 ? multiply_powers.template operator()<DType::kFp4>() : multiply_powers.template operator()<DType::kMXFP4>()) return;
  code_tiles::with_reader(tile, dtype, [&]<class Reader>(Reader& reader) {
    if (!are_few) return static_cast<void>(multiply_read(x, reader, tile, scratch, codes, y));
    PairUnpackerOf<Reader> unpacker(reader);
    multiply_few(static_cast<PairUnpacker&>(unpacker));
  });
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
#endif
