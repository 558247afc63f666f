#pragma once
// LinearAmx: x W^T of the cpu backend in bf16 by AMX (amx_product.h), rows of any number: few go through tiles of W as they are read, many through chunks of several tiles at a time. A result depends on its row of
// x and its row of W alone. Not for two threads at once.

#include <hwy/aligned_allocator.h>
#include <cstdint>
#include <vector>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/worker_team.h"

namespace flexgen {

class LinearAmx {
 public:
  /// As Linear's. Only where amx_product::is_supported().
  explicit LinearAmx(WorkerTeam& team);

  static bool takes(const WeightView& weight) { return weight.cols % amx_product::kColumnGrain == 0; }

  /// As Kernels::linear, x in bf16, of a weight that it takes.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y);

 private:
  static constexpr int64_t kFewRows = 64;                    ///< up to so many go through tiles as they are read; through codes (amx_codes.h), kPairRows
  static constexpr int64_t kMaxPanel = 512;                  ///< of more rows, so many at a time, as their sums wait
  static constexpr int64_t kMostPacked = int64_t{16} << 20;  ///< bytes of x that are packed at a time: no memory plan knows of them
  static constexpr int64_t kMaxTiles = 8;                    ///< of W that rows of x go through in turn: x comes from a far cache, so often
  static constexpr int64_t kPairRows = 2 * amx_product::kBlockRows;

  struct Worker {
    amx_product::TileChunk chunks[kMaxTiles];
    amx_product::BlockSums sums[kMaxTiles * kMaxPanel / kPairRows];  ///< [pair of blocks of x, tile]
  };
  /// Rows of x that are multiplied together, and where they go.
  struct Panel {
    int64_t num_rows;
    const float* bias;
    bool accumulate;
    float* y;
  };

  void run_panel(const std::byte* x, const WeightView& weight, const Panel& panel);
  void multiply_tiles(int worker, int64_t first, int64_t count, const WeightView& weight, const Panel& panel);

  WorkerTeam& team_;
  LinearPacked<AmxRows> few_;
  std::vector<hwy::AlignedUniquePtr<Worker>> workers_;  ///< each made by its thread, when it first has many rows
  hwy::AlignedFreeUniquePtr<std::byte[]> packed_;       ///< x of a panel, in padded blocks
  int64_t packed_bytes_ = 0;
  std::vector<std::vector<std::byte>> converted_;  ///< of a worker: tiles of another type [at most kMaxTiles * kTileRows, K]
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
