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

/// What a stretch showed of the machine.
struct Drift {
  HardwareProfile hardware;  ///< as the stretch shows it to be
  LaneTimes factors{};       ///< by which each lane takes longer than was expected; 1: as expected, or of no matter

  /// Which lanes are off and by how much, for people.
  std::string to_string() const;
};

/// Nothing if all lanes that matter (busy for a quarter of the time) are within 25% of the profile.
std::optional<Drift> drift_of(const HardwareProfile& hardware, const Policy& policy, const Stretch& stretch);

/// How much a step may do, as Batcher::set_limits() takes it.
struct StepLimits {
  int64_t max_rows = 0, max_slots = 0;  ///< of a micro-batch
};

/// The limits, within what the policy has memory for, under which the rest of a job takes the least time; `now` if none is better by 3%.
StepLimits limits_for(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& rest,
                      const StepLimits& now);

}  // namespace flexgen
