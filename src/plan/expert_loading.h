#pragma once
// How a mixture's experts are loaded: all, ahead of their use, so that the disk never waits; or those alone that a pass's rows choose, which are fewer, but known late. The fewer rows, the more the
// second way saves. Pure functions.

#include <string>

#include "plan/policy_request.h"
#include "plan/visit_cost.h"

namespace flexgen {

class WeightLayouts;

/// Policy::max_choosing_rows: the most rows of a pass for which loading what they choose should take less time than loading all; 0 where none should, and where the model is no mixture.
int64_t choosing_rows(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy);
/// The same of one of many policies of a model.
int64_t choosing_rows(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy);
/// The same where nothing was measured: at so many rows half of the experts are expected to be chosen.
int64_t choosing_rows_by_rule(const Model& model);

/// Whether it was counted which experts are chosen most often, so that they can be placed first (Policy::hottest_first).
bool knows_hottest(const Model& model);

/// Throws Error{user} where the request says how experts are loaded and the model has none.
void refuse_loading_of_experts(const Model& model, const PolicyRequest& request);

/// What a policy does, as a sentence without a full stop; empty where the model is no mixture.
std::string experts_text(const Model& model, const Policy& policy);

}  // namespace flexgen
