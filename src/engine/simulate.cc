#include "engine/simulate.h"

#include <algorithm>
#include <optional>

#include "backend/simulated/simulated_lane.h"
#include "base/error.h"
#include "plan/memory_plan.h"
#include "schedule/exchange.h"

namespace flexgen {
namespace {

/// A file of which nothing is ever read: the simulated lanes move no bytes.
class NoFile : public File {
 public:
  explicit NoFile(std::string path) : path_(std::move(path)) {}
  const std::string& path() const override { return path_; }
  int64_t size() const override { return 0; }
  void read(int64_t, std::span<std::byte>) override { fail_io("{}: a simulation reads no files", path_); }
  void write(int64_t, std::span<const std::byte>) override { fail_io("{}: a simulation writes no files", path_); }
  void preallocate(int64_t) override {}
  bool direct() const override { return true; }
  int descriptor() const override { return -1; }

 private:
  std::string path_;
};

class NoFiles : public FileSystem {
 public:
  std::shared_ptr<File> open(const std::string& path, FileMode) override { return std::make_shared<NoFile>(path); }
};

class NoSink : public CompletionSink {
 public:
  void accept(Completion) override {}
};

/// What each lane takes for a piece of work, in seconds.
struct LaneCosts {
  SimulatedLane::Cost compute, disk_read, disk_lookup, disk_write;
  SimulatedLane::Cost h2d, d2h, cpu;  ///< beside a GPU
};

RunReport simulate(const Model& model, const Policy& policy, DType kv_dtype, LaneCosts costs, RequestSource& source) {
  VirtualClock clock;
  Lanes lanes;
  auto simulated = [&clock](const char* name, SimulatedLane::Cost cost) { return std::make_unique<SimulatedLane>(name, clock, std::move(cost)); };
  lanes.compute = simulated("compute", std::move(costs.compute));
  if (policy.on_gpu()) {
    lanes.h2d = simulated("h2d", std::move(costs.h2d));
    lanes.d2h = simulated("d2h", std::move(costs.d2h));
    lanes.cpu = simulated("cpu", std::move(costs.cpu));
  }
  lanes.disk_read = simulated("disk read", std::move(costs.disk_read));
  lanes.disk_lookup = simulated("disk lookup", std::move(costs.disk_lookup));
  lanes.disk_write = simulated("disk write", std::move(costs.disk_write));

  NoFiles files;
  NoSink sink;
  CacheLayout cache_layout(model, policy, kv_dtype);
  HiddenLayout hidden_layout(model, policy);
  const WeightLayout weight_layout(model, policy);
  const ExchangeLayout exchange_layout(model, policy);
  auto arena = [&](Tier tier) {
    return Arena(cache_layout.arena_bytes(policy, tier) + hidden_layout.arena_bytes(policy, tier) + weight_layout.arena_bytes(policy, tier) +
                 exchange_layout.arena_bytes(policy, tier), Arena::Use::kAddressesOnly);
  };
  Arena ram = arena(Tier::kCpu), gpu = arena(Tier::kGpu);
  const Arenas arenas{&ram, &gpu};
  WeightStore weights(model, policy, files, arenas, lanes);
  CacheStore cache(model, policy, kv_dtype, files.open("cache", FileMode::kWriteDirect), arenas, lanes);
  HiddenStore hidden(model, policy, files.open("activations", FileMode::kWriteDirect), arenas, lanes);
  std::optional<Exchange> exchange;
  if (policy.on_gpu()) exchange.emplace(model, policy, arenas);
  std::unique_ptr<Kernels> kernels = make_reference_kernels();  // never called

  Batcher batcher(model, policy, cache.layout(), nullptr, {}, source, sink);
  Executor executor(model, policy, *kernels, lanes, weights, cache, hidden, {});
  RunReport report;
  weights.wait_resident();
  report.load_time_s = clock.now_s;
  executor.run(batcher, std::atomic<bool>{false});
  batcher.settle();
  for (const Lane* lane : lanes.all()) {
    clock.now_s = std::max(clock.now_s, static_cast<const SimulatedLane*>(lane)->free_at_s());
    report.lanes.push_back({lane->name(), lane->stats()});
  }
  report.elapsed_s = clock.now_s;
  report.sequences = batcher.counters().sequences;
  report.prompt_tokens = batcher.counters().prompt_tokens;
  report.generated_tokens = batcher.counters().generated_tokens;
  report.work = executor.work_done();
  return report;
}

}  // namespace

RunReport simulate(const Model& model, const Policy& policy, DType kv_dtype, const MachineSpeeds& speeds, RequestSource& source) {
  LaneCosts costs;
  costs.cpu = [speeds](const Work& work) {
    return speeds.visit_overhead_s + work.amount.flops / speeds.flops_per_s + work.amount.kv_read_bytes / speeds.ram_bytes_per_s;
  };
  // Few rows multiply no faster than the GPU reads the matrices, of 16 bits.
  const auto on_gpu = [speeds](const Work& work) {
    const double weight_bytes = work.amount.flops / std::max(1.0, work.amount.rows);
    return speeds.visit_overhead_s + std::max(work.amount.flops / speeds.gpu_flops_per_s, weight_bytes / speeds.gpu_bytes_per_s) +
           work.amount.kv_read_bytes / speeds.gpu_bytes_per_s;
  };
  costs.compute = policy.on_gpu() ? SimulatedLane::Cost(on_gpu) : costs.cpu;
  auto bus = [speeds](double bytes_per_s) { return [speeds, bytes_per_s](const Work& work) { return speeds.copy_latency_s + work.bytes / bytes_per_s; }; };
  costs.h2d = bus(speeds.h2d_bytes_per_s);
  costs.d2h = bus(speeds.d2h_bytes_per_s);
  // Each lane keeps many requests in flight, so a lane that is busy pays the latency once a piece of work, not once a request.
  auto disk = [speeds](double bytes_per_s) { return [speeds, bytes_per_s](const Work& work) { return speeds.disk_latency_s + work.bytes / bytes_per_s; }; };
  costs.disk_read = costs.disk_lookup = disk(speeds.disk_read_bytes_per_s);
  costs.disk_write = disk(speeds.disk_write_bytes_per_s);
  return simulate(model, policy, kv_dtype, std::move(costs), source);
}

RunReport simulate(const Model& model, const Policy& policy, const Precision& precision, const HardwareProfile& hardware, RequestSource& source) {
  // Disk time that compute, and write time that reading, has not been slowed down for yet.
  auto unpaid_disk_s = std::make_shared<double>(0), unpaid_write_s = std::make_shared<double>(0);
  const DiskProfile& disk = hardware.disk;
  const double slowdown = policy.buffers > 1 ? disk.compute_slowdown : 0;
  if (policy.on_gpu() && !hardware.gpu) fail_user("the hardware profile '{}' has no GPU, but the policy computes on one", hardware.name);
  const ComputeProfile& processor = policy.on_gpu() ? *hardware.gpu : hardware.cpu;
  LaneCosts costs;
  costs.compute = [&processor, precision, slowdown, unpaid_disk_s](const Work& work) {
    return visit_time_s(processor, precision, work.amount) + slowdown * std::exchange(*unpaid_disk_s, 0);
  };
  costs.cpu = [&hardware, precision](const Work& work) { return visit_time_s(hardware.cpu, precision, work.amount); };
  costs.h2d = [&hardware](const Work& work) { return hardware.copy_s + work.bytes / hardware.h2d_bytes_per_s; };
  costs.d2h = [&hardware](const Work& work) { return hardware.copy_s + work.bytes / hardware.d2h_bytes_per_s; };
  costs.disk_read = [&disk, unpaid_disk_s, unpaid_write_s, loading = std::string("load resident weights")](const Work& work) {
    const double time_s = disk.request_s + work.bytes / disk.read_bytes_per_s;
    if (loading != work.name) *unpaid_disk_s += time_s;
    return time_s + disk.write_share_of_read * std::exchange(*unpaid_write_s, 0);
  };
  costs.disk_lookup = [&disk](const Work& work) { return disk.request_s + static_cast<double>(work.transfers.size()) * disk.lookup_s; };
  costs.disk_write = [&disk, unpaid_disk_s, unpaid_write_s](const Work& work) {
    const double time_s = disk.request_s + work.bytes / disk.write_bytes_per_s;
    *unpaid_disk_s += time_s;
    *unpaid_write_s += time_s;
    return time_s;
  };
  return simulate(model, policy, precision.kv, std::move(costs), source);
}

}  // namespace flexgen
