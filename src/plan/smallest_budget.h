#pragma once
// The smallest budget: which policies take least, and the refusal that says so. Pure functions.

#include <vector>

#include "plan/first_rule.h"

namespace flexgen {

/// Policies that honour the request and take as little as any: one sequence, one buffer, few rows, each kind in RAM or on disk.
std::vector<Policy> smallest_policies(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype);

/// Throws Error{user}: which budget is short, what takes most of it, and the smallest that would do. Call it when none of the above fits.
[[noreturn]] void refuse_budget(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype);

}  // namespace flexgen
