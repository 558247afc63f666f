#pragma once
// WeightLayouts: where a model's weights are under many policies. Each layout is made once for all policies that have it in common: it depends on nothing but the shares of weights, the tier
// that computes, where the table of embeddings is, and whether the hottest experts come first. For one search, on one thread.

#include <map>
#include <memory>
#include <tuple>

#include "model/model.h"
#include "plan/alike_layers.h"
#include "schedule/policy.h"
#include "schedule/weight_layout.h"

namespace flexgen {

class WeightLayouts {
 public:
  /// The model must live as long, and stay as it is.
  explicit WeightLayouts(const Model& model) : model_(model), alike_(model) {}

  const Model& model() const { return model_; }
  const AlikeLayers& alike() const { return alike_; }
  /// What the policy's layout comes to. Stays as long as this.
  const WeightSums& sums(const Policy& policy);
  /// The policy's layout, with the uses of experts only where these are not all chosen as often. The last one is kept.
  std::shared_ptr<const WeightLayout> layout(const Policy& policy);

 private:
  /// Shares of gpu, cpu and disk; whether a GPU computes, and the hottest experts come first; rows of the table in the tier that computes, and in RAM beside it.
  using Key = std::tuple<double, double, double, bool, bool, int64_t, int64_t>;
  Key key_of(const Policy& policy) const;

  const Model& model_;
  const AlikeLayers alike_;
  std::map<Key, WeightSums> sums_;
  Key last_key_;
  std::shared_ptr<const WeightLayout> last_;
};

}  // namespace flexgen
