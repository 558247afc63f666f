#pragma once
// RunReport: what a run did and how long it took, on real lanes or simulated ones. Pure data.

#include <cstdint>
#include <string>
#include <vector>

#include "backend/lane.h"
#include "schedule/executor.h"

namespace flexgen {

struct LaneReport {
  std::string name;
  LaneStats stats;
};

struct RunReport {
  double elapsed_s = 0;          ///< of run(), the loading of resident weights included
  int64_t sequences = 0, prompt_tokens = 0, generated_tokens = 0;
  int64_t shared_prompt_tokens = 0;  ///< of prompt_tokens: not computed, as other sequences had them in the cache
  bool stopped = false;          ///< ended by the stop flag before all was done
  WorkDone work;
  std::vector<LaneReport> lanes;
};

}  // namespace flexgen
