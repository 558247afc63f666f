#include "plan/weight_layouts.h"

#include "schedule/lookup_layout.h"

namespace flexgen {

WeightLayouts::Key WeightLayouts::key_of(const Policy& policy) const {
  const LookupLayout lookup(model_, policy);
  return {policy.weights.gpu, policy.weights.cpu, policy.weights.disk, policy.on_gpu(), policy.hottest_first, lookup.resident_rows, lookup.host_rows};
}

const WeightSums& WeightLayouts::sums(const Policy& policy) {
  const auto [known, is_new] = sums_.try_emplace(key_of(policy));
  if (is_new) known->second = WeightSums::of(model_, policy);
  return known->second;
}

std::shared_ptr<const WeightLayout> WeightLayouts::layout(const Policy& policy) {
  const Key key = key_of(policy);
  if (last_ && key == last_key_) return last_;
  const auto kept = model_.expert_chances() ? WeightLayout::Kept::kAll : WeightLayout::Kept::kNotOfExperts;
  last_ = std::make_shared<const WeightLayout>(model_, policy, kept);
  last_key_ = key;
  return last_;
}

}  // namespace flexgen
