#pragma once
// What was chosen for a run, for a person: policy, and memory to the byte. Pure functions.

#include <string>

#include "engine/engine.h"

namespace flexgen {

/// Several lines, each ended. After Engine::prepare().
std::string plan_table(const Engine& engine);

/// The same of a server, which has no job that ends: how fast it is when it is full.
std::string server_plan_table(const Engine& engine);

/// What the job's prompts have in common, whether the policy computes it once, and how many times faster the job is for it (0: not known); empty if they have nothing. A sentence without its end.
std::string sharing_text(const Workload& workload, const Policy& policy, double times_faster = 0);

/// How long answers are expected to be: "all of their max_tokens", or "40 tokens on average".
std::string expectation_text(const Workload& workload);

/// Predicted and measured time of each lane, and the tokens generated where they are not those that were expected; empty for a run that was stopped.
std::string prediction_table(const Prediction& predicted, const RunReport& report);

/// What could be better about a job's policy: that nothing needs to be offloaded, or that the block is too small for the machine. Empty if nothing.
std::string plan_advice(const Workload& workload, const Plan& plan);

}  // namespace flexgen
