#pragma once
// What a visit takes on a processor of a profile. The cost model and simulate() both ask here, so that they differ in what overlaps and in
// nothing else. Pure functions.

#include "backend/lane.h"
#include "model/model.h"
#include "plan/hardware_profile.h"

namespace flexgen {

/// What a run computes with and on.
struct Precision {
  /// kInt8 for products in integers.
  DType compute = DType::kF32, weights = DType::kBF16, kv = DType::kBF16;
  double queries_per_kv_head = 1;

  static Precision of(const Model& model, DType compute, DType kv);
};

/// Seconds of one visit on the lane that computes.
double visit_time_s(const ComputeProfile& processor, const Precision& precision, const ComputeAmount& amount);

}  // namespace flexgen
