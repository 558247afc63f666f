#pragma once
// LinearInt8: x W^T of the cpu backend in integer arithmetic, for W with an integer_group() (backend/symmetric_quant.h): rows of x become int8 codes, tiles of W are packed in a worker's cache and go
// through all of them. A result depends on its row of x and its row of W alone. Not for two threads at once.

#include <hwy/aligned_allocator.h>
#include <cstdint>
#include <vector>

#include "backend/cpu/int8_product.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/worker_team.h"

namespace flexgen {

class LinearInt8 {
 public:
  /// As Linear's.
  explicit LinearInt8(WorkerTeam& team);

  /// As Kernels::linear for such a weight, x of `x_dtype` (unquantized).
  void run(const std::byte* x, DType x_dtype, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y);

 private:
  static constexpr int64_t kMaxPanel = 256;  ///< rows of x at a time: bounds what their codes take

  struct Worker {
    int8_product::PackedTile tile;
    alignas(64) float product[kMaxPanel * int8_product::kTileRows];
  };

  void run_panel(const std::byte* x, DType x_dtype, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y);

  WorkerTeam& team_;
  hwy::AlignedUniquePtr<Worker[]> workers_;
  hwy::AlignedFreeUniquePtr<int8_t[]> codes_;  ///< a group is a cache line, or a half
  size_t codes_bytes_ = 0;
  std::vector<float> scales_, offsets_, bias_;
  std::vector<int32_t> starts_;
  std::vector<LinearTile> tiles_;
};

}  // namespace flexgen
