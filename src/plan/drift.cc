#include "plan/drift.h"

#include <algorithm>

#include <fmt/format.h>

namespace flexgen {
namespace {

constexpr double kTolerance = 1.25, kMatters = 0.25;

void slow_down(ComputeProfile& processor, double factor) {
  processor.visit_s *= factor;
  processor.logit_s *= factor;
  for (MatmulRates& rates : processor.matmul)
    for (RatePoint& point : rates.points) point.per_s /= factor;
  for (AttentionRates& rates : processor.attention) {
    rates.chunk_flops_per_s /= factor;
    for (RatePoint& point : rates.points) point.per_s /= factor;
  }
}

}  // namespace

std::string Drift::to_string() const {
  std::string text;
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane)
    if (factors.seconds[lane] != 1)
      text += fmt::format("{}{} takes {:.2f} times what was expected", text.empty() ? "" : ", ", lane_name(static_cast<LaneKind>(lane)), factors.seconds[lane]);
  return text;
}

std::optional<Drift> drift_of(const HardwareProfile& hardware, const Policy& policy, const Stretch& stretch) {
  Drift drift{hardware, {}};
  drift.factors.seconds.fill(1);
  HardwareProfile& now = drift.hardware;
  bool off = false;
  auto factor_of = [&](LaneKind kind) {
    const double busy = stretch.busy[kind], expected = stretch.expected[kind];
    if (busy <= 0 || expected <= 0 || std::max(busy, expected) < kMatters * stretch.time_s) return 1.0;
    const double factor = busy / expected;
    if (factor < kTolerance && factor > 1 / kTolerance) return 1.0;
    off = true;
    return drift.factors[kind] = factor;
  };
  slow_down(policy.on_gpu() ? *now.gpu : now.cpu, factor_of(LaneKind::kCompute));
  now.disk.read_bytes_per_s /= factor_of(LaneKind::kDiskRead);
  now.disk.write_bytes_per_s /= factor_of(LaneKind::kDiskWrite);
  now.h2d_bytes_per_s /= factor_of(LaneKind::kH2d);
  now.d2h_bytes_per_s /= factor_of(LaneKind::kD2h);
  if (!off) return std::nullopt;
  return drift;
}

StepLimits limits_for(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& rest,
                      const StepLimits& now) {
  auto time_s = [&](const StepLimits& limits) {
    Policy limited = policy;
    limited.max_rows = limits.max_rows;
    limited.max_logit_rows = std::min(policy.max_logit_rows, limits.max_rows);
    limited.micro_batch_size = limits.max_slots;
    const Prediction prediction = predict(model, hardware, precision, limited, rest, walk_slots(model, limited, precision.kv, rest, 10000));
    return prediction.time_s - prediction.load_time_s.value_or(0);  // the weights are there by now
  };
  StepLimits best = now;
  double best_s = 0.97 * time_s(now);
  for (double slots : {1.0, 0.75, 0.5})
    for (double rows : {1.0, 0.75, 0.5, 0.35, 0.25}) {
      StepLimits limits{std::max<int64_t>(16, static_cast<int64_t>(rows * static_cast<double>(policy.max_rows))),
                        std::max<int64_t>(1, static_cast<int64_t>(slots * static_cast<double>(policy.micro_batch_size)))};
      limits.max_rows = std::min(std::max(limits.max_rows, limits.max_slots), policy.max_rows);
      const double limited_s = time_s(limits);
      if (limited_s >= best_s) continue;
      best = limits;
      best_s = limited_s;
    }
  return best;
}

}  // namespace flexgen
