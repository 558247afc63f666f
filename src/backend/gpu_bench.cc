// The lanes and kernels of a GPU: copies against the measured peak of pinned copies, attention of generated tokens against the speed of the GPU's memory,
// matrix products. Needs a GPU. --benchmark_format=json for machines.

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/cuda_status.h"
#include "backend/device.h"
#include "backend/gpu_session.h"
#include "backend/random_numbers.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/group_quant.h"

namespace flexgen {
namespace {

/// Copies of `bytes` each, many under way, through a copy lane. Arguments: MiB a copy, 1: to the device, 0: back.
void bench_copy_lane(benchmark::State& state) {
  const int64_t bytes = state.range(0) * kMiB, count = std::max<int64_t>(4, 2 * kGiB / bytes);
  auto device = make_cuda_device(0);
  auto lane = device->make_copy_lane("copy", nullptr);
  std::vector<std::byte> ram(static_cast<size_t>(4 * bytes), std::byte{1});
  device->pin(ram);
  std::byte* there = device->allocate(4 * bytes);
  for (auto _ : state) {
    std::vector<Event> events;
    for (int64_t i = 0; i < count; ++i) {
      Work work;
      work.name = "copy";
      std::byte* host = ram.data() + i % 4 * bytes;
      std::byte* other = there + i % 4 * bytes;
      work.copies = {state.range(1) == 1 ? Copy{host, other, bytes} : Copy{other, host, bytes}};
      events.push_back(lane->submit(std::move(work)));
    }
    for (const Event& event : events) event.wait();
  }
  state.counters["GB/s"] = benchmark::Counter(1e-9 * static_cast<double>(count * bytes) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  lane.reset();
  device->deallocate(there);
  device->unpin(ram);
}

/// The speed of the GPU's memory, read and written: copies within it of far more than the caches hold.
void bench_memory(benchmark::State& state) {
  GpuSession gpu;
  const int64_t bytes = 512 * kMiB;
  std::byte *from = gpu.allocate(bytes), *to = gpu.allocate(bytes);
  for (auto _ : state) gpu.upload(from, to, bytes, 10);
  state.counters["GB/s"] = benchmark::Counter(10 * 2e-9 * static_cast<double>(bytes) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

/// How many heads of queries and of keys, and the bits of an element of the cache.
struct BenchHeads {
  int64_t queries = 0, keys = 0, bits = 16;
  DType cache_type(DType act) const { return bits == 4 ? DType::kInt4 : bits == 8 ? DType::kInt8 : act; }
};

/// A cache of so many slots and tokens each, heads of 128, pages of 64 tokens, all rows the same.
struct BenchCache {
  KvGeometry geometry;
  std::vector<std::byte*> pages;
  int64_t pages_each;

  BenchCache(GpuSession& gpu, int64_t slots, int64_t tokens, const BenchHeads& heads)
      : geometry{heads.cache_type(gpu.kernels().act_dtype()), heads.queries, heads.keys, 128, 64}, pages_each(ceil_div(tokens, int64_t{64})) {
    std::vector<std::byte> page(static_cast<size_t>(geometry.page_bytes()));
    std::vector<float> row(128);
    for (size_t i = 0; i < row.size(); ++i) row[i] = std::sin(static_cast<float>(i * i));
    for (int64_t at = 0; at < geometry.page_bytes(); at += row_bytes(geometry.dtype, 128)) store_row(row.data(), 128, geometry.dtype, page.data() + at);
    std::byte* cache = gpu.allocate(slots * pages_each * geometry.page_bytes());
    for (int64_t i = 0; i < slots * pages_each; ++i) {
      pages.push_back(cache + i * geometry.page_bytes());
      gpu.upload(page.data(), pages.back(), geometry.page_bytes());
    }
  }
};

/// Calls attention() for `rows` new tokens of each slot, 20 times a round.
void bench_attention(benchmark::State& state, GpuSession& gpu, const BenchCache& cache, int64_t slots, int64_t past, int64_t rows, int64_t dense_until,
                     double sparsity) {
  std::vector<AttentionSlot> views;
  for (int64_t s = 0; s < slots; ++s) views.push_back({s * rows, rows, past, cache.pages.data() + s * cache.pages_each, dense_until});
  const int64_t q_size = slots * rows * cache.geometry.query_heads * 128;
  std::vector<float> q(static_cast<size_t>(q_size), 0.01f);
  auto* q_there = reinterpret_cast<float*>(gpu.allocate(4 * q_size));
  gpu.upload(reinterpret_cast<const std::byte*>(q.data()), reinterpret_cast<std::byte*>(q_there), 4 * q_size);
  std::byte* out = gpu.allocate(2 * q_size);
  const AttentionRule rule{0.088f, 0, sparsity};
  for (auto _ : state)
    gpu.run([&] {
      for (int i = 0; i < 20; ++i) gpu.kernels().attention(q_there, views, cache.geometry, rule, out);
    });
}

/// Arguments: slots, context, query heads, kv heads, bits of the cache, percent of positions. The bytes are those of the cache.
void bench_decode_attention(benchmark::State& state) {
  GpuSession gpu;
  const int64_t slots = state.range(0), past = state.range(1);
  const BenchCache cache(gpu, slots, past + 1, {state.range(2), state.range(3), state.range(4)});
  bench_attention(state, gpu, cache, slots, past, 1, 0, static_cast<double>(state.range(5)) / 100);
  const double calls = 20 * static_cast<double>(state.iterations());
  const int64_t bytes = slots * (past + 1) * 2 * cache.geometry.kv_heads * row_bytes(cache.geometry.dtype, 128);
  state.counters["KV GB/s"] = benchmark::Counter(1e-9 * calls * static_cast<double>(bytes), benchmark::Counter::kIsRate);
  state.counters["tokens/s"] = benchmark::Counter(calls * static_cast<double>(slots), benchmark::Counter::kIsRate);
}

/// Arguments: prompts, tokens each, query heads, kv heads, bits of the cache. Operations are those of what a token sees.
void bench_prompt_attention(benchmark::State& state) {
  GpuSession gpu;
  const int64_t slots = state.range(0), tokens = state.range(1), query_heads = state.range(2);
  const BenchCache cache(gpu, slots, tokens, {query_heads, state.range(3), state.range(4)});
  bench_attention(state, gpu, cache, slots, 0, tokens, tokens, 1);
  const double calls = 20 * static_cast<double>(state.iterations());
  state.counters["TFLOP/s"] =
      benchmark::Counter(1e-12 * calls * static_cast<double>(slots * query_heads * 4 * 128 * tokens * (tokens + 1) / 2), benchmark::Counter::kIsRate);
}

/// Arguments: N, K, T, bits of the weight.
void bench_product(benchmark::State& state) {
  GpuSession gpu;
  const int64_t n = state.range(0), k = state.range(1), t = state.range(2);
  const DType type = state.range(3) == 4 ? DType::kInt4 : gpu.kernels().act_dtype();
  std::byte* w = gpu.allocate(n * row_bytes(type, k));
  std::byte* x = gpu.allocate(2 * t * k);
  auto* y = reinterpret_cast<float*>(gpu.allocate(4 * t * n));
  gpu.upload(random_numbers(n * row_bytes(type, k)).data(), w, n * row_bytes(type, k));
  gpu.upload(random_numbers(2 * t * k).data(), x, 2 * t * k);
  const WeightView weight{type, n, k, {{w, n}}};
  for (auto _ : state)
    gpu.run([&] {
      for (int i = 0; i < 20; ++i) gpu.kernels().linear(x, t, weight, {}, false, y);
    });
  state.counters["TFLOP/s"] =
      benchmark::Counter(20 * 2e-12 * static_cast<double>(n * k * t) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

BENCHMARK(bench_copy_lane)->ArgNames({"MiB", "up"})->Args({256, 1})->Args({256, 0})->Args({16, 1})->Args({16, 0})->Args({1, 1})->Args({1, 0})->UseRealTime();
BENCHMARK(bench_memory)->UseRealTime();
BENCHMARK(bench_decode_attention)
    ->ArgNames({"slots", "past", "A", "G", "bits", "percent"})
    ->Args({64, 2047, 32, 8, 16, 100})
    ->Args({64, 2047, 32, 8, 8, 100})
    ->Args({64, 2047, 32, 8, 4, 100})
    ->Args({64, 2047, 8, 8, 16, 100})
    ->Args({64, 2047, 8, 8, 4, 100})
    ->Args({64, 2047, 32, 32, 16, 100})
    ->Args({64, 2047, 32, 32, 4, 100})
    ->Args({64, 527, 32, 32, 16, 100})
    ->Args({64, 2047, 32, 8, 16, 10})
    ->UseRealTime();
BENCHMARK(bench_prompt_attention)
    ->ArgNames({"slots", "tokens", "A", "G", "bits"})
    ->Args({8, 512, 32, 8, 16})
    ->Args({2, 2048, 32, 8, 16})
    ->Args({2, 2048, 32, 32, 16})
    ->Args({2, 2048, 32, 8, 4})
    ->UseRealTime();
BENCHMARK(bench_product)
    ->ArgNames({"N", "K", "T", "bits"})
    ->Args({14336, 4096, 32, 16})
    ->Args({14336, 4096, 512, 16})
    ->Args({14336, 4096, 4096, 16})
    ->Args({4096, 14336, 512, 16})
    ->Args({14336, 4096, 512, 4})
    ->UseRealTime();

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  if (const auto status = flexgen::cuda_status(); status.devices.empty()) {
    fmt::print(stderr, "gpu_bench needs a GPU: {}\n", status.problem);
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
