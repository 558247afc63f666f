#include "pipeline/stage_commands.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "net/message.h"

namespace flexgen {
namespace {

/// The fields of a sequence's lengths but `scored`.
constexpr int32_t SequenceLength::*kLengths[]{&SequenceLength::prompt, &SequenceLength::max_tokens, &SequenceLength::generated, &SequenceLength::prefix,
                                              &SequenceLength::shared};

/// A column for each field.
void add_sample(MessageWriter& message, const Workload& workload) {
  message.add(workload.sample_stride);
  std::vector<int32_t> column(workload.sample.size());
  for (const auto field : kLengths) {
    std::transform(workload.sample.begin(), workload.sample.end(), column.begin(), [&](const SequenceLength& length) { return length.*field; });
    message.add(column);
  }
  std::vector<uint8_t> scored(workload.sample.size());
  std::transform(workload.sample.begin(), workload.sample.end(), scored.begin(), [](const SequenceLength& length) { return length.scored ? 1 : 0; });
  message.add(scored);
}

void read_sample(MessageReader& in, Workload& workload) {
  workload.sample_stride = in.value<int64_t>();
  bool is_first = true;
  for (const auto field : kLengths) {
    const auto column = in.values<int32_t>();
    if (std::exchange(is_first, false)) workload.sample.resize(column.size());
    FLEXGEN_CHECK(column.size() == workload.sample.size(), "lengths of {} and of {} sequences", column.size(), workload.sample.size());
    for (size_t i = 0; i < column.size(); ++i) workload.sample[i].*field = column[i];
  }
  const auto scored = in.values<uint8_t>();
  FLEXGEN_CHECK(scored.size() == workload.sample.size(), "{} of {} sequences", scored.size(), workload.sample.size());
  for (size_t i = 0; i < scored.size(); ++i) workload.sample[i].scored = scored[i] != 0;
}

}  // namespace

void command_stages(const StageLink& stages, StageCommand command, const Workload& workload) {
  MessageWriter message;
  message.add(static_cast<uint8_t>(command))
      .add(workload.num_sequences)
      .add(workload.longest_sequence)
      .add(workload.total_prompt_tokens)
      .add(workload.total_prefix_tokens)
      .add(workload.total_shared_tokens)
      .add(workload.total_max_tokens)
      .add(workload.total_generated_tokens)
      .add(workload.keeps_logits)
      .add(workload.scores_prompts)
      .add(workload.reads_logits);
  add_sample(message, workload);
  for (int stage = 1; stage < stages.num_stages(); ++stage) stages.port->send(stage, Channel::kControl, message.bytes()).wait();
}

std::pair<StageCommand, Workload> next_command(const StageLink& stages) {
  std::vector<std::byte> bytes;
  stages.port->receive(0, Channel::kControl, &bytes).wait();
  MessageReader in(bytes);
  std::pair<StageCommand, Workload> result;
  result.first = static_cast<StageCommand>(in.value<uint8_t>());
  Workload& workload = result.second;
  workload.num_sequences = in.value<int64_t>();
  workload.longest_sequence = in.value<int64_t>();
  workload.total_prompt_tokens = in.value<double>();
  workload.total_prefix_tokens = in.value<double>();
  workload.total_shared_tokens = in.value<double>();
  workload.total_max_tokens = in.value<double>();
  workload.total_generated_tokens = in.value<double>();
  workload.keeps_logits = in.value<bool>();
  workload.scores_prompts = in.value<bool>();
  workload.reads_logits = in.value<bool>();
  read_sample(in, workload);
  return result;
}

}  // namespace flexgen
