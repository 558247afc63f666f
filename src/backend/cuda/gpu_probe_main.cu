// What a machine's GPU gives, apart from flexgen's own lanes and kernels: copies, how a small copy fares beside a large one in the same direction, what launches and waits
// take. Says it in lines of text; ends with status 1 where there is no GPU or a call fails. `tools/gpu_check probe` runs it.

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBig = size_t{1} << 30;
constexpr size_t kSmall = 65536;

struct Failed : std::exception {};

#define CHECK(call)                                                                          \
  do {                                                                                       \
    if (const cudaError_t status = (call); status != cudaSuccess) {                          \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status)); \
      throw Failed();                                                                        \
    }                                                                                        \
  } while (0)

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Seconds that what `body` enqueues takes: the median of some rounds, after one that does not count.
double timed(int rounds, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (int round = -1; round < rounds; ++round) {
    const auto start = Clock::now();
    body();
    CHECK(cudaDeviceSynchronize());
    if (round >= 0) seconds.push_back(since(start));
  }
  return median(seconds);
}

__global__ void add_one(float* x) {
  if (threadIdx.x == 0) x[blockIdx.x] += 1;
}

/// Reads locked RAM itself: no copy engine.
__global__ void fetch(const uint4* from, uint4* to, int count) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) to[i] = from[i];
}

enum class Upload { kNone, kCopyEngine, kKernel };

/// The device, 2 GiB of locked RAM, two blocks of 2 GiB on the device, two streams. The process ends with it: nothing is freed.
class Probe {
 public:
  Probe() {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    auto start = Clock::now();
    CHECK(cudaInitDevice(0, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid));
    CHECK(cudaSetDevice(0));
    size_t free_bytes = 0, total = 0;
    CHECK(cudaMemGetInfo(&free_bytes, &total));
    std::printf("%s, %d SMs, L2 %.0f MB, async engines %d; context %.2f s, takes %.0f MiB of %.0f MiB\n", properties.name, properties.multiProcessorCount,
                properties.l2CacheSize / 1e6, properties.asyncEngineCount, since(start), static_cast<double>(total - free_bytes) / 1048576.0,
                static_cast<double>(total) / 1048576.0);
    lock_ram();
    CHECK(cudaMalloc(&device_, 2 * kBig));
    CHECK(cudaMalloc(&other_, 2 * kBig));
    CHECK(cudaStreamCreateWithFlags(&compute_, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&weights_, cudaStreamNonBlocking));
    // The first launch of a kernel loads it.
    launch();
    fetch<<<1, 32, 0, compute_>>>(reinterpret_cast<uint4*>(host_), reinterpret_cast<uint4*>(other_), 1);
    CHECK(cudaDeviceSynchronize());
  }

  void copies() {
    const double up = timed(5, [&] { copy(device_, host_, kBig, compute_); });
    const double down = timed(5, [&] { copy(host_, device_, kBig, compute_); });
    const double both = timed(5, [&] {
      copy(device_, host_, kBig, compute_);
      copy(host_ + kBig, other_, kBig, weights_);
    });
    const double within = timed(5, [&] { copy(other_, device_, 2 * kBig, compute_); });
    std::printf("h2d %.1f GB/s, d2h %.1f GB/s, both at once %.1f GB/s each; d2d %.0f GB/s (read + written)\n", kBig / up / 1e9, kBig / down / 1e9,
                kBig / both / 1e9, 4.0 * kBig / within / 1e9);
    for (const size_t piece : {size_t{64} << 10, size_t{256} << 10, size_t{1} << 20, size_t{8} << 20}) {
      const size_t count = (size_t{256} << 20) / piece;
      double enqueue = 0;
      const double seconds = timed(3, [&] {
        const auto start = Clock::now();
        for (size_t i = 0; i < count; ++i) copy(device_ + i * piece, host_ + i * piece, piece, compute_);
        enqueue = since(start);
      });
      std::printf("h2d in pieces of %5zu KiB: %.1f GB/s, %.2f us a call to enqueue\n", piece >> 10, 268435456.0 / seconds / 1e9,
                  1e6 * enqueue / static_cast<double>(count));
    }
  }

  void launches() {
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
    std::vector<double> waits;
    for (int i = 0; i < 200; ++i) {
      const auto start = Clock::now();
      launch();
      CHECK(cudaEventRecord(event, compute_));
      CHECK(cudaEventSynchronize(event));
      waits.push_back(since(start));
    }
    std::printf("kernel, event, blocking wait: %.1f us\n", 1e6 * median(waits));
    for (const Upload upload : {Upload::kNone, Upload::kCopyEngine, Upload::kKernel}) {
      double enqueue = 0;
      const double seconds = timed(3, [&] {
        const auto start = Clock::now();
        for (int i = 0; i < 200; ++i) {
          small_upload(upload, host_);
          launch();
        }
        enqueue = since(start);
      });
      std::printf("  %s: %.2f us each on the GPU, %.2f us to enqueue\n",
                  upload == Upload::kNone         ? "kernel alone"
                  : upload == Upload::kCopyEngine ? "64 KiB by cudaMemcpyAsync, kernel"
                                                  : "64 KiB by a kernel, kernel",
                  1e6 * seconds / 200, 1e6 * enqueue / 200);
    }
  }

  /// The compute stream's small upload while a weight goes up in another stream.
  void small_beside_large(Upload upload, size_t pieces) {
    double small = 0, large = 0;
    for (int round = 0; round < 3; ++round) {
      CHECK(cudaDeviceSynchronize());
      const auto start = Clock::now();
      for (size_t i = 0; i < pieces; ++i) copy(device_ + i * (kBig / pieces), host_ + i * (kBig / pieces), kBig / pieces, weights_);
      while (since(start) < 0.002) {
      }
      const auto begin = Clock::now();
      small_upload(upload, host_ + kBig);
      launch();
      CHECK(cudaStreamSynchronize(compute_));
      small = since(begin);
      CHECK(cudaStreamSynchronize(weights_));
      large = since(start);
    }
    std::printf("64 KiB %s beside 1 GiB in %2zu copies of another stream: done after %.3f ms (the large one takes %.1f ms)\n",
                upload == Upload::kCopyEngine ? "by cudaMemcpyAsync" : "by a kernel       ", pieces, 1e3 * small, 1e3 * large);
  }

 private:
  void lock_ram() {
    auto start = Clock::now();
    void* ram = mmap(nullptr, 2 * kBig, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED) {
      std::printf("no 2 GiB of RAM\n");
      throw Failed();
    }
    madvise(ram, 2 * kBig, MADV_HUGEPAGE);
    madvise(ram, 2 * kBig, 23 /* MADV_POPULATE_WRITE */);
    std::printf("2 GiB: populated in %.2f s", since(start));
    start = Clock::now();
    CHECK(cudaHostRegister(ram, 2 * kBig, cudaHostRegisterPortable));
    std::printf(", registered in %.3f s\n", since(start));
    host_ = static_cast<char*>(ram);
  }
  void copy(char* to, const char* from, size_t bytes, cudaStream_t stream) { CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream)); }
  void launch() { add_one<<<1, 32, 0, compute_>>>(reinterpret_cast<float*>(other_)); }
  void small_upload(Upload how, const char* from) {
    char* to = other_ + (size_t{1} << 22);
    if (how == Upload::kCopyEngine) copy(to, from, kSmall, compute_);
    if (how == Upload::kKernel)
      fetch<<<4, 256, 0, compute_>>>(reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), static_cast<int>(kSmall / sizeof(uint4)));
  }

  char *host_ = nullptr, *device_ = nullptr, *other_ = nullptr;
  cudaStream_t compute_{}, weights_{};
};

}  // namespace

int main() {
  try {
    Probe probe;
    probe.copies();
    probe.launches();
    for (const Upload upload : {Upload::kCopyEngine, Upload::kKernel})
      for (const size_t pieces : {1, 64}) probe.small_beside_large(upload, pieces);
    return 0;
  } catch (const Failed&) {
    return 1;
  }
}
