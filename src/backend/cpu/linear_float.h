#pragma once
// LinearFloat: x W^T of the cpu backend in fp32. Chunks of a tile of W are packed in a worker's cache and go through all rows of x, so that one row costs little more than reading W, and many cost what their
// multiplications do. A result depends on its row of x and its row of W alone (backend/cpu/float_product.h). Not for two threads at once.

#include <cstdint>
#include <hwy/aligned_allocator.h>
#include <vector>

#include "backend/cpu/float_product.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/worker_team.h"

namespace flexgen {

class LinearFloat {
 public:
  /// `team` must outlive it, and is not shared with anyone who works at the same time.
  explicit LinearFloat(WorkerTeam& team);

  /// As Kernels::linear, x in fp32.
  void run(const float* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y);

 private:
  static constexpr int64_t kMaxPanel = 256;  ///< rows of x at a time: a chunk of their columns stays in the second cache

  struct Worker {
    float_product::PackedChunk chunk;
    alignas(64) float product[kMaxPanel * float_product::kTileRows];
  };

  void run_panel(const float* x, int64_t num_rows, const WeightView& weight, const float* bias, bool accumulate, float* y);

  WorkerTeam& team_;
  hwy::AlignedUniquePtr<Worker[]> workers_;
  std::vector<std::vector<std::byte>> converted_;  ///< of a worker: a tile [kTileRows, K] of a type that is not packed as it lies, in fp32
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
