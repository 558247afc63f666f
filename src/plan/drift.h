#pragma once
// Drift: whether a run's lanes keep to what the profile promised, and what to do if they don't. Placement cannot move during a run, but how many
// tokens a step takes and how many sequences are under way can. Pure functions.

#include <optional>
#include <string>

#include "plan/cost_model.h"

namespace flexgen {

/// Of some stretch of a run: the time it took, and each lane's busy time, measured and as the profile has it.
struct Stretch {
  double time_s = 0;
  LaneTimes busy, expected;
};

/// The profile as the stretch shows it to be; nothing if all lanes that matter (busy for a quarter of the time) are within 25% of it.
/// `what` says which lanes are off and by how much.
std::optional<HardwareProfile> drifted(const HardwareProfile& hardware, const Policy& policy, const Stretch& stretch, std::string* what);

struct StepLimits {
  int64_t max_rows = 0, max_slots = 0;  ///< of a micro-batch
};

/// The limits, within what the policy has memory for, under which the rest of a job takes the least time; `now` if none is better by 3%.
StepLimits limits_for(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& rest, const StepLimits& now);

}  // namespace flexgen
