#pragma once
// PlanReport: a plan explained: what it takes and where, what binds it, what else was looked at, and what would help, each by planning again.
// Pure functions, but for the time that planning takes.

#include <functional>
#include <string>
#include <vector>

#include "plan/planner.h"
#include "setup/dtype_choice.h"

namespace flexgen {

/// A change of the machine or the job, planned for.
struct WhatIf {
  std::string change;  ///< "+8 GiB RAM"
  double time_s = 0;   ///< of the job then; 0: it would not run
  std::string policy;  ///< in short
  /// Whether it is worth a change: a few percent are within what a prediction may be off.
  bool helps(double planned_s) const { return time_s > 0 && planned_s > 1.03 * time_s; }
};

/// Another policy that fits, and its predicted time.
struct Alternative {
  Policy policy;
  double time_s = 0;
  std::string why;  ///< what it waits for
};

struct PlanReport {
  Plan plan;
  MemoryPlan memory;
  std::string binding;  ///< "disk read: 60% of the weights stream, as RAM is full"
  std::vector<Alternative> alternatives;
  std::vector<WhatIf> what_ifs;
  double unshared_time_s = 0;      ///< of the job with --prefix-sharing off, planned for that; 0: it shares nothing, or would not run
  DtypeChoice dtypes;              ///< judged: empty if there was nothing to choose
  std::vector<std::string> notes;  ///< on the job: what was estimated or left out
};

/// The same job with something changed that the model must know of.
struct PlanVariants {
  /// The model with its matrices in this type; null if that cannot be.
  std::function<const Model*(DType)> with_weights;
};
/// Plans, and plans again for each change.
PlanReport make_report(const PlanInput& input, const PlanVariants& variants);

/// For a person; for programs; and a page with pictures, one file that needs no other.
std::string report_text(const PlanReport& report, const PlanInput& input);
std::string report_json(const PlanReport& report, const PlanInput& input);
/// What the job's prompts share, and how many times faster it is for it; empty if nothing.
std::string sharing_text(const PlanReport& report, const PlanInput& input);
/// "8h 51m, bound by the disk".
std::string headline(const PlanReport& report);
/// How long each part of the machine is busy and what memory holds, as a picture of its own.
std::string report_svg(const PlanReport& report, const PlanInput& input, const std::string& title);
std::string report_page(const PlanReport& report, const PlanInput& input, const std::string& title);

}  // namespace flexgen
