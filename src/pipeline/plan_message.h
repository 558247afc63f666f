#pragma once
// Plans and results as messages between pipeline stages: what a stage must know to do its part of a micro-batch's step, and what the last stage found out.
// Pure functions.

#include <memory>
#include <optional>
#include <vector>

#include "generation/logit_reader.h"
#include "net/message.h"
#include "schedule/batch_plan.h"

namespace flexgen {

/// What the first stage says to the others, in the order of its loop.
struct PlanMessage {
  enum class Kind : uint8_t {
    kStep,  ///< another step begins
    kPlan,  ///< what the next micro-batch does in it
    kIdle,  ///< the next micro-batch does nothing in it
    kEnd,   ///< the run is over
  };
  Kind kind = Kind::kStep;
  std::shared_ptr<BatchPlan> plan;       ///< kPlan; without a sink
  std::vector<LogitReader::Row> wanted;  ///< kPlan: one a logit row
};

std::vector<std::byte> encode(const PlanMessage& message);
PlanMessage decode_plan(std::span<const std::byte> bytes);

std::vector<std::byte> encode(const std::vector<TokenLogprob>& results);
std::vector<TokenLogprob> decode_results(std::span<const std::byte> bytes);

}  // namespace flexgen
