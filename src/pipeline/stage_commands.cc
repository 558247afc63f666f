#include "pipeline/stage_commands.h"

#include <iterator>
#include <vector>

#include "net/message.h"

namespace flexgen {
namespace {

void add_sample(MessageWriter& message, const Workload& workload) {
  message.add(workload.sample_stride).add(std::ssize(workload.sample));
  for (const SequenceLength& length : workload.sample)
    message.add(length.prompt).add(length.max_tokens).add(length.generated).add(length.scored).add(length.prefix).add(length.shared);
}

void read_sample(MessageReader& in, Workload& workload) {
  workload.sample_stride = in.value<int64_t>();
  for (auto left = in.value<int64_t>(); left > 0; --left) {
    SequenceLength& length = workload.sample.emplace_back();
    length.prompt = in.value<int32_t>();
    length.max_tokens = in.value<int32_t>();
    length.generated = in.value<int32_t>();
    length.scored = in.value<bool>();
    length.prefix = in.value<int32_t>();
    length.shared = in.value<int32_t>();
  }
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
