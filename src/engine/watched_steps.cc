#include "engine/watched_steps.h"

#include <algorithm>

#include "base/log.h"
#include "base/units.h"

namespace flexgen {

WatchedSteps::WatchedSteps(Batcher& batcher, const RequestSource& source, const Model& model, const HardwareProfile& hardware, const Precision& precision,
                           const Policy& policy, const Workload& workload, const Lanes& lanes)
    : batcher_(batcher), source_(source), model_(model), hardware_(hardware), precision_(precision), policy_(policy), workload_(workload),
      lanes_(lanes), limits_{policy.max_rows, policy.micro_batch_size}, looked_at_(Clock::now()) {
  scale_.seconds.fill(1);
  before_ = read_lanes();
}

Stretch WatchedSteps::read_lanes() const {
  Stretch sums;
  double waits_s = 0;
  for (auto [kind, lane] : {std::pair{LaneKind::kCompute, lanes_.compute.get()},
                            {LaneKind::kDiskRead, lanes_.disk_read.get()},
                            {LaneKind::kDiskWrite, lanes_.disk_write.get()},
                            {LaneKind::kH2d, lanes_.h2d.get()},
                            {LaneKind::kD2h, lanes_.d2h.get()}}) {
    if (!lane) continue;
    const LaneStats stats = lane->stats();
    sums.busy[kind] = stats.busy_s;
    sums.expected[kind] = stats.expected_s;
    if (kind == LaneKind::kDiskWrite) waits_s = static_cast<double>(stats.operations) * write_wait_s(hardware_.disk, policy_);
  }
  // What lanes are known to cost each other.
  const double disk_s = sums.expected[LaneKind::kDiskRead] + sums.expected[LaneKind::kDiskWrite];
  sums.expected[LaneKind::kDiskRead] += hardware_.disk.write_share_of_read * sums.expected[LaneKind::kDiskWrite];
  if (!policy_.on_gpu() && policy_.buffers > 1) sums.expected[LaneKind::kCompute] += hardware_.disk.compute_slowdown * disk_s;
  // Waits beside reads cost no lane anything, and many pass at once.
  double& written_s = sums.expected[LaneKind::kDiskWrite];
  written_s = std::clamp(sums.busy[LaneKind::kDiskWrite], written_s, written_s + waits_s);
  return sums;
}

void WatchedSteps::look(int64_t step) {
  const auto now = Clock::now();
  const double passed_s = std::chrono::duration<double>(now - looked_at_).count();
  if (passed_s < kLookEveryS || step - looked_step_ < kLookEverySteps) return;
  const Stretch sums = read_lanes();
  Stretch stretch{passed_s, {}, {}};
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) {
    stretch.busy.seconds[lane] = sums.busy.seconds[lane] - before_.busy.seconds[lane];
    stretch.expected.seconds[lane] = scale_.seconds[lane] * (sums.expected.seconds[lane] - before_.expected.seconds[lane]);
  }
  before_ = sums;
  looked_at_ = now;
  looked_step_ = step;
  const std::optional<Drift> drift = drift_of(hardware_, policy_, stretch);
  if (!drift) return;
  const std::string what = drift->to_string();
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) scale_.seconds[lane] *= drift->factors.seconds[lane];
  hardware_ = drift->hardware;
  // Sequences under way end by themselves.
  const Workload rest = rest_of(workload_, source_.remaining(), batcher_.answer_share());
  if (rest.num_sequences == 0) return;
  const StepLimits limits = limits_for(model_, hardware_, precision_, policy_, rest, limits_);
  if (limits.max_rows == limits_.max_rows && limits.max_slots == limits_.max_slots) {
    spdlog::info("step {}: {}; planned anew, the steps stay as they are", step, what);
    return;
  }
  spdlog::info("step {}: {}; planned anew: {} tokens and {} sequences a micro-batch instead of {} and {}", step, what, limits.max_rows, limits.max_slots,
               limits_.max_rows, limits_.max_slots);
  limits_ = limits;
  batcher_.set_limits(limits.max_rows, limits.max_slots);
}

Workload rest_of(const Workload& job, int64_t sequences_left, const std::optional<double>& answer_share) {
  Workload rest = job;
  rest.num_sequences = sequences_left;
  const double share = static_cast<double>(sequences_left) / static_cast<double>(std::max<int64_t>(1, job.num_sequences));
  for (double* total : {&rest.total_prompt_tokens, &rest.total_prefix_tokens, &rest.total_shared_tokens, &rest.total_max_tokens, &rest.total_generated_tokens})
    *total *= share;
  if (answer_share) rest.expect(*answer_share);
  return rest;
}

void set_expected_costs(Lanes& lanes, const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy) {
  lanes.compute->set_cost([&model, processor = processor_of(hardware, policy), precision](const Work& work) {
    return layer_visit_time_s(processor, precision, model.layers()[static_cast<size_t>(work.layer)], work.amount);
  });
  const auto disk = [request_s = hardware.disk.request_s](double bytes_per_s) {
    return [request_s, bytes_per_s](const Work& work) { return request_s + work.bytes / bytes_per_s; };
  };
  lanes.disk_read->set_cost(disk(hardware.disk.read_bytes_per_s));
  lanes.disk_write->set_cost(disk(hardware.disk.write_bytes_per_s));
  if (lanes.h2d)
    lanes.h2d->set_cost([copy_s = hardware.copy_s, bytes_per_s = hardware.h2d_bytes_per_s](const Work& work) { return copy_s + work.bytes / bytes_per_s; });
  if (lanes.d2h)
    lanes.d2h->set_cost([copy_s = hardware.copy_s, bytes_per_s = hardware.d2h_bytes_per_s](const Work& work) { return copy_s + work.bytes / bytes_per_s; });
}

}  // namespace flexgen
