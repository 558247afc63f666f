#include "model/decoded_rows.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// A tensor [rows, row_bytes] of a matrix that lies by columns: of each row the bytes [from, from + bytes).
void copy_columns(const std::byte* rows, int64_t num_rows, int64_t row_bytes, int64_t from, int64_t bytes, std::byte* to) {
  for (int64_t row = 0; row < num_rows; ++row) std::memcpy(to + row * bytes, rows + row * row_bytes + from, static_cast<size_t>(bytes));
}

}  // namespace

DecodedRows::DecodedRows(const WeightSpec& weight, const std::vector<std::shared_ptr<File>>& files, int64_t memory_bytes)
    : weight_(weight), files_(files), format_(weight.codes->format) {
  const int64_t grain = is_transposed(weight.dtype) ? 8 : weight.codes->grain_rows, float_bytes = weight.cols * static_cast<int64_t>(sizeof(float));
  block_rows_ = std::min(weight.rows, std::max(grain, round_down(memory_bytes / 2 / weight.row_bytes(), grain)));
  slice_rows_ = std::min(block_rows_, std::max<int64_t>(8, round_down(memory_bytes / 4 / float_bytes, 8)));
  values_.resize(static_cast<size_t>(slice_rows_ * weight.cols));
}

std::optional<DecodedRows::Rows> DecodedRows::next() {
  if (at_ == count_) {
    first_ += count_;
    if (first_ == weight_.rows) return std::nullopt;
    count_ = std::min(block_rows_, weight_.rows - first_);
    at_ = 0;
    read_block();
  }
  WeightPiece piece{codes_.data(), count_};
  for (size_t part = 0; part < beside_.size(); ++part) piece.beside[part] = beside_[part].empty() ? nullptr : beside_[part].data();
  const int64_t count = std::min(slice_rows_, count_ - at_);
  decode_rows(format_, weight_.dtype, piece, at_, count, weight_.cols, values_.data());
  const Rows rows{first_ + at_, count, values_.data()};
  at_ += count;
  return rows;
}

void DecodedRows::read(int file, int64_t offset, std::byte* to, int64_t bytes) const {
  files_[static_cast<size_t>(file)]->read(offset, {to, static_cast<size_t>(bytes)});
}

void DecodedRows::read_block() {
  if (is_transposed(weight_.dtype)) read_columns();
  else read_rows();
}

void DecodedRows::read_rows() {
  codes_.resize(static_cast<size_t>(count_ * weight_.row_bytes()));
  read(weight_.file, weight_.offset + first_ * weight_.row_bytes(), codes_.data(), std::ssize(codes_));
  for (size_t part = 0; part < beside_.size(); ++part) {
    const TensorBeside& tensor = weight_.codes->beside[part];
    const auto [offset, bytes] = tensor.range(first_, count_);
    beside_[part].resize(static_cast<size_t>(bytes));
    if (bytes > 0) read(tensor.file, offset, beside_[part].data(), bytes);
  }
}

/// Rows of the matrix are columns of its tensors: each block is one way through them, from start to end.
void DecodedRows::read_columns() {
  const int64_t all = weight_.stored_rows(), first_row = weight_.codes->part_first + first_, per_word = codes_per_word(weight_.dtype);
  format_.stored_rows = count_;
  std::vector<std::byte> whole;
  const auto take = [&](int file, int64_t offset, int64_t stored_rows, int64_t row_bytes, std::vector<std::byte>* to) {
    const int64_t from = row_bytes * first_row / all, bytes = row_bytes * count_ / all, at_a_time = std::clamp<int64_t>((1 << 20) / row_bytes, 1, stored_rows);
    to->resize(static_cast<size_t>(stored_rows * bytes));
    whole.resize(static_cast<size_t>(at_a_time * row_bytes));
    for (int64_t row = 0; row < stored_rows; row += at_a_time) {
      const int64_t rows = std::min(at_a_time, stored_rows - row);
      read(file, offset + row * row_bytes, whole.data(), rows * row_bytes);
      copy_columns(whole.data(), rows, row_bytes, from, bytes, to->data() + row * bytes);
    }
  };
  const int64_t stored_rows = weight_.dtype == DType::kAwq4 ? weight_.cols : weight_.cols / per_word;
  take(weight_.file, weight_.offset, stored_rows, all * weight_.row_bytes() / stored_rows, &codes_);
  for (CodePart part : {kScales, kZeros}) {
    const TensorBeside& tensor = weight_.codes->beside[part];
    take(tensor.file, tensor.offset, tensor.rows, tensor.row_bytes, &beside_[part]);
  }
  const TensorBeside& order = weight_.codes->beside[kOrder];
  beside_[kOrder].resize(static_cast<size_t>(order.bytes()));
  if (order.bytes() > 0) read(order.file, order.offset, beside_[kOrder].data(), order.bytes());
}

}  // namespace flexgen
