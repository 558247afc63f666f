#pragma once
// Linear: x W^T of the cpu backend in bf16: our own products where they give oneDNN's bits and are faster (with AMX, all but those of an odd number of columns); else oneDNN on tiles of fixed shapes, weights used
// where they lie.
// A tile is `kTileRows` rows of W times one panel of rows of x; a tile runs in one thread, tiles
// run in parallel. So a result does not depend on the number of rows, of threads, or on where W is
// cut. Not for two threads at once.

#include <dnnl.hpp>
#include <map>
#include <memory>
#include <vector>

#include "backend/cpu/linear_amx.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/worker_team.h"
#include "backend/kernels.h"

namespace flexgen {

class Linear {
 public:
  /// `team` must outlive it, and is not shared with anyone who works at the same time.
  explicit Linear(WorkerTeam& team);

  /// As Kernels::linear, x in bf16.
  void run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y);

 private:
  static constexpr int64_t kTileRows = 64;  ///< rows of W in a tile; the width oneDNN blocks by itself
  static constexpr int64_t kMaxPanel = 256;
  static constexpr int64_t kPanelGrain = 16;  ///< panels are multiples of this
  static constexpr int64_t kFewRows = 128;    ///< up to these oneDNN is the slower, as it copies the weights
  static constexpr int64_t kShortRow = 1024;  ///< up to so many columns oneDNN's panels differ in bits, so rows of x are padded to one size
  static constexpr int64_t kOnlyPanel = 64;   ///< where sizes disagree: between few rows and many

  /// One oneDNN product [panel, K] x [K, kTileRows] and what each worker passes to it.
  struct Product {
    dnnl::matmul matmul;
    struct Worker {
      dnnl::memory x, w, y, scratch;
      std::unordered_map<int, dnnl::memory> arguments;
    };
    std::vector<Worker> workers;
    int64_t scratch_bytes = 0;
  };
  struct Panel {
    int64_t first_row, size, num_rows;  ///< num_rows <= size of them are real
  };
  struct WorkerScratch {
    std::vector<float> product;     ///< [kMaxPanel, kTileRows]
    std::vector<std::byte> weight;  ///< [kTileRows, K] in the compute dtype
    std::vector<std::byte> library;
  };

  Product& product(int64_t panel, int64_t cols);
  void multiply(Product& product, int worker, const std::byte* x, const std::byte* w, float* y);
  /// Whether panels of this size give the bits that panels of kOnlyPanel rows do; measured at first
  /// use.
  bool agrees(int64_t panel, int64_t cols);
  /// The same for packed_, any number of rows.
  bool packed_agrees(int64_t cols);
  std::vector<Panel> cut_rows(int64_t num_rows, int64_t cols);

  WorkerTeam& team_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Product>> products_;  ///< by panel, K
  std::map<std::pair<int64_t, int64_t>, bool> agrees_;                        ///< by panel, K
  std::map<int64_t, bool> packed_agrees_;                                     ///< by K
  std::unique_ptr<LinearAmx> amx_;                                            ///< of all rows of an even number of columns; null: this machine has no AMX
  std::unique_ptr<LinearPacked<DotRows>> packed_;                             ///< null: this machine has no such instructions
  std::vector<WorkerScratch> scratch_;
  std::vector<std::byte> last_panel_;
  std::vector<LinearTile> tiles_;
  std::vector<float> bias_;
};

}  // namespace flexgen
