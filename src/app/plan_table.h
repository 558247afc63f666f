#pragma once
// What was chosen for a run, for a person: policy, and memory to the byte. Pure functions.

#include <string>

#include "engine/engine.h"

namespace flexgen {

/// Several lines, each ended. After Engine::prepare().
std::string plan_table(const Engine& engine);

}  // namespace flexgen
