#pragma once
// CublasProduct: matrix products by cuBLASLt, which is loaded when first needed, so that the program starts where it is not installed. One thread.
//
// One answer: of a product of given n, k, bias and accumulation the algorithm is chosen once, by cuBLASLt's heuristic for a fixed number of rows and without
// splitting k, and used for every number of rows. Its tiles then add up each element in the same order whatever the other rows are.

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <tuple>

#include "backend/cuda/device_runtime.h"

namespace flexgen {

class CublasProduct {
 public:
  /// act: kBF16 or kF16. Throws Error{device} if the library is not there.
  explicit CublasProduct(DType act);
  ~CublasProduct();

  /// Enqueues the product; workspace: kProductWorkspaceBytes.
  void multiply(const MatrixProduct& product, std::byte* workspace, cudaStream_t stream);

 private:
  struct Library;
  struct Plan;
  Plan& plan(const MatrixProduct& product);

  DType act_;
  std::unique_ptr<Library> library_;
  std::map<std::tuple<int64_t, int64_t, bool, bool, bool>, std::unique_ptr<Plan>> plans_;  ///< by n, k, bias, accumulate, rows of y at 16 bytes
};

}  // namespace flexgen
