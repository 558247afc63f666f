#pragma once
// ExpectedVisits: what visits of a step take, and, of a mixture's units of experts, which are expected to take place, for the cost model. One thread.

#include <memory>
#include <vector>

#include "plan/alike_layers.h"
#include "plan/slot_walk.h"
#include "plan/visit_cost.h"
#include "schedule/weight_layout.h"

namespace flexgen {

class WeightLayouts;

/// Of a unit of experts, in a step.
struct HitShares {
  bool is_known = false;
  double whole = 0;                       ///< the chance that any row chooses one of its experts
  double disk = 0, host = 0;              ///< the share of its bytes that it then reads from disk, and copies from the RAM beside a GPU
  std::vector<double> of_batch, visit_s;  ///< the chance that rows of a micro-batch do, and what a visit of these then takes
};

class ExpectedVisits {
 public:
  ExpectedVisits(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy);

  /// What the micro-batches do from now on.
  void begin_step(const StepLoad& load);
  /// Of the step, all micro-batches together.
  double rows() const { return rows_; }

  /// The host thread has waited for what the rows of a block choose: as many of its units, the first of them layer `first_unit`, are wanted as are expected, evenly spread. Of each, whether it is.
  const std::vector<bool>& choose(size_t first_unit);
  bool knows_choices(size_t layer) const { return layer >= first_unit_ && layer < first_unit_ + wanted_.size(); }
  bool is_wanted(size_t layer) const { return wanted_[layer - first_unit_]; }
  bool is_wanted_by(size_t batch, size_t layer) const { return wanted_by_[(layer - first_unit_) * batch_rows_.size() + batch]; }
  const HitShares& hits_of(size_t layer);

  /// Of a visit to a layer that attends; in seconds, as all of these.
  const BlockTimes& block(size_t batch) const { return block_times_[batch]; }
  /// Of a visit of all the micro-batch's rows to one that does not.
  double outer_s(size_t layer, size_t batch);

 private:
  const Model& model_;
  const AlikeLayers& alike_;
  const HardwareProfile& hardware_;
  const Precision& precision_;
  const Policy& policy_;
  const std::shared_ptr<const WeightLayout> weights_;
  double rows_ = 0;                                    ///< of this step
  std::vector<double> batch_rows_, batch_logit_rows_;  ///< and of its micro-batches
  std::vector<BlockTimes> block_times_;                ///< a micro-batch
  // Of steps with these rows, as they are asked for.
  std::vector<HitShares> hits_;  ///< a kind of layers; a layer, where experts are not chosen as often as others
  std::vector<double> outer_s_;  ///< a kind of layers and micro-batch; below 0: not asked for yet
  // Units of experts of the block under way, in a step that loads those that are chosen.
  size_t first_unit_ = 0;
  std::vector<bool> wanted_, wanted_by_;  ///< a unit; a unit and micro-batch
  // What is expected, less what happened: of units, and of each micro-batch's visits to them.
  static constexpr double kHalf = 0.5;
  double unit_carry_ = kHalf;
  std::vector<double> batch_carries_;
};

}  // namespace flexgen
