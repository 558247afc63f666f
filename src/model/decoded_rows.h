#pragma once
// DecodedRows: the rows of a quantized matrix of a checkpoint (WeightSpec::codes) as floats, in order, in bounded memory. One thread.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "io/file.h"
#include "model/model.h"

namespace flexgen {

class DecodedRows {
 public:
  /// `files`: of the model, open. Takes about `memory_bytes`, and enough for the rows that have to be read together.
  DecodedRows(const WeightSpec& weight, const std::vector<std::shared_ptr<File>>& files, int64_t memory_bytes);

  struct Rows {
    int64_t first = 0, count = 0;
    const float* values = nullptr;  ///< [count, cols]; they stay until the next call
  };
  /// None: there are no more.
  std::optional<Rows> next();

 private:
  void read_block();
  void read_rows();
  void read_columns();
  void read(int file, int64_t offset, std::byte* to, int64_t bytes) const;

  const WeightSpec& weight_;
  const std::vector<std::shared_ptr<File>>& files_;
  CodeFormat format_;  ///< of what is in memory
  int64_t block_rows_, slice_rows_;
  int64_t first_ = 0, count_ = 0, at_ = 0;  ///< the block in memory, and of its rows those that were given
  std::vector<std::byte> codes_;
  std::array<std::vector<std::byte>, kNumCodeParts> beside_;
  std::vector<float> values_;
};

}  // namespace flexgen
