#include "pipeline/simulate.h"

#include <mutex>
#include <thread>

#include <algorithm>
#include <optional>

#include "backend/simulated/simulated_lane.h"
#include "base/error.h"
#include "base/thread.h"
#include "generation/list_source.h"
#include "pipeline/stage_steps.h"
#include "plan/memory_plan.h"
#include "schedule/stores.h"

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

/// The same job has the same imagined choices of experts each time.
constexpr uint64_t kChoiceSeed = 7;

/// What each lane takes for a piece of work, in seconds.
struct LaneCosts {
  SimulatedLane::Cost compute, disk_read, disk_lookup, disk_write;
  SimulatedLane::Cost h2d, d2h, cpu;  ///< beside a GPU
  double write_wait_s = 0;            ///< write_wait_s()
};

/// The stores and the executor of one process on simulated lanes.
class SimulatedProcess {
 public:
  SimulatedProcess(const Model& model, const Policy& policy, DType kv_dtype, LaneCosts costs, VirtualClock& clock, StageLink link = {},
                   const LinkSpeed& speed = {})
      : clock_(clock), lanes_(lanes_of(policy, std::move(costs), clock, link, speed)),
        ram_(bytes_in(memory_of_stores(model, policy, kv_dtype), Tier::kCpu), Arena::Use::kAddressesOnly),
        gpu_(bytes_in(memory_of_stores(model, policy, kv_dtype), Tier::kGpu), Arena::Use::kAddressesOnly),
        stores_(model, policy, kv_dtype,
                {files_,
                 spill_files(model, policy, kv_dtype, [this](const char* name, int64_t) { return files_.open(name, FileMode::kWriteDirect); }),
                 {&ram_, &gpu_},
                 lanes_,
                 link}),
        executor_(model, policy, *kernels_, lanes_, stores_, {}, kernels_.get()) {
    for (const Arena* arena : {&ram_, &gpu_}) FLEXGEN_CHECK(arena->used() == arena->capacity(), "planned {} bytes, took {}", arena->capacity(), arena->used());
  }

  const CacheLayout& cache_layout() const { return stores_.cache.layout(); }

  /// Of the report all but the tokens.
  RunReport run(StepSource& source) {
    RunReport report;
    executor_.imagine_choices(kChoiceSeed);
    executor_.run(source, std::atomic<bool>{false});
    for (const auto& [kind, lane] : lanes_.all()) {
      clock_.now_s = std::max(clock_.now_s, static_cast<const SimulatedLane*>(lane)->free_at_s());
      report.lanes.push_back({kind, lane->stats()});
    }
    report.elapsed_s = clock_.now_s;
    report.work = executor_.work_done();
    return report;
  }

 private:
  static Lanes lanes_of(const Policy& policy, LaneCosts costs, VirtualClock& clock, const StageLink& link, const LinkSpeed& speed) {
    Lanes lanes;
    auto simulated = [&clock](LaneKind kind, SimulatedLane::Cost cost, double late_s = 0) {
      return std::make_unique<SimulatedLane>(lane_name(kind), clock, std::move(cost), late_s);
    };
    lanes.compute = simulated(LaneKind::kCompute, std::move(costs.compute));
    if (policy.on_gpu()) {
      lanes.h2d_small = simulated(LaneKind::kH2dSmall, costs.h2d);
      lanes.h2d = simulated(LaneKind::kH2d, std::move(costs.h2d));
      lanes.d2h = simulated(LaneKind::kD2h, std::move(costs.d2h));
      lanes.cpu = simulated(LaneKind::kCpu, std::move(costs.cpu));
    }
    lanes.disk_read = simulated(LaneKind::kDiskRead, std::move(costs.disk_read));
    lanes.disk_lookup = simulated(LaneKind::kDiskLookup, std::move(costs.disk_lookup));
    lanes.disk_write = simulated(LaneKind::kDiskWrite, std::move(costs.disk_write), costs.write_wait_s);
    if (link.num_stages() > 1) {  // when a message is there, the port knows
      lanes.network_send = simulated(LaneKind::kNetworkSend, [speed](const Work& work) { return work.bytes / speed.bytes_per_s; });
      lanes.network_receive = simulated(LaneKind::kNetworkReceive, [](const Work&) { return 0.0; });
    }
    return lanes;
  }

  VirtualClock& clock_;
  Lanes lanes_;
  NoFiles files_;
  Arena ram_, gpu_;
  Stores stores_;
  std::unique_ptr<Kernels> kernels_ = make_reference_kernels();  // never called
  Executor executor_;
};

void take_tokens(RunReport* report, const Batcher& batcher) {
  report->sequences = batcher.counters().sequences;
  report->prompt_tokens = batcher.counters().prompt_tokens;
  report->shared_prompt_tokens = batcher.counters().shared_prompt_tokens;
  report->generated_tokens = batcher.counters().generated_tokens;
}

RunReport simulate(const Model& model, const Policy& policy, DType kv_dtype, LaneCosts costs, RequestSource& source) {
  VirtualClock clock;
  SimulatedProcess process(model, policy, kv_dtype, std::move(costs), clock);
  NoSink sink;
  Batcher batcher(model, policy, process.cache_layout(), nullptr, {}, source, sink);
  RunReport report = process.run(batcher);
  batcher.settle();
  take_tokens(&report, batcher);
  return report;
}

}  // namespace

namespace {

LaneCosts costs_of(const Policy& policy, const MachineSpeeds& speeds) {
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
  return costs;
}

/// The model and the profile must outlive the costs.
LaneCosts costs_of(const Model& model, const Policy& policy, const Precision& precision, const HardwareProfile& hardware) {
  // Disk time that compute, and write time that reading, has not been slowed down for yet.
  auto unpaid_disk_s = std::make_shared<double>(0), unpaid_write_s = std::make_shared<double>(0);
  const DiskProfile& disk = hardware.disk;
  const double slowdown = policy.buffers > 1 ? disk.compute_slowdown : 0;
  const ComputeProfile& processor = processor_of(hardware, policy);
  LaneCosts costs;
  costs.compute = [&model, &processor, precision, slowdown, unpaid_disk_s](const Work& work) {
    return layer_visit_time_s(processor, precision, model.layers()[static_cast<size_t>(work.layer)], work.amount) + slowdown * std::exchange(*unpaid_disk_s, 0);
  };
  costs.cpu = [&hardware, precision](const Work& work) { return visit_time_s(hardware.cpu, precision, work.amount); };
  costs.h2d = [&hardware](const Work& work) { return hardware.copy_s + work.bytes / hardware.h2d_bytes_per_s; };
  costs.d2h = [&hardware](const Work& work) { return hardware.copy_s + work.bytes / hardware.d2h_bytes_per_s; };
  costs.disk_read = [&disk, unpaid_disk_s, unpaid_write_s](const Work& work) {
    const double time_s = disk.request_s + work.bytes / disk.read_bytes_per_s;
    *unpaid_disk_s += time_s;
    return time_s + disk.write_share_of_read * std::exchange(*unpaid_write_s, 0);
  };
  costs.disk_lookup = [&disk](const Work& work) { return disk.request_s + static_cast<double>(work.transfers.size()) * disk.lookup_s; };
  costs.disk_write = [&disk, unpaid_disk_s, unpaid_write_s](const Work& work) {
    const double time_s = disk.request_s + work.bytes / disk.write_bytes_per_s;
    *unpaid_disk_s += time_s;
    *unpaid_write_s += time_s;
    return time_s;
  };
  costs.write_wait_s = write_wait_s(disk, policy);
  return costs;
}

/// Loading the resident weights takes nothing.
void put_weights_in_place(LaneCosts& costs) {
  for (SimulatedLane::Cost* lane : {&costs.disk_read, &costs.h2d})
    *lane = [cost = *lane](const Work& work) { return std::string_view(work.name) == kLoadResident ? 0.0 : cost(work); };
}

}  // namespace

RunReport simulate(const Model& model, const Policy& policy, DType kv_dtype, const MachineSpeeds& speeds, RequestSource& source) {
  return simulate(model, policy, kv_dtype, costs_of(policy, speeds), source);
}

double PipelineReport::utilisation() const {
  double sum = 0;
  for (const RunReport& rank : ranks) {
    double busiest_s = 0;
    for (const LaneReport& lane : rank.lanes) busiest_s = std::max(busiest_s, lane.stats.busy_s);
    sum += busiest_s / whole.elapsed_s;
  }
  return sum / static_cast<double>(ranks.size());
}

PipelineReport simulate_pipeline(std::span<const SimulatedRank> ranks, const LinkSpeed& link, DType kv_dtype, RequestSource& source) {
  return simulate_pipeline(ranks, std::vector<LinkSpeed>(ranks.size(), link), kv_dtype, source);
}

PipelineReport simulate_pipeline(std::span<const SimulatedRank> ranks, std::vector<LinkSpeed> links, DType kv_dtype, RequestSource& source) {
  FLEXGEN_CHECK(links.size() == ranks.size(), "{} links of {} ranks", links.size(), ranks.size());
  SimulatedPorts ports(std::move(links));
  PipelineReport report;
  report.ranks.resize(ranks.size());
  std::mutex mutex;
  std::exception_ptr error;
  auto work = [&](size_t index) {
    const SimulatedRank& rank = ranks[index];
    const auto number = static_cast<int>(index);
    StageLink stage{ranks.size() > 1 ? &ports.port(number) : nullptr};
    try {
      LaneCosts costs = rank.hardware ? costs_of(*rank.model, rank.policy, rank.precision, *rank.hardware) : costs_of(rank.policy, rank.speeds);
      if (rank.weights_in_place) put_weights_in_place(costs);
      SimulatedProcess process(*rank.model, rank.policy, kv_dtype, std::move(costs), ports.clock(number), stage, ports.link(number));
      if (index > 0) {
        FollowSteps steps(stage, rank.policy.num_micro_batches, rank.model->config().vocab_size, {});
        report.ranks[index] = process.run(steps);
        return;
      }
      NoSink sink;
      Batcher batcher(*rank.model, rank.policy, process.cache_layout(), nullptr, {}, source, sink);
      if (stage.port) {
        std::atomic<bool> never{false};
        LeadSteps steps(batcher, stage, never);
        report.ranks[0] = process.run(steps);
        steps.settle();
      } else {
        report.ranks[0] = process.run(batcher);
        batcher.settle();
      }
      take_tokens(&report.ranks[0], batcher);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      ports.port(number).abort(message_of(std::current_exception()));
    }
  };
  std::vector<std::thread> threads;
  try {
    for (size_t index = 1; index < ranks.size(); ++index) threads.push_back(start_thread("simulating a stage", [&work, index] { work(index); }));
    work(0);
  } catch (const Error& failed) {  // no more threads: the stages that have started wait for those that are missing
    std::lock_guard lock(mutex);
    if (!error) error = std::current_exception();
    for (size_t index = 0; index < ranks.size(); ++index) ports.port(static_cast<int>(index)).abort(failed.what());
  }
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  report.whole = report.ranks[0];
  for (const RunReport& rank : report.ranks) report.whole.elapsed_s = std::max(report.whole.elapsed_s, rank.elapsed_s);
  return report;
}

RunReport simulate(const Model& model, const Policy& policy, const Precision& precision, const HardwareProfile& hardware, RequestSource& source) {
  return simulate(model, policy, precision.kv, costs_of(model, policy, precision, hardware), source);
}

}  // namespace flexgen
