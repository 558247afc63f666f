#pragma once
// CostModel: how long a job takes under a policy on a machine of a profile. Work comes from the stores' own layouts and Model::work; the time of a
// step is that of its visits and transfers one after the other in each lane, each as soon as what it needs is there (FlexGen, section 4.3, takes the
// maximum over the lanes: here the start, full rings and single buffers count too). Pure functions.

#include <optional>

#include "plan/lane_times.h"
#include "plan/slot_walk.h"
#include "plan/visit_cost.h"

namespace flexgen {

class WeightLayouts;

/// What a job is expected to take; times in seconds.
struct Prediction {
  double time_s = 0;                  ///< of the whole job, the loading of resident weights included
  std::optional<double> load_time_s;  ///< of these, what loading resident weights adds: what computing does not overlap; not told apart for pipelines
  double prompts_s = 0;               ///< of these, what prompts take: of a step, by its rows; 0: not told apart, as of pipelines and where prompts are scored
  double steps = 0;
  double generated_tokens = 0;  ///< that the job is expected to generate
  LaneTimes busy;               ///< of each lane, in all
  double disk_read_bytes = 0, disk_write_bytes = 0;
  double loaded_bytes = 0;  ///< of what is read, resident weights, once
  /// The sum over the steps of the busiest lane's time: what a linear program sees.
  double bound_s = 0;
};

/// `walk` must be of the same policy, workload and cache type.
Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk);
/// The same of one of many policies of a model.
Prediction predict(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload,
                   const SlotWalk& walk);
Prediction predict(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const Workload& workload);

}  // namespace flexgen
