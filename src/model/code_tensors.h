#pragma once
// Quantized matrices of a checkpoint in safetensors: which tensors make one up, and what of each belongs to which rows (tensor/code_format.h says how they are
// read). Pure data; any thread.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/quantization.h"
#include "model/weight_list.h"
#include "tensor/code_format.h"

namespace flexgen {

/// A tensor beside a matrix's codes, in rows as the file has them.
struct TensorBeside {
  std::string name;
  int file = 0;
  int64_t offset = 0;  ///< bytes from the start of the file
  int64_t rows = 0, row_bytes = 0;
  int64_t rows_each = 0;  ///< rows of the matrix that belong to one of the tensor's; 0: all of it belongs to each row

  int64_t bytes() const { return rows * row_bytes; }
  /// What belongs to rows [first, first + count) of the matrix: (offset in the file, bytes). `first` begins one of the tensor's rows.
  std::pair<int64_t, int64_t> range(int64_t first, int64_t count) const;
};

/// What a matrix has besides its codes.
struct CodeTensors {
  CodeFormat format;
  std::array<TensorBeside, kNumCodeParts> beside;  ///< no rows: there is none
  int64_t grain_rows = 1;                          ///< a matrix is cut at multiples of this alone
  /// Not 0: the matrix is so many rows from part_first on of one that lies by columns (CodeFormat::stored_rows), whose tensors are read whole.
  int64_t part_rows = 0, part_first = 0;

  /// Of a part its share; what belongs to all parts is the first one's.
  int64_t bytes() const;
  /// Of the whole matrix's piece what a part has.
  WeightPiece part_of(DType dtype, const WeightPiece& whole) const;
};

/// A quantized matrix as the checkpoint has it.
struct FoundCodes {
  DType dtype = DType::kFp8;
  int file = 0;
  int64_t offset = 0;
  std::shared_ptr<const CodeTensors> tensors;
  std::vector<std::string> names;  ///< of all its tensors
};

/// Looks for the matrix `name`, "....weight", of that shape, in the forms that config.json's quantization allows; none if no form of it is there. Throws
/// Error{user} naming the tensor and `source` for those that do not fit it or one another, and for weights that flexgen reads in 16 bits alone.
std::optional<FoundCodes> find_codes(const Checkpoint& checkpoint, const Quantization& quantization, const std::string& name, const WantedWeight& wanted,
                                     const std::string& source);

/// Whether the checkpoint has the tensor, or codes in its place.
bool has_weight(const Checkpoint& checkpoint, const std::string& name);

}  // namespace flexgen
