#pragma once
// What kernels see of a weight: [rows, cols], row-major as in the checkpoint, cut by rows into the pieces
// that lie in different places. Pure data; owns nothing.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace flexgen {

struct CodeFormat;

/// The tensors beside a matrix's codes (tensor/code_format.h): scales, zero points, which group a column is in, a factor of all scales.
enum CodePart { kScales, kZeros, kOrder, kGlobal, kNumCodeParts };

/// Consecutive rows of a weight that lie in one place.
struct WeightPiece {
  const std::byte* data = nullptr;  ///< [rows, cols] elements; 2-byte alignment at least, but any where they are blocks or codes
  int64_t rows = 0;
  std::array<const std::byte*, kNumCodeParts> beside =
      {};  ///< of a type with scales of its own: where each begins for the piece's first row; null: there is none
};

/// A matrix [rows, cols] = [out features, in features], or a vector as [1, cols]. The pieces are in row
/// order and their rows add up to `rows`. Where the cuts are never changes a result bit.
struct WeightView {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  std::vector<WeightPiece> pieces;
  const CodeFormat* format = nullptr;  ///< of a type with scales of its own

  bool empty() const { return pieces.empty(); }
  /// The data of a weight known to lie in one piece (norms, biases, small tables).
  const std::byte* data() const { return pieces.front().data; }
};

}  // namespace flexgen
