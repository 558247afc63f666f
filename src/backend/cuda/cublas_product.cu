#include "backend/cuda/cublas_product.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/cuda/cuda_call.h"
#include "base/error.h"

namespace flexgen {
namespace {

constexpr int64_t kPlannedRows[] = {256, 64, 512, 16};  ///< what the heuristic is asked for, until it has an algorithm that is good for all
constexpr int kCandidates = 16;                         ///< that it is asked for each time
constexpr int64_t kSupportedRows[] = {1, 2, 3, 7, 8, 16, 33, 64, 100, 128, 200, 256, 384, 511, 512, 513, 640, 1000, 1024, 2047, 2048, 3000};
/// Rows of the product that others are compared with, as far as scratch goes: the first for which an algorithm is right are the most that it is given at once.
constexpr int64_t kMostTriedRows = 4096, kFewTriedRows = 512;
constexpr int64_t kPartRows[] = {1, 7, 33, 200, 512};         ///< that are computed apart
constexpr int64_t kCheckHead = 256 + 2 * 8 * kMostTriedRows;  ///< of kCheckBytes
constexpr int kHashThreads = 256;

void check(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kDevice,
              fmt::format("GPU: cuBLASLt: {}: status {}; finished answers are kept, run the same command again to go on", what, static_cast<int>(status)));
}

std::string cublas_name() { return fmt::format("libcublasLt.so.{}", CUDART_VERSION / 1000); }

struct Candidate {  // nvcc 13.0 fails at a std::vector of cuBLASLt's own type, a struct without a name
  cublasLtMatmulAlgo_t algorithm;
};

/// Numbers of no pattern from -1 to 1.
__global__ void fill_rows(uint16_t* x, int64_t count, bool is_bf16) {
  for_elements(count, [&](int64_t i) {
    auto bits = static_cast<uint32_t>(i) * 2654435761u;
    bits = (bits ^ bits >> 15) * 2246822519u;
    bits ^= bits >> 13;
    const float value = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
    x[i] = is_bf16 ? Bf16::from_float(value) : F16::from_float(value);
  });
}

/// Of row block_x() of y a sum of all its bits, by place; kept in sums, or if is_kept compared with what is there. Counts what differs. Grid: rows.
__global__ void hash_rows(const float* y, int64_t cols, int64_t stride, bool is_kept, unsigned long long* sums, uint32_t* different) {
  __shared__ unsigned long long sum;
  if (thread() == 0) sum = 0;
  sync_block();
  unsigned long long mine = 0;
  for (int64_t i = thread(); i < cols; i += num_threads())
    mine += __float_as_uint(y[block_x() * stride + i]) * (2 * static_cast<unsigned long long>(i) + 1) * 0x9e3779b97f4a7c15ull;
  atomicAdd(&sum, mine);
  sync_block();
  if (thread() != 0) return;
  if (!is_kept) sums[block_x()] = sum;
  else if (sums[block_x()] != sum) atomicAdd(different, 1u);
}

}  // namespace

FoundCublas find_cublas() {
  FoundCublas found;
  for (const std::string& name : {cublas_name(), std::string("libcublasLt.so")}) {
    if (found.handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL); found.handle == nullptr) continue;
    found.name = name;
    if (const auto version = reinterpret_cast<decltype(&cublasLtGetVersion)>(dlsym(found.handle, "cublasLtGetVersion"))) found.version = version();
    break;
  }
  return found;
}

/// The functions of cuBLASLt that are used, looked up by name.
struct CublasProduct::Library {
  Library() : handle(find_cublas().handle) {
    if (handle == nullptr)
      throw Error(ErrorKind::kDevice, fmt::format("the cuda backend needs {}, which was not found: install the CUDA toolkit's libcublas, or add its folder to "
                                                  "LD_LIBRARY_PATH",
                                                  cublas_name()));
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
    find("cublasLtMatmulAlgoCheck", check_algorithm);
    find("cublasLtMatmul", multiply);
    check(create(&context), "creating a context");
  }
  ~Library() { destroy(context); }  // the library stays loaded: it does not survive being unloaded and loaded again in all versions

  template <typename Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    if (function == nullptr)
      throw Error(ErrorKind::kDevice, fmt::format("the cuBLASLt library that was found has no {}: install the one of CUDA {}", name, CUDART_VERSION / 1000));
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
  decltype(&cublasLtMatmulAlgoCheck) check_algorithm;
  decltype(&cublasLtMatmul) multiply;
  cublasLtHandle_t context = nullptr;
};

/// One kind of product. cuBLASLt sees matrices by columns: W [n, k] by rows is [k, n] transposed, x is [k, rows], y is [n, rows].
struct CublasProduct::Plan {
  Plan(Library& lib, DType act, const MatrixProduct& p, std::byte* workspace, cudaStream_t stream) : library(lib) {
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
    alignment = p.y_stride % 4 == 0 ? 16 : 4;
    int seen = 0;
    for (const int64_t rows : kPlannedRows)
      for (const Candidate& candidate : candidates(p, rows)) {
        ++seen;
        algorithm = candidate.algorithm;
        for (const int64_t most : {kMostTriedRows, kFewTriedRows}) {
          most_rows = std::min(most, checked_rows(p));
          if (supports_all(p) && gives_same_bits(p, workspace, stream)) return;
        }
      }
    throw Error(ErrorKind::kDevice,
                fmt::format("GPU: of {} algorithms that cuBLASLt has for a product with a {} x {} matrix none gives a row the same result whatever the "
                            "number of rows: update the CUDA toolkit's libcublas, or use --backend cpu",
                            seen, p.y_stride, p.k));
  }
  ~Plan() { library.destroy_product(description); }

  uint32_t alignment = 4;  ///< of y, bytes
  int64_t most_rows = 0;   ///< that a product may have: no more than it was tried with

  void set_bias(const float* bias) { check(library.set_product(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "setting a bias"); }
  cublasLtMatrixLayout_t rows_layout(cudaDataType_t type, int64_t cols, int64_t rows, int64_t stride) const {
    cublasLtMatrixLayout_t layout = nullptr;
    check(library.create_layout(&layout, type, static_cast<uint64_t>(cols), static_cast<uint64_t>(rows), stride), "describing a matrix");
    return layout;
  }

  /// The product with what was chosen.
  cublasStatus_t multiply(const MatrixProduct& p, std::byte* workspace, cudaStream_t stream) {
    const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
    const Layouts l(*this, p, p.n, p.num_rows);
    return library.multiply(library.context, description, &one, p.weight, l.w, p.x, l.x, &beta, p.y, l.y, p.y, l.y, &algorithm, workspace,
                            static_cast<size_t>(kProductWorkspaceBytes), stream);
  }

 private:
  /// How the matrices of a product with n rows of the weight lie.
  struct Layouts {
    Layouts(const Plan& plan, const MatrixProduct& p, int64_t n, int64_t rows)
        : library(plan.library), w(plan.rows_layout(plan.element, p.k, n, p.k)), x(plan.rows_layout(plan.element, p.k, rows, p.k)),
          y(plan.rows_layout(CUDA_R_32F, n, rows, p.y_stride)) {}
    ~Layouts() {
      for (cublasLtMatrixLayout_t layout : {w, x, y}) library.destroy_layout(layout);
    }
    Layouts(const Layouts&) = delete;
    Layouts& operator=(const Layouts&) = delete;
    Library& library;
    cublasLtMatrixLayout_t w, x, y;
  };

  /// What the heuristic takes to be best for so many rows, best first.
  std::vector<Candidate> candidates(const MatrixProduct& p, int64_t rows) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(library.create_preference(&preference), "choosing an algorithm");
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
      check(library.set_preference(preference, what, &value, sizeof value), "choosing an algorithm");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kProductWorkspaceBytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));  // k in one piece
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
    const Layouts l(*this, p, p.y_stride, rows);
    cublasLtMatmulHeuristicResult_t results[kCandidates] = {};
    int found = 0;
    const cublasStatus_t status = library.heuristic(library.context, description, l.w, l.x, l.y, l.y, preference, kCandidates, results, &found);
    library.destroy_preference(preference);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, fmt::format("choosing an algorithm for {} x {}", p.y_stride, p.k));
    std::vector<Candidate> algorithms;
    for (int i = 0; i < found; ++i)
      if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({results[i].algo});
    return algorithms;
  }

  static int64_t piece_rows(const MatrixProduct& p) { return std::min(p.y_stride, matrix_piece_rows(p.k)); }
  /// Elements of a row of the results that are compared, as aligned as the real one.
  static int64_t checked_stride(const MatrixProduct& p) { return round_up(piece_rows(p), 4) + p.y_stride % 4; }
  /// As many rows as have room where they are compared.
  static int64_t checked_rows(const MatrixProduct& p) { return (kCheckBytes - kCheckHead - 256) / (2 * p.k + 4 * checked_stride(p)); }

  /// Whether it is there for the whole matrix and its pieces with all numbers of rows up to most_rows.
  bool supports_all(const MatrixProduct& p) {
    const int64_t all = p.y_stride, piece = matrix_piece_rows(p.k), last = all % piece;
    for (const int64_t n : {all, std::min(all, piece), last == 0 ? all : last}) {
      if (!supports(p, n, most_rows)) return false;
      for (const int64_t rows : kSupportedRows)
        if (rows < most_rows && !supports(p, n, rows)) return false;
    }
    return true;
  }
  bool supports(const MatrixProduct& p, int64_t n, int64_t rows) {
    const Layouts l(*this, p, n, rows);
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status = library.check_algorithm(library.context, description, l.w, l.x, l.y, l.y, &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS && static_cast<int64_t>(result.workspaceSize) <= kProductWorkspaceBytes;
  }

  /// Multiplies most_rows rows of its own with the matrix' first piece, in kCheckBytes at the end of the workspace: all at once, some from somewhere among them, and with half
  /// of the piece. The piece is the same wherever the matrix lies, and so is what is chosen.
  bool gives_same_bits(MatrixProduct p, std::byte* workspace, cudaStream_t stream) {
    const int64_t piece = piece_rows(p), half = std::min(piece, round_up(ceil_div(piece, 2), 64)), whole = most_rows;
    FLEXGEN_CHECK(p.n >= piece && whole > 0, "{} of {} rows, {} columns", p.n, p.y_stride, p.k);
    p.y_stride = checked_stride(p);
    std::byte* const scratch = workspace + kDeviceWorkspaceBytes - kCheckBytes;
    auto* different = reinterpret_cast<uint32_t*>(scratch);
    auto* sums = reinterpret_cast<unsigned long long*>(scratch + 256);  // of whole rows, then of their first half
    std::byte* const x = scratch + kCheckHead;
    p.y = reinterpret_cast<float*>(x + round_up(2 * whole * p.k, 256));
    fill_rows<<<512, kHashThreads, 0, stream>>>(reinterpret_cast<uint16_t*>(x), whole * p.k, element == CUDA_R_16BF);
    check_cuda(cudaMemsetAsync(different, 0, sizeof *different, stream), "checking an algorithm");
    auto hash = [&](int64_t first, int64_t cols, bool is_kept) {
      unsigned long long* const to = sums + first + (cols == piece ? 0 : kMostTriedRows);
      hash_rows<<<static_cast<unsigned>(p.num_rows), kHashThreads, 0, stream>>>(p.y, cols, p.y_stride, is_kept, to, different);
      check_cuda(cudaGetLastError(), "checking an algorithm");
    };
    auto computes = [&](int64_t first, int64_t rows, int64_t n) {
      check_cuda(cudaMemsetAsync(p.y, 0, static_cast<size_t>(4 * rows * p.y_stride), stream), "checking an algorithm");  // which products may add to
      p.x = x + 2 * first * p.k;
      p.num_rows = rows;
      p.n = n;
      return multiply(p, workspace, stream) == CUBLAS_STATUS_SUCCESS;
    };
    if (!computes(0, whole, piece)) return false;
    hash(0, piece, false);
    if (half < piece) hash(0, half, false);
    for (const int64_t rows : kPartRows) {
      if (rows >= whole) continue;
      const int64_t first = std::min<int64_t>(3 * rows, whole - rows);
      for (const int64_t n : {piece, half}) {
        if (!computes(first, rows, n)) return false;
        hash(first, n, true);
      }
    }
    uint32_t count = 0;
    check_cuda(cudaMemcpyAsync(&count, different, sizeof count, cudaMemcpyDeviceToHost, stream), "checking an algorithm");
    check_cuda(cudaStreamSynchronize(stream), "checking an algorithm");
    return count == 0;
  }

  Library& library;
  cudaDataType_t element;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

CublasProduct::CublasProduct(DType act) : act_(act), library_(std::make_unique<Library>()) {}
CublasProduct::~CublasProduct() { plans_.clear(); }

CublasProduct::Plan& CublasProduct::plan(const MatrixProduct& p, std::byte* workspace, cudaStream_t stream) {
  std::unique_ptr<Plan>& entry = plans_[{p.y_stride, p.k, p.bias != nullptr, p.accumulate}];
  if (!entry) entry = std::make_unique<Plan>(*library_, act_, p, workspace, stream);
  return *entry;
}

void CublasProduct::multiply(const MatrixProduct& p, std::byte* workspace, cudaStream_t stream) {
  Plan& how = plan(p, workspace, stream);
  FLEXGEN_CHECK(reinterpret_cast<uintptr_t>(p.y) % how.alignment == 0, "rows of {} at {}", p.n, static_cast<const void*>(p.y));
  if (p.bias != nullptr) how.set_bias(p.bias);
  for (int64_t first = 0; first < p.num_rows; first += how.most_rows) {
    MatrixProduct part = p;
    part.num_rows = std::min(how.most_rows, p.num_rows - first);
    part.x += 2 * first * p.k;
    part.y += first * p.y_stride;
    check(how.multiply(part, workspace, stream), fmt::format("a product of {} rows with a {} x {} matrix", part.num_rows, p.n, p.k));
  }
}

}  // namespace flexgen
