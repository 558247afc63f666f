#pragma once
// What a visit takes on a processor of a profile. The cost model and simulate() both ask here, so that they differ in what overlaps and in
// nothing else. Pure functions.

#include <optional>

#include "backend/lane.h"
#include "model/model.h"
#include "plan/hardware_profile.h"
#include "schedule/policy.h"

namespace flexgen {

/// What a run computes with and on.
struct Precision {
  /// kInt8 for products in integers.
  DType compute = DType::kF32, weights = DType::kBF16, kv = DType::kBF16;
  double queries_per_kv_head = 1;
  double width = kUsualWidth;         ///< the model's hidden size
  std::optional<DType> experts = {};  ///< weights of a mixture's experts, where they are of another type than the others, as gpt-oss's are

  static Precision of(const Model& model, DType compute, DType kv);
};

/// Seconds of one visit on the lane that computes.
double visit_time_s(const ComputeProfile& processor, const Precision& precision, const ComputeAmount& amount);

/// What starting an expert's products takes, of HardwareProfile's visit_s: some six kernels, where a block's visit starts some fifteen.
inline constexpr double kVisitsOfAnExpert = 0.4;
/// The same of a visit to `layer`, in which amount.rows rows go through each matrix. Experts are started one by one.
double layer_visit_time_s(const ComputeProfile& processor, const Precision& precision, const LayerSpec& layer, const ComputeAmount& amount);

/// The processor that a policy computes on. Throws Error{user} if it is a GPU and the profile has none.
const ComputeProfile& processor_of(const HardwareProfile& hardware, const Policy& policy);

/// Seconds of a block's visit: the whole in compute_s, or with attention beside a GPU what comes before it, attention on the other processor, and what follows.
struct BlockTimes {
  double compute_s = 0, attention_s = 0, after_s = 0;
};
BlockTimes block_times(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const ComputeAmount& whole);

/// Seconds of a visit of `rows` rows to a layer that does not attend: the embedding, a unit of experts, or a chunk of the head, whose logits a GPU leaves to the processor beside it. `hit_share`: of
/// such micro-batches, how many visit the unit, where those of which no row has chosen one of its experts leave it out.
double outer_visit_time_s(const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const LayerSpec& layer, double rows,
                          double hit_share = 1);

/// What a chunk of the head on a GPU sends down: the largest of each of its rows, and the logits if they are read.
double logit_bytes_down(const LayerSpec& head, double rows, bool reads_logits);

/// By how much the end of each write is late under this policy: while weights are streamed, reads are always in flight.
inline double write_wait_s(const DiskProfile& disk, const Policy& policy) { return policy.weights.disk > 0 ? disk.write_wait_s : 0; }

}  // namespace flexgen
