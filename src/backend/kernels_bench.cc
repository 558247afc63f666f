// The cpu backend at the shapes of an 8B model: products against plain oneDNN, attention against
// the speed at which this machine reads memory. Arguments: threads are all cores.
// --benchmark_format=json for machines.

#include <benchmark/benchmark.h>
#include <omp.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include "backend/cpu/amx_peak_inl.h"
#include "backend/cpu/amx_product.h"
#endif
#include "backend/cpu/memory_read.h"
#include "backend/kernels.h"
#include "base/cores.h"
#include "base/units.h"
#include "tensor/code_format.h"
#include "tensor/group_quant.h"

namespace flexgen {
namespace {

DType compute_dtype() { return cpu_has_bf16() ? DType::kBF16 : DType::kF32; }

/// Small numbers of both signs that are cheap to make: patterns of bf16 or f32 between 2^-8 and 1.
std::vector<std::byte> random_elements(DType dtype, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(size_bytes(dtype, count)));
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    auto upper = static_cast<uint16_t>(0x3b80u + (state >> 23) + ((state & 0x400u) << 5));
    if (dtype == DType::kBF16) {
      std::memcpy(bytes.data() + 2 * i, &upper, 2);
    } else {
      uint32_t bits = static_cast<uint32_t>(upper) << 16;
      std::memcpy(bytes.data() + 4 * i, &bits, 4);
    }
  }
  return bytes;
}

/// Memory as the engine's arena has it: in huge pages where the system gives them, as small ones cost decode attention a third of its time.
class ArenaBytes {
 public:
  explicit ArenaBytes(int64_t size_bytes) : size_bytes_(round_up(size_bytes, int64_t{2} * 1024 * 1024)) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(2 * 1024 * 1024, static_cast<size_t>(size_bytes_)));
    if (data_ == nullptr) std::abort();
    madvise(data_, static_cast<size_t>(size_bytes_), MADV_HUGEPAGE);
    std::memset(data_, 0, static_cast<size_t>(size_bytes_));
  }
  ArenaBytes(const ArenaBytes&) = delete;
  ~ArenaBytes() { std::free(data_); }
  std::byte* data() const { return data_; }

 private:
  int64_t size_bytes_;
  std::byte* data_;
};

void count_flops(benchmark::State& state, int64_t t, int64_t n, int64_t k) {
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(t * n * k * state.iterations()), benchmark::Counter::kIsRate);
}

/// Copies of a weight of so many bytes that together are too large for any cache: 1 GiB of them, and 64 at most.
int64_t copies_in_memory(int64_t bytes) { return std::clamp<int64_t>(kGiB / bytes, 1, 64); }

/// Arguments: N, K, T; W in the compute dtype, read from RAM.
void bench_linear(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1), t = state.range(2);
  auto kernels = make_cpu_kernels({0, compute_dtype()});
  const std::vector<std::byte> x = random_elements(compute_dtype(), t * k), w = random_elements(compute_dtype(), n * k);
  const int64_t bytes = std::ssize(w), copies = copies_in_memory(bytes);
  const ArenaBytes weights(copies * bytes);
  for (int64_t copy = 0; copy < copies; ++copy) std::memcpy(weights.data() + copy * bytes, w.data(), w.size());
  std::vector<float> y(static_cast<size_t>(t * n));
  int64_t call = 0;
  auto run = [&] { kernels->linear(x.data(), t, {compute_dtype(), n, k, {{weights.data() + call++ % copies * bytes, n}}}, {}, false, y.data()); };
  run();
  for (auto _ : state) run();
  count_flops(state, t, n, k);
  state.counters["W GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(bytes * state.iterations()), benchmark::Counter::kIsRate);
}

/// Arguments: N, K, T, bits of W, whether in integers. W is read from RAM.
void bench_quantized_linear(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1), t = state.range(2);
  const DType dtype = state.range(3) == 4 ? DType::kInt4 : DType::kInt8;
  auto kernels = make_cpu_kernels({0, compute_dtype(), state.range(4) == 1});
  const int64_t bytes = n * row_bytes(dtype, k), copies = copies_in_memory(bytes);
  const ArenaBytes weights(copies * bytes);
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < k; ++c) row[static_cast<size_t>(c)] = static_cast<float>((r * 131 + c * 37) % 255 - 127) / 127;
    store_row(row.data(), k, dtype, weights.data() + r * row_bytes(dtype, k));
  }
  for (int64_t copy = 1; copy < copies; ++copy) std::memcpy(weights.data() + copy * bytes, weights.data(), static_cast<size_t>(bytes));
  std::vector<std::byte> x = random_elements(compute_dtype(), t * k);
  std::vector<float> y(static_cast<size_t>(t * n));
  int64_t call = 0;
  for (auto _ : state) {
    const WeightView weight{dtype, n, k, {{weights.data() + call++ % copies * bytes, n}}};
    kernels->linear(x.data(), t, weight, {}, false, y.data());
  }
  count_flops(state, t, n, k);
  state.counters["W GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(bytes * state.iterations()), benchmark::Counter::kIsRate);
}

/// Arguments: N, K, T, the number of a DType, whether it is FP4 with MXFP4's scales, whether products are in integers: weights as they are shipped quantized, from RAM as above.
void bench_shipped_linear(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1), t = state.range(2);
  const auto dtype = static_cast<DType>(state.range(3));
  const bool is_mxfp4 = state.range(4) == 1;
  state.SetLabel(is_mxfp4 ? "mxfp4" : std::string(dtype_name(dtype)));
  auto kernels = make_cpu_kernels({0, compute_dtype(), state.range(5) == 1});
  const CodeFormat format = is_mxfp4 ? mxfp4_format(k) : is_scaled(dtype) ? usual_format(dtype, n, k) : CodeFormat{};
  const int64_t bytes = n * row_bytes(dtype, k), copies = std::min<int64_t>(64, kGiB / bytes);
  const ArenaBytes codes(copies * bytes);
  std::memset(codes.data(), 0x35, static_cast<size_t>(copies * bytes));
  std::vector<std::vector<std::byte>> beside;
  WeightView weight{dtype, n, k, {{nullptr, n}}, &format};
  for (size_t part = 0; is_scaled(dtype) && part < kNumCodeParts; ++part)
    if (const int64_t size = beside_bytes(format, dtype, static_cast<CodePart>(part), n, k); size > 0)
      weight.pieces.front().beside[part] = beside.emplace_back(static_cast<size_t>(size), std::byte{0x3c}).data();
  std::vector<std::byte> x = random_elements(compute_dtype(), t * k);
  std::vector<float> y(static_cast<size_t>(t * n));
  int64_t call = 0;
  for (auto _ : state) {
    weight.pieces.front().data = codes.data() + call++ % copies * bytes;
    kernels->linear(x.data(), t, weight, {}, false, y.data());
  }
  count_flops(state, t, n, k);
  state.counters["W GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(bytes * state.iterations()), benchmark::Counter::kIsRate);
}

/// The same product in one call of oneDNN with all threads.
void bench_plain_onednn(benchmark::State& state) {
  using dnnl::memory;
  const int64_t n = state.range(0), k = state.range(1), t = state.range(2);
  const auto type = compute_dtype() == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
  std::vector<std::byte> x = random_elements(compute_dtype(), t * k), w = random_elements(compute_dtype(), n * k);
  std::vector<float> y(static_cast<size_t>(t * n));
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  memory::desc x_desc({t, k}, type, memory::format_tag::ab), w_desc({k, n}, type, memory::format_tag::ba);
  memory::desc y_desc({t, n}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::matmul matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(x_desc, w_desc, y_desc), engine));
  memory x_memory(x_desc, engine, x.data()), w_memory(w_desc, engine, w.data()), y_memory(y_desc, engine, y.data());
  auto run = [&] {
    matmul.execute(stream, {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, w_memory}, {DNNL_ARG_DST, y_memory}});
    stream.wait();
  };
  omp_set_num_threads(usable_cores());  // one, where a kernel of ours has run before
  run();
  for (auto _ : state) run();
  omp_set_num_threads(1);
  count_flops(state, t, n, k);
}

/// Arguments: slots, context before the new rows, new rows a slot, query heads, bits of the cache, percent of positions whose values are used; 8 kv heads of 128.
void bench_attention(benchmark::State& state) {
  const int64_t slots = state.range(0), past = state.range(1), rows = state.range(2);
  const DType dtype = state.range(4) == 4 ? DType::kInt4 : state.range(4) == 8 ? DType::kInt8 : DType::kBF16;
  const KvGeometry geometry{dtype, state.range(3), 8, 128, 64};
  auto kernels = make_cpu_kernels({0, compute_dtype()});
  const int64_t pages_per_slot = ceil_div(past + rows, geometry.page_tokens);
  const int64_t cache_bytes = slots * pages_per_slot * geometry.page_bytes();
  const ArenaBytes cache(cache_bytes);
  std::vector<float> row(128);
  for (size_t i = 0; i < row.size(); ++i) row[i] = std::sin(static_cast<float>(i * i));
  const int64_t stride = row_bytes(dtype, 128);
  for (int64_t at = 0; at < geometry.page_bytes(); at += stride) store_row(row.data(), 128, dtype, cache.data() + at);
  for (int64_t page = 1; page < slots * pages_per_slot; ++page) std::copy_n(cache.data(), geometry.page_bytes(), cache.data() + page * geometry.page_bytes());
  std::vector<std::byte*> pages;
  for (int64_t p = 0; p < slots * pages_per_slot; ++p) pages.push_back(cache.data() + p * geometry.page_bytes());
  std::vector<AttentionSlot> views;
  for (int64_t s = 0; s < slots; ++s) views.push_back({s * rows, rows, past, pages.data() + s * pages_per_slot, 0});
  const int64_t q_size = slots * rows * geometry.query_heads * geometry.head_size;
  std::vector<float> q(static_cast<size_t>(q_size), 0.01f);
  std::vector<std::byte> out(static_cast<size_t>(size_bytes(kernels->act_dtype(), q_size)));
  for (auto _ : state) kernels->attention(q.data(), views, geometry, {0.088f, 0, static_cast<double>(state.range(5)) / 100}, out.data());
  const auto calls = static_cast<double>(state.iterations());
  const auto pairs = static_cast<double>(slots * geometry.query_heads) * (static_cast<double>(rows * past) + static_cast<double>(rows * (rows + 1)) / 2);
  state.counters["KV GB/s"] = benchmark::Counter(1e-9 * calls * static_cast<double>(cache_bytes), benchmark::Counter::kIsRate);
  state.counters["tokens/s"] = benchmark::Counter(calls * static_cast<double>(slots * rows), benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(1e-9 * calls * pairs * 4 * 128, benchmark::Counter::kIsRate);
}

/// Arguments: slots, context that all of them have in common, query heads, bits of the cache; a page and a row of its own each, 8 kv heads of 128. Beside it what
/// products reach (bench_linear) and what the RAM gives (bench_memory_read).
void bench_shared_attention(benchmark::State& state) {
  const int64_t slots = state.range(0), shared = state.range(1);
  const DType dtype = state.range(3) == 4 ? DType::kInt4 : state.range(3) == 8 ? DType::kInt8 : DType::kBF16;
  const KvGeometry geometry{dtype, state.range(2), 8, 128, 64};
  auto kernels = make_cpu_kernels({0, compute_dtype()});
  const int64_t shared_pages = shared / geometry.page_tokens, stride = row_bytes(dtype, 128);
  const ArenaBytes cache((shared_pages + slots) * geometry.page_bytes());
  std::vector<float> row(128);
  for (size_t i = 0; i < row.size(); ++i) row[i] = std::sin(static_cast<float>(i * i));
  for (int64_t at = 0; at < (shared_pages + slots) * geometry.page_bytes(); at += stride) store_row(row.data(), 128, dtype, cache.data() + at);
  std::vector<std::vector<std::byte*>> pages(static_cast<size_t>(slots));
  std::vector<AttentionSlot> views;
  for (int64_t s = 0; s < slots; ++s) {
    auto& own = pages[static_cast<size_t>(s)];
    for (int64_t page = 0; page < shared_pages; ++page) own.push_back(cache.data() + page * geometry.page_bytes());
    own.push_back(cache.data() + (shared_pages + s) * geometry.page_bytes());
    views.push_back({s, 1, shared + 16, own.data(), 0, s > 0 ? shared_pages * geometry.page_tokens : 0});
  }
  const int64_t q_size = slots * geometry.query_heads * geometry.head_size;
  std::vector<float> q(static_cast<size_t>(q_size), 0.01f);
  std::vector<std::byte> out(static_cast<size_t>(size_bytes(kernels->act_dtype(), q_size)));
  for (auto _ : state) kernels->attention(q.data(), views, geometry, {0.088f, 0, 1}, out.data());
  const auto calls = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(calls * static_cast<double>(slots), benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(1e-9 * calls * static_cast<double>(slots * geometry.query_heads * (shared + 17)) * 4 * 128, benchmark::Counter::kIsRate);
}

/// Arguments: bits, 1 for the searched range (GroupRange::kMse); rows of 4096 bf16. What preparing weights can hope for, beside the disk.
void bench_quantize(benchmark::State& state) {
  constexpr int64_t kRows = 256, kCols = 4096;
  const DType dtype = state.range(0) == 4 ? DType::kInt4 : DType::kInt8;
  const GroupRange range = state.range(1) != 0 ? GroupRange::kMse : GroupRange::kMinMax;
  auto kernels = make_cpu_kernels({0, compute_dtype()});
  const std::vector<std::byte> rows = random_elements(DType::kBF16, kRows * kCols);
  std::vector<std::byte> out(static_cast<size_t>(kRows * row_bytes(dtype, kCols)));
  for (auto _ : state)
    if (!kernels->convert_rows(rows.data(), DType::kBF16, kRows, kCols, dtype, range, out.data())) std::abort();
  state.counters["GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(rows.size()) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

/// Choosing tokens of 32 rows of 128256 logits. Argument: 1 for drawn ones.
void bench_largest(benchmark::State& state) {
  constexpr int64_t kRows = 32, kVocab = 128256;
  auto kernels = make_cpu_kernels({1, compute_dtype()});
  std::vector<float> logits(static_cast<size_t>(kRows * kVocab));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 10007) / 1000;
  const std::vector<Draw> draws(kRows, {1.0f, {1, 2}});
  std::vector<Largest> found(kRows);
  for (auto _ : state) {
    kernels->largest(logits.data(), kRows, kVocab, state.range(0) != 0 ? std::span<const Draw>(draws) : std::span<const Draw>(), 0, found.data());
    benchmark::DoNotOptimize(found.data());
  }
  state.counters["ns a logit"] = benchmark::Counter(1e-9 * static_cast<double>(kRows * kVocab) * static_cast<double>(state.iterations()),
                                                    benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// Every core sums its share of 1 GiB: what decode attention can hope for.
void bench_memory_read(benchmark::State& state) {
  const ArenaBytes memory(kGiB);
  WorkerTeam team(usable_cores());
  for (auto _ : state) benchmark::DoNotOptimize(sum_of_words(team, memory.data(), kGiB));
  state.counters["GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(kGiB) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

#if defined(__x86_64__) && defined(__linux__)
/// Argument: whether operands are loaded from the nearest cache. Every core multiplies: what products of bf16 by AMX can hope for. Where a core's other hardware thread is busy, loads and products
/// take turns, and this is a quarter of what it is on a quiet machine.
void bench_tile_products(benchmark::State& state) {
  if (!amx_product::is_supported()) return state.SkipWithError("needs AMX");
  constexpr int64_t kRepeats = 4096;
  WorkerTeam team(usable_cores());
  const ArenaBytes memory(team.size() * amx_product::kPeakBytes);
  for (auto _ : state)
    team.run(team.size(), team.size(),
             [&](int64_t unit, int) { amx_product::repeat_products(memory.data() + unit * amx_product::kPeakBytes, kRepeats, state.range(0) == 1); });
  const double flops = amx_product::kFlopsOfStep * static_cast<double>(kRepeats * amx_product::kPeakSteps * team.size());
  state.counters["GFLOP/s"] = benchmark::Counter(1e-9 * flops * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(bench_tile_products)->ArgName("loads")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
#endif

void linear_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"N", "K", "T"})->Unit(benchmark::kMillisecond)->UseRealTime();
  // Of an 8B model, of SmolLM2-135M, of qwen3-0.6b, and a small one.
  for (auto [n, k] : {std::pair{4096, 4096}, {14336, 4096}, {4096, 14336}, {576, 576}, {1536, 576}, {576, 1536}, {3072, 1024}, {1024, 3072}, {128, 128}})
    for (int64_t t : {1, 2, 4, 8, 16, 24, 32, 64, 128, 200, 256, 512, 1024}) bench->Args({n, k, t});
}
BENCHMARK(bench_linear)->Apply(linear_shapes);
BENCHMARK(bench_plain_onednn)->Apply(linear_shapes);
void quantized_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"N", "K", "T", "bits", "integers"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int64_t bits : {4, 8})
    for (int64_t integers : {0, 1})
      for (int64_t t : {1, 4, 16, 32, 64, 256, 1024}) bench->Args({4096, 4096, t, bits, integers});
}
BENCHMARK(bench_quantized_linear)->Apply(quantized_shapes);
void shipped_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"N", "K", "T", "dtype", "mxfp4", "integers"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int dtype = static_cast<int>(DType::kFp8); dtype <= static_cast<int>(kLastDType); ++dtype)
    for (int64_t t : {1, 64, 256}) bench->Args({4096, 4096, t, dtype, 0, 0});
  for (const DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4})
    for (int64_t t : {1, 64, 256}) bench->Args({4096, 4096, t, static_cast<int>(dtype), 0, 0});
  for (int64_t integers : {0, 1})
    for (int64_t t : {1, 8, 16, 32, 64, 128, 256, 500, 512}) bench->Args({2880, 2880, t, static_cast<int>(DType::kFp4), 1, integers});
}
BENCHMARK(bench_shipped_linear)->Apply(shipped_shapes);
BENCHMARK(bench_quantize)->ArgNames({"bits", "mse"})->Args({4, 0})->Args({4, 1})->Args({8, 0})->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_largest)->ArgName("drawn")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_memory_read)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_attention)
    ->ArgNames({"slots", "past", "rows", "A", "bits", "percent"})
    ->Args({64, 2047, 1, 32, 16, 100})  // generation, 4 query heads a kv head
    ->Args({64, 2047, 1, 32, 8, 100})
    ->Args({64, 2047, 1, 32, 4, 100})
    ->Args({64, 2047, 1, 8, 16, 100})  // generation, no sharing
    ->Args({64, 2047, 1, 8, 4, 100})
    ->Args({64, 2047, 1, 32, 16, 10})  // sparse
    ->Args({64, 2047, 1, 32, 4, 10})
    ->Args({1, 127, 1, 32, 16, 100})
    ->Args({1, 1023, 1, 32, 16, 100})
    ->Args({1, 1023, 1, 32, 4, 100})
    ->Args({1, 127, 1, 8, 16, 100})
    ->Args({1, 0, 2048, 32, 16, 100})   // a prompt at once
    ->Args({4, 512, 256, 32, 16, 100})  // chunks of prompts
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(bench_shared_attention)
    ->ArgNames({"slots", "shared", "A", "bits"})
    ->Args({1, 2048, 32, 16})
    ->Args({64, 2048, 32, 16})
    ->Args({64, 2048, 8, 16})
    ->Args({64, 2048, 32, 8})
    ->Args({64, 2048, 32, 4})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace flexgen

BENCHMARK_MAIN();
