#pragma once
// What the first stage of a pipeline asks of the others, and the job with it. Host thread of the stage.

#include <cstdint>
#include <utility>

#include "net/port.h"
#include "plan/workload.h"

namespace flexgen {

/// What the first stage tells the others to do next.
enum class StageCommand : uint8_t { kPrepare, kRun, kDismiss };

/// First stage: to all others; nothing with one stage. The workload goes along, so that all reserve the same pages for it: 350 kB at most. Throws Error{peer}.
void command_stages(const StageLink& stages, StageCommand command, const Workload& workload = {});
/// Later stages: waits for the next one.
std::pair<StageCommand, Workload> next_command(const StageLink& stages);

}  // namespace flexgen
