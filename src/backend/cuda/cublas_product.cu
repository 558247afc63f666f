#include "backend/cuda/cublas_product.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

#include "base/error.h"

namespace flexgen {
namespace {

constexpr int64_t kPlannedRows = 256;  ///< what the heuristic is asked for

void check(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kDevice, fmt::format("GPU: cuBLASLt: {}: status {}; finished answers are kept, run the same command again to go on", what,
                                              static_cast<int>(status)));
}

}  // namespace

/// The functions of cuBLASLt that are used, looked up by name.
struct CublasProduct::Library {
  Library() {
    const std::string names[] = {fmt::format("libcublasLt.so.{}", CUDART_VERSION / 1000), "libcublasLt.so"};
    for (const std::string& name : names)
      if (handle == nullptr) handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      throw Error(ErrorKind::kDevice, fmt::format("the cuda backend needs {}, which was not found: install the CUDA toolkit's libcublas, or add its folder to "
                                                  "LD_LIBRARY_PATH", names[0]));
    find("cublasLtCreate", create);
    find("cublasLtDestroy", destroy);
    find("cublasLtMatmulDescCreate", create_product);
    find("cublasLtMatmulDescDestroy", destroy_product);
    find("cublasLtMatmulDescSetAttribute", set_product);
    find("cublasLtMatrixLayoutCreate", create_layout);
    find("cublasLtMatrixLayoutDestroy", destroy_layout);
    find("cublasLtMatmulPreferenceCreate", create_preference);
    find("cublasLtMatmulPreferenceDestroy", destroy_preference);
    find("cublasLtMatmulPreferenceSetAttribute", set_preference);
    find("cublasLtMatmulAlgoGetHeuristic", heuristic);
    find("cublasLtMatmul", multiply);
    check(create(&context), "creating a context");
  }
  ~Library() { destroy(context); }  // the library stays loaded: it does not survive being unloaded and loaded again in all versions

  template <typename Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    if (function == nullptr) throw Error(ErrorKind::kDevice, fmt::format("the cuBLASLt library that was found has no {}: install the one of CUDA {}", name, CUDART_VERSION / 1000));
  }

  void* handle = nullptr;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmulDescCreate) create_product;
  decltype(&cublasLtMatmulDescDestroy) destroy_product;
  decltype(&cublasLtMatmulDescSetAttribute) set_product;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) multiply;
  cublasLtHandle_t context = nullptr;
};

/// One kind of product. cuBLASLt sees matrices by columns: W [n, k] by rows is [k, n] transposed, x is [k, rows], y is [n, rows].
struct CublasProduct::Plan {
  Plan(Library& lib, DType act, const MatrixProduct& p) : library(lib) {
    const cudaDataType_t type = act == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
    element = type;
    check(library.create_product(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(library.set_product(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "describing a product");
    if (p.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t bias_type = CUDA_R_32F;
      check(library.set_product(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), "describing a product");
      check(library.set_product(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type), "describing a product");
      set_bias(p.bias);
    }
    check(library.create_layout(&w, type, static_cast<uint64_t>(p.k), static_cast<uint64_t>(p.n), p.k), "describing a weight");

    cublasLtMatmulPreference_t preference = nullptr;
    check(library.create_preference(&preference), "choosing an algorithm");
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
      check(library.set_preference(preference, what, &value, sizeof value), "choosing an algorithm");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kProductWorkspaceBytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));  // k in one piece
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{16});
    alignment = p.y_stride % 4 == 0 ? 16 : 4;
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
    cublasLtMatrixLayout_t x = rows_layout(type, p.k, kPlannedRows, p.k), y = rows_layout(CUDA_R_32F, p.n, kPlannedRows, p.y_stride);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = library.heuristic(library.context, description, w, x, y, y, preference, 1, &result, &found);
    library.destroy_layout(x);
    library.destroy_layout(y);
    library.destroy_preference(preference);
    check(status, fmt::format("choosing an algorithm for {} x {}", p.n, p.k));
    if (found == 0) throw Error(ErrorKind::kDevice, fmt::format("GPU: cuBLASLt has no algorithm for a product with a {} x {} matrix on this GPU", p.n, p.k));
    algorithm = result.algo;
  }
  ~Plan() {
    library.destroy_layout(w);
    library.destroy_product(description);
  }

  void set_bias(const float* bias) { check(library.set_product(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "setting a bias"); }
  cublasLtMatrixLayout_t rows_layout(cudaDataType_t type, int64_t cols, int64_t rows, int64_t stride) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(library.create_layout(&layout, type, static_cast<uint64_t>(cols), static_cast<uint64_t>(rows), stride), "describing rows");
    return layout;
  }

  Library& library;
  cudaDataType_t element;
  uint32_t alignment = 4;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

CublasProduct::CublasProduct(DType act) : act_(act), library_(std::make_unique<Library>()) {}
CublasProduct::~CublasProduct() { plans_.clear(); }

CublasProduct::Plan& CublasProduct::plan(const MatrixProduct& p) {
  std::unique_ptr<Plan>& entry = plans_[{p.n, p.k, p.bias != nullptr, p.accumulate, p.y_stride % 4 == 0}];
  if (!entry) entry = std::make_unique<Plan>(*library_, act_, p);
  return *entry;
}

void CublasProduct::multiply(const MatrixProduct& p, std::byte* workspace, cudaStream_t stream) {
  Plan& how = plan(p);
  FLEXGEN_CHECK(reinterpret_cast<uintptr_t>(p.y) % how.alignment == 0, "rows of {} at {}", p.n, static_cast<const void*>(p.y));
  if (p.bias != nullptr) how.set_bias(p.bias);
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  cublasLtMatrixLayout_t x = how.rows_layout(how.element, p.k, p.num_rows, p.k), y = how.rows_layout(CUDA_R_32F, p.n, p.num_rows, p.y_stride);
  const cublasStatus_t status = library_->multiply(library_->context, how.description, &one, p.weight, how.w, p.x, x, &beta, p.y, y, p.y, y, &how.algorithm, workspace,
                                                   static_cast<size_t>(kProductWorkspaceBytes), stream);
  library_->destroy_layout(x);
  library_->destroy_layout(y);
  check(status, fmt::format("a product of {} rows with a {} x {} matrix", p.num_rows, p.n, p.k));
}

}  // namespace flexgen
