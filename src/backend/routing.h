#pragma once
// Routing as a processor does it, for the backends whose memory it reads, and as the definition for those that do it themselves. Any thread.

#include <cstdint>
#include <functional>
#include <span>

#include "backend/kernels.h"

namespace flexgen {

/// The experts of one row, by its router's logits [E] (which are changed) and bias [E] or none, to choices [k]: the best first. Of equal scores the first counts as the larger; NaN is
/// chosen last, and then like others: what is not finite is found in the logits of the answer.
void choose_experts_of_row(const RouterRule& rule, std::span<float> logits, std::span<const float> bias, ExpertChoice* choices);

/// What backends whose memory the processor reads do alike of a mixture's operations.
class HostKernels : public Kernels {
 public:
  void choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) override;
  void pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) override;
  void add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) override;
  void add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) override;

 protected:
  /// Calls work(first, count) for stretches that make up the rows [0, num_rows). A backend that has threads lets them do it at the same time; `cols`: what a row costs, in values read or written.
  virtual void share_rows(int64_t num_rows, int64_t cols, const std::function<void(int64_t first, int64_t count)>& work);
  /// y += factor * x, both [cols] f32. From any of these threads.
  virtual void add_row(const float* x, int64_t cols, float factor, float* y);
};

}  // namespace flexgen
