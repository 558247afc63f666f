#pragma once
// What was chosen for a run, for a person: policy, and memory to the byte. Pure functions.

#include <string>

#include "engine/engine.h"

namespace flexgen {

/// Several lines, each ended. After Engine::prepare().
std::string plan_table(const Engine& engine);

/// Predicted and measured time of each lane; empty for a run that was stopped.
std::string prediction_table(const Prediction& predicted, const RunReport& report);

/// What could be better about a job's policy: that nothing needs to be offloaded, or that the block is too small for the machine. Empty if nothing.
std::string plan_advice(const Workload& workload, const Plan& plan);

}  // namespace flexgen
