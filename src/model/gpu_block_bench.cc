// What starting kernels takes of a block's visit on a GPU: the time in which the compute lane's thread has enqueued one, against the time a visit takes when
// many follow one another. As long as the first is the smaller, the GPU waits for nobody. Needs a GPU. --benchmark_format=json for machines.

#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda_status.h"
#include "backend/device.h"
#include "backend/random_numbers.h"
#include "base/error.h"
#include "base/units.h"
#include "model/model.h"

namespace flexgen {
namespace {

constexpr int64_t kPast = 511, kPageTokens = 64, kVisits = 50;

/// A block of a shape with its weights, cache and rows on the GPU, random numbers of little size; every row is a sequence's next token.
class BlockOnGpu {
 public:
  BlockOnGpu(const std::string& shape, int64_t rows)
      : device_(make_cuda_device(0)), lane_(device_->make_compute_lane("compute", nullptr)), up_(device_->make_copy_lane("up", nullptr)),
        act_(device_->best_compute_dtype(DType::kBF16)), kernels_(device_->make_kernels(act_)),
        model_(Model::of_shape(parse_config(*shape_config_json(shape), "", shape), act_)), geometry_(model_->kv_geometry(act_, kPageTokens)) {
    for (const WeightUse& use : model_->layers()[1].uses) {
      const WeightSpec& spec = model_->weights()[static_cast<size_t>(use.weight)];
      views_.push_back({spec.dtype, use.rows, spec.cols, {{numbers(use.rows * spec.row_bytes()), use.rows}}});
    }
    const int64_t pages_each = ceil_div(kPast + 1, kPageTokens);
    std::byte* cache = numbers(rows * pages_each * geometry_.page_bytes());
    for (int64_t i = 0; i < rows * pages_each; ++i) pages_.push_back(cache + i * geometry_.page_bytes());
    for (int64_t row = 0; row < rows; ++row) slots_.push_back({row, 1, kPast, pages_.data() + row * pages_each, 0});
    positions_.assign(static_cast<size_t>(rows), static_cast<int32_t>(kPast));
    hidden_ = reinterpret_cast<float*>(numbers(4 * rows * model_->config().hidden_size));
    scratch_ = numbers(model_->scratch_bytes(rows, 1));
  }
  BlockOnGpu(const BlockOnGpu&) = delete;
  BlockOnGpu& operator=(const BlockOnGpu&) = delete;

  /// So many visits in a row; returns the seconds that enqueueing them took.
  double visits(int64_t count) {
    double enqueueing_s = 0;
    for (int64_t i = 0; i < count; ++i) {
      Work work;
      work.name = "block";
      work.run = [this, &enqueueing_s] {
        const auto start = std::chrono::steady_clock::now();
        VisitInput input;
        input.num_rows = std::ssize(positions_);
        input.positions = positions_;
        input.slots = slots_;
        model_->forward(1, views_, input, geometry_, hidden_, scratch_, *kernels_, nullptr);
        enqueueing_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      };
      lane_->submit(std::move(work));
    }
    lane_->drain();  // all of it is over, also where some failed
    return enqueueing_s;
  }

 private:
  /// Products of zeros take less power than a job's, and so less time.
  std::byte* numbers(int64_t bytes) {
    constexpr int64_t kPiece = 64 * kMiB;
    static const std::vector<std::byte> numbers = random_numbers(kPiece);
    std::byte* memory = device_->allocate(bytes);
    for (int64_t at = 0; at < bytes; at += kPiece) {
      Work copy;
      copy.name = "numbers";
      copy.copies = {{numbers.data(), memory + at, std::min(kPiece, bytes - at)}};
      up_->submit(std::move(copy)).wait();
    }
    return memory;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Lane> lane_, up_;
  DType act_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Model> model_;
  KvGeometry geometry_;
  std::vector<WeightView> views_;
  std::vector<std::byte*> pages_;
  std::vector<AttentionSlot> slots_;
  std::vector<int32_t> positions_;
  float* hidden_ = nullptr;
  std::byte* scratch_ = nullptr;
};

void bench_block(benchmark::State& state, const char* shape) {
  BlockOnGpu block(shape, state.range(0));
  block.visits(3);  // algorithms are chosen
  double enqueueing_s = 0;
  for (auto _ : state) enqueueing_s += block.visits(kVisits);
  const double visits = static_cast<double>(kVisits * state.iterations());
  state.counters["enqueueing us a visit"] = 1e6 * enqueueing_s / visits;
  state.counters["s a visit"] = benchmark::Counter(visits, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(bench_block, opt_125m, "opt-125m")->ArgName("rows")->Arg(64)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(bench_block, opt_1_3b, "opt-1.3b")->ArgName("rows")->Arg(64)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(bench_block, llama_3_1_8b, "llama-3.1-8b")->ArgName("rows")->Arg(64)->Arg(512)->UseRealTime();

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  if (const auto status = flexgen::cuda_status(); status.devices.empty()) {
    fmt::print(stderr, "gpu_block_bench needs a GPU: {}\n", status.problem);
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
