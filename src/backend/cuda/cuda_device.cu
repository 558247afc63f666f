// Device on CUDA: memory, pinned RAM, lanes with a stream each.

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/copy_pieces.h"
#include "backend/cuda/cublas_product.h"
#include "backend/cuda/cuda_call.h"
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda_status.h"
#include "backend/device.h"
#include "backend/driver_signs.h"
#include "base/thread.h"
#include "base/units.h"

namespace flexgen {
namespace {

std::string version_name(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// The number of GPUs, or 0 and why.
int count_devices(std::string& problem) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();  // so that nobody finds it later
  DriverSigns signs = read_driver_signs();
  signs.built_for = CUDART_VERSION;
  if (cudaDriverGetVersion(&signs.driver_version) != cudaSuccess) signs.driver_version = 0;
  if (problem = why_no_gpu(signs, status == cudaSuccess || status == cudaErrorNoDevice); !problem.empty()) {
    problem = "GPU: " + problem;
    return 0;
  }
  try {
    check_cuda(status == cudaSuccess ? cudaErrorNoDevice : status, "looking for GPUs");
  } catch (const Error& error) {
    problem = error.what();
  }
  return 0;
}

/// A lane whose work is enqueued on a stream by the lane's thread and found to be over by another, so that the next piece is handed to the GPU meanwhile.
class StreamLane final : public QueueLane {
 public:
  /// enqueue(work, stream) enqueues the work on the stream.
  using Enqueue = void (*)(const Work&, cudaStream_t);
  StreamLane(std::string name, Trace* trace, int ordinal, cudaStream_t stream, Enqueue enqueue)
      : QueueLane(std::move(name), trace), ordinal_(ordinal), stream_(stream), enqueue_(enqueue) {
    finisher_ = start_thread("the lane '" + this->name() + "'", [this] { finish_loop(); });
    try {
      start();
    } catch (...) {
      end_finisher();
      throw;
    }
  }
  ~StreamLane() override {
    stop();
    end_finisher();
    for (cudaEvent_t event : idle_events_) cudaEventDestroy(event);
  }

 private:
  struct UnderWay {
    Work work;
    Event event;
    Clock::time_point start;
    cudaEvent_t over;
  };

  void perform(Work work, const Event& event) override {
    const Clock::time_point now = Clock::now();
    cudaEvent_t over = nullptr;
    try {
      check_cuda(cudaSetDevice(ordinal_), fmt::format("choosing GPU {}", ordinal_));
      over = take_event();
      enqueue_(work, stream_);
      check_cuda(cudaEventRecord(over, stream_), "recording an event");
    } catch (...) {
      std::exception_ptr error = std::current_exception();
      // What was enqueued before the failure still uses the buffers that whoever waits will take back.
      cudaStreamSynchronize(stream_);
      if (over != nullptr) give_back(over);
      work = Work();
      finish(event, error);
      return;
    }
    begin_busy(now);
    std::lock_guard lock(mutex_);
    under_way_.push_back({std::move(work), event, now, over});
    changed_.notify_all();
  }

  void end_finisher() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
      changed_.notify_all();
    }
    finisher_.join();
  }

  void finish_loop() {
    cudaSetDevice(ordinal_);
    while (true) {
      UnderWay item;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closing_ || !under_way_.empty(); });
        if (under_way_.empty()) return;
        item = std::move(under_way_.front());
        under_way_.pop_front();
      }
      std::exception_ptr error;
      try {
        check_cuda(cudaEventSynchronize(item.over), item.work.name[0] != 0 ? item.work.name : name().c_str());
      } catch (...) {
        error = std::current_exception();
      }
      const Clock::time_point now = Clock::now();
      give_back(item.over);
      end_busy(now);
      // Work queues up on the stream: it has been under way since the piece before it was over.
      account(item.work, std::max(item.start, last_end_), now);
      last_end_ = now;
      item.work = Work();  // what the work holds is free before anyone who waits goes on
      finish(item.event, error);
    }
  }

  cudaEvent_t take_event() {
    {
      std::lock_guard lock(mutex_);
      if (!idle_events_.empty()) {
        cudaEvent_t event = idle_events_.back();
        idle_events_.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "creating an event");
    return event;
  }
  void give_back(cudaEvent_t event) {
    std::lock_guard lock(mutex_);
    idle_events_.push_back(event);
  }

  int ordinal_;
  cudaStream_t stream_;
  Enqueue enqueue_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<UnderWay> under_way_;
  std::vector<cudaEvent_t> idle_events_;
  bool closing_ = false;
  Clock::time_point last_end_{};  ///< of the finisher
  std::thread finisher_;
};

/// For compute lanes: closures that call the device's kernels.
void call_closure(const Work& work, cudaStream_t) {
  if (work.run) work.run();
}

/// For copy lanes: between pinned RAM and device memory, or within that. In pieces, as a direction has one engine, which finishes what it has begun: small copies of
/// another lane wait for no more than a piece, a millisecond or so.
void enqueue_copies(const Work& work, cudaStream_t stream) {
  constexpr int64_t kPiece = 32 * kMiB;
  for (const Copy& copy : work.copies)
    for_each_piece(copy, [&](const Copy& locked) {
      for (int64_t done = 0; done < locked.bytes; done += kPiece)
        check_cuda(cudaMemcpyAsync(locked.to + done, locked.from + done, static_cast<size_t>(std::min(kPiece, locked.bytes - done)), cudaMemcpyDefault, stream),
                   "copying between RAM and the GPU");
    });
}

/// For kernels, cuBLASLt's among them, that are loaded when they are first called, the local memory of those that need more than others, and displays.
constexpr int64_t kMarginBytes = 512 * kMiB;

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal) : ordinal_(ordinal) {
    check_cuda(cudaGetDeviceProperties(&properties_, ordinal_), "asking for the GPU's properties");
    // Waiting threads sleep: the processor has work of its own.
    check_cuda(cudaInitDevice(ordinal_, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid), fmt::format("starting GPU {}", ordinal_));
    choose();
    if (capability() < 75)
      throw Error(ErrorKind::kUser,
                  fmt::format("{} has compute capability {}.{}; the cuda backend needs 7.5 (Turing) or later", name(), properties_.major, properties_.minor));
    compute_stream_ = make_stream();
  }
  ~CudaDevice() override {
    cudaSetDevice(ordinal_);
    for (std::byte* memory : allocated_) cudaFree(memory);
    for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  }

  std::string name() const override { return properties_.name; }
  int64_t total_bytes() const override { return static_cast<int64_t>(memory_info().second); }
  int64_t free_bytes() const override { return static_cast<int64_t>(memory_info().first); }
  int64_t kernel_bytes() const override { return cuda_kernel_bytes(); }
  int64_t margin_bytes() const override { return kMarginBytes; }

  std::byte* allocate(int64_t bytes) override {
    choose();
    std::byte* memory = nullptr;
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&memory), static_cast<size_t>(std::max<int64_t>(bytes, 1))),
               fmt::format("allocating {} of GPU memory ({} of {} are free)", format_bytes(bytes), format_bytes(free_bytes()), format_bytes(total_bytes())));
    allocated_.push_back(memory);
    return memory;
  }
  void deallocate(std::byte* memory) noexcept override {
    FLEXGEN_CHECK(std::erase(allocated_, memory) == 1);
    try_cuda(cudaSetDevice(ordinal_));
    try_cuda(cudaFree(memory));
  }
  void pin(std::span<std::byte> ram) override {
    choose();
    int64_t done = 0;
    try {
      for_each_piece(Copy{ram.data(), ram.data(), std::ssize(ram)}, [&](const Copy& piece) {
        check_cuda(cudaHostRegister(piece.to, static_cast<size_t>(piece.bytes), cudaHostRegisterPortable),
                   fmt::format("locking {} of RAM for fast copies, after {} (see ulimit -l)", format_bytes(std::ssize(ram)), format_bytes(done)));
        done += piece.bytes;
      });
    } catch (...) {
      unpin(ram.first(static_cast<size_t>(done)));
      throw;
    }
  }
  void unpin(std::span<std::byte> ram) noexcept override {
    try_cuda(cudaSetDevice(ordinal_));
    for_each_piece(Copy{ram.data(), ram.data(), std::ssize(ram)}, [&](const Copy& piece) { try_cuda(cudaHostUnregister(piece.to)); });
  }

  std::unique_ptr<Lane> make_compute_lane(std::string lane_name, Trace* trace) override {
    return std::make_unique<StreamLane>(std::move(lane_name), trace, ordinal_, compute_stream_, call_closure);
  }
  std::unique_ptr<Lane> make_copy_lane(std::string lane_name, Trace* trace) override {
    choose();
    // A stream of its own: lanes that shared one would wait for each other, whatever their directions.
    return std::make_unique<StreamLane>(std::move(lane_name), trace, ordinal_, make_stream(), enqueue_copies);
  }
  std::unique_ptr<Kernels> make_kernels(DType compute_dtype) override {
    if (compute_dtype == DType::kF32)
      throw Error(ErrorKind::kUser, "the cuda backend computes in bf16 or fp16 with fp32 sums: leave --compute-dtype f32 out, or use --backend cpu");
    if (compute_dtype == DType::kBF16 && capability() < kBf16Capability)
      throw Error(
          ErrorKind::kUser,
          fmt::format("{} does not multiply bf16 (that takes compute capability 8.0): leave --compute-dtype bf16 out, and it computes in fp16", name()));
    return make_cuda_kernels(ordinal_, compute_dtype, compute_stream_);
  }
  DType best_compute_dtype(DType weights) const override { return capability() < kBf16Capability || weights == DType::kF16 ? DType::kF16 : DType::kBF16; }
  /// The library chooses algorithms by the GPU, and each version of it in its own way.
  std::string arithmetic() const override { return fmt::format("{}, cuBLASLt {}, version {}", name(), find_cublas().version, kArithmeticVersion); }

 private:
  cudaStream_t make_stream() {
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    streams_.push_back(stream);
    return stream;
  }
  void choose() const { check_cuda(cudaSetDevice(ordinal_), fmt::format("choosing GPU {}", ordinal_)); }
  int capability() const { return 10 * properties_.major + properties_.minor; }
  std::pair<size_t, size_t> memory_info() const {
    choose();
    std::pair<size_t, size_t> free_and_total;
    check_cuda(cudaMemGetInfo(&free_and_total.first, &free_and_total.second), "asking how much GPU memory is free");
    return free_and_total;
  }

  int ordinal_;
  cudaDeviceProp properties_{};
  std::vector<cudaStream_t> streams_;  ///< of all lanes
  cudaStream_t compute_stream_ = nullptr;
  std::vector<std::byte*> allocated_;
};

}  // namespace

CudaStatus cuda_status() {
  CudaStatus status;
  status.toolkit = version_name(CUDART_VERSION);
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) status.driver = version_name(driver);
  status.cublas = find_cublas().name;
  const int count = count_devices(status.problem);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    status.devices.push_back(fmt::format("{}, compute capability {}.{}, {}", properties.name, properties.major, properties.minor,
                                         format_bytes(static_cast<int64_t>(properties.totalGlobalMem))));
    status.capabilities.push_back(10 * properties.major + properties.minor);
  }
  return status;
}

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  std::string problem;
  const int count = count_devices(problem);
  if (count == 0) fail_user("{}", problem);
  if (ordinal < 0 || ordinal >= count) fail_user("there is no GPU number {}: this machine shows {}", ordinal, count);
  return std::make_unique<CudaDevice>(ordinal);
}

}  // namespace flexgen
