#pragma once
// Matmul: y = x W^T through oneDNN, on weights as they lie in the checkpoint. Calls oneDNN on
// panels of a few fixed numbers of rows, so that the same kernel with the same reduction order sees
// every row ("one answer"), and so that a ragged T needs no new JIT kernel. Not for two threads at
// once.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/weight_view.h"

namespace flexgen {

class Matmul {
 public:
  /// compute: kBF16 or kF32, the element type of x and of the products' inputs.
  explicit Matmul(DType compute);
  ~Matmul();

  /// y [T, N] f32 = (accumulate ? y : 0) + x [T, K] W^T.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, bool accumulate,
           float* y);

 private:
  struct Shape {
    int64_t rows, n, k, stride;
    bool accumulate;
    auto operator<=>(const Shape&) const = default;
  };
  struct Primitive;

  void panels(const std::byte* x, int64_t num_rows, const std::byte* w, int64_t n, int64_t k,
              int64_t stride, bool accumulate, float* y);
  void panel(int64_t rows, const std::byte* x, const std::byte* w, int64_t n, int64_t k,
             int64_t stride, bool accumulate, float* y);
  /// The size of the next panel when `left` rows are left.
  int64_t panel_rows(int64_t left) const;
  /// Looks once for each K whether panels of all sizes and cuts of W give the same bits; falls back
  /// to one size if not.
  void check_bits(int64_t n, int64_t k);
  const std::byte* converted(const WeightView& weight, const std::byte* data, int64_t rows);

  DType compute_;
  int64_t element_;
  bool single_panel_ = false;
  std::set<int64_t> checked_;
  std::map<Shape, std::unique_ptr<Primitive>> primitives_;
  std::vector<std::byte> padded_x_, converted_;
  std::vector<float> padded_y_;
};

}  // namespace flexgen
