#pragma once
// RunReport: what a run did and how long it took, on real lanes or simulated ones. Pure data.

#include <cstdint>
#include <string>
#include <vector>

#include "schedule/executor.h"
#include "schedule/lanes.h"

namespace flexgen {

/// What a lane did so far.
struct LaneReport {
  LaneKind kind{};
  LaneStats stats;
  int rank = -1;  ///< in a report of several ranks: whose it is
  std::string name() const { return rank < 0 ? lane_name(kind) : std::to_string(rank) + ": " + lane_name(kind); }
};

struct RunReport {
  double elapsed_s = 0;  ///< of run(), the loading of resident weights included
  int64_t sequences = 0, prompt_tokens = 0, generated_tokens = 0;
  int64_t shared_prompt_tokens = 0;  ///< of prompt_tokens: not computed, as other sequences had them in the cache
  int64_t cut_off = 0;   ///< choices that must follow a grammar and whose max_tokens ended first; whoever hands them out counts them, the engine does not
  bool stopped = false;  ///< ended by the stop flag before all was done
  WorkDone work;
  std::vector<LaneReport> lanes;
};

}  // namespace flexgen
