#pragma once
// CublasProduct: matrix products by cuBLASLt, which is loaded when first needed, so that the program starts where it is not installed. One thread.
//
// One answer: of a product with a matrix of given rows and k, bias and accumulation the algorithm is chosen once and used for every number of rows, and for
// pieces of the matrix as for the whole. It is the first of those that cuBLASLt's heuristic gives for a fixed number of rows, without splitting k, that is there for
// all numbers of rows and all pieces, and that gives rows the same bits alone, a few together and hundreds together, with a piece and with half of it, which is tried on the
// device when a product is first met. Up to 4096 rows are tried; a product with more rows than the algorithm was right with is computed in parts of so many.

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "backend/cuda/device_runtime.h"

namespace flexgen {

/// cuBLASLt as it is found on this machine. It stays loaded.
struct FoundCublas {
  void* handle = nullptr;  ///< null: it is not there
  std::string name;
  size_t version = 0;  ///< as it says itself: 130100
};
FoundCublas find_cublas();

class CublasProduct {
 public:
  /// act: kBF16 or kF16. Throws Error{device} if the library is not there.
  explicit CublasProduct(DType act);
  ~CublasProduct();

  /// Enqueues the product; workspace: kDeviceWorkspaceBytes, of which the first kProductWorkspaceBytes and the last kCheckBytes are used. Waits for the stream the first time.
  /// Throws Error{device} if there is no algorithm as above.
  void multiply(const MatrixProduct& product, std::byte* workspace, cudaStream_t stream);

 private:
  struct Library;
  struct Plan;
  Plan& plan(const MatrixProduct& product, std::byte* workspace, cudaStream_t stream);

  DType act_;
  std::unique_ptr<Library> library_;
  std::map<std::tuple<int64_t, int64_t, bool, bool>, std::unique_ptr<Plan>> plans_;  ///< by y_stride, k, bias, accumulate
};

}  // namespace flexgen
