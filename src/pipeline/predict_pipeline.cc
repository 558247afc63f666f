#include "pipeline/predict_pipeline.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "generation/list_source.h"
#include "schedule/prefix_ends.h"
#include "schedule/weight_layout.h"

namespace flexgen {
namespace {

/// So many times the visits are simulated where fewer sequences than two a slot would be left otherwise.
constexpr double kPatience = 5;

/// A job, or a part of one.
struct Part {
  explicit Part(bool reads_logits) : reads_logits(reads_logits) {}
  const bool reads_logits;
  std::vector<Request> requests;
  std::vector<int64_t> shares;  ///< a request: tokens in common with the one before it
  std::vector<int32_t> last_prefix;
  double rows = 0, generated = 0;
  void add(const SequenceLength& length, int64_t generated_tokens) {
    Request& request = requests.emplace_back();
    // Tokens that mean nothing, but for which of them are those of the sequence before.
    request.prompt.assign(static_cast<size_t>(length.prompt), 0);
    request.shared_tokens = length.prefix;
    const auto shared = std::min<size_t>(static_cast<size_t>(length.shared), last_prefix.size());
    last_prefix.resize(shared);
    shares.push_back(static_cast<int64_t>(shared));
    for (auto at = static_cast<int32_t>(shared); at < length.prefix; ++at) last_prefix.push_back(static_cast<int32_t>(requests.size() >> (7 * (at % 4)) & 127));
    std::copy(last_prefix.begin(), last_prefix.end(), request.prompt.begin());
    // Pages are taken for max_tokens; where only the first tokens of answers are simulated, for as many fewer.
    request.params.max_tokens = generated_tokens + length.max_tokens - length.generated;
    request.ends_after = generated_tokens;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    request.params.echo = length.scored;
    if (length.scored || reads_logits) request.params.top_logprobs = 0;
    rows += length.prompt - length.shared + static_cast<double>(generated_tokens);
    generated += static_cast<double>(generated_tokens);
  }
  std::vector<Request> with_ends() && {
    LaterEnds ends(std::ssize(requests), [this](int64_t place) { return shares[static_cast<size_t>(place)]; });
    for (int64_t i = 0; Request & request : requests) request.shared_ends = ends.of(i++, request.shared_tokens);
    return std::move(requests);
  }
};

/// Roughly: as many as full rows need, or as many as every slot needs for its sequences one after the other.
double steps_of(const Policy& policy, double sequences, double rows, double generated) {
  const double waves = std::max(1.0, sequences / static_cast<double>(policy.block_size()));
  return std::max(rows / static_cast<double>(policy.max_rows * policy.num_micro_batches), waves * (generated / std::max(1.0, sequences) + 1));
}

Prediction simulated(std::span<const SimulatedRank> ranks, const std::vector<LinkSpeed>& links, DType kv, std::vector<Request> requests) {
  ListSource source(std::move(requests));
  const PipelineReport report = simulate_pipeline(ranks, links, kv, source);
  Prediction prediction;
  prediction.time_s = report.whole.elapsed_s;
  const WeightSums weights = WeightSums::of(*ranks.front().model, ranks.front().policy);
  prediction.loaded_bytes = static_cast<double>(weights.resident_bytes + weights.host_bytes);
  prediction.steps = static_cast<double>(report.whole.work.steps);
  for (size_t kind = 0; kind < kNumPlannedLanes; ++kind)
    for (const LaneReport& lane : report.ranks.front().lanes) {
      if (lane.kind != static_cast<LaneKind>(kind)) continue;
      prediction.busy.seconds[kind] = lane.stats.busy_s;
      if (static_cast<LaneKind>(kind) == LaneKind::kDiskRead) prediction.disk_read_bytes = lane.stats.bytes;
      if (static_cast<LaneKind>(kind) == LaneKind::kDiskWrite) prediction.disk_write_bytes = lane.stats.bytes;
    }
  return prediction;
}

}  // namespace

Prediction predict_pipeline(std::span<const SimulatedRank> ranks, const std::vector<LinkSpeed>& links, DType kv, const Workload& job, double most_visits) {
  const Policy& policy = ranks.front().policy;
  std::optional<Workload> whole_prompts;
  if (policy.prefix_pages == 0 && job.total_prefix_tokens > 0) whole_prompts = job.without_sharing();
  const Workload& workload = whole_prompts ? *whole_prompts : job;
  double layers = 0;
  for (const SimulatedRank& rank : ranks) layers += static_cast<double>(rank.model->layers().size());
  const double visits_a_step = layers * static_cast<double>(policy.num_micro_batches);
  const double all_steps = steps_of(policy, static_cast<double>(workload.num_sequences), workload.computed_prompt_tokens() + workload.total_generated_tokens,
                                    workload.total_generated_tokens);
  const std::vector<SequenceLength>& lengths = workload.sample;
  if (workload.sample_stride == 1 && all_steps * visits_a_step <= most_visits) {
    Part whole(workload.reads_logits);
    // A replica answers some of them; those that share stay together.
    for (const SequenceLength& length : std::span(lengths).first(std::min(lengths.size(), static_cast<size_t>(workload.num_sequences))))
      whole.add(length, length.generated);
    Prediction prediction = simulated(ranks, links, kv, std::move(whole).with_ends());
    prediction.generated_tokens = workload.total_generated_tokens;
    return prediction;
  }
  const auto known = static_cast<double>(lengths.size()), slots = static_cast<double>(policy.block_size());
  const double share = std::min(most_visits / (all_steps * visits_a_step), 0.5);
  const double count = std::clamp(std::ceil(static_cast<double>(workload.num_sequences) * share), std::min(known, 2 * slots), known);
  const double count_steps = steps_of(policy, count, count * (workload.mean_computed_prompt() + workload.mean_generated()), count * workload.mean_generated());
  const double shorter = std::min(1.0, kPatience * most_visits / (count_steps * visits_a_step));
  // Evenly spread sequences, or the first tokens of all.
  auto part_of = [&](double sequences, double tokens) {
    Part part(workload.reads_logits);
    for (double i = 0; i < sequences; ++i) {
      const SequenceLength& length = lengths[workload.total_shared_tokens > 0 ? drawn_place(i, sequences, known) : static_cast<size_t>(i * known / sequences)];
      part.add(length, std::min<int64_t>(length.generated, static_cast<int64_t>(std::ceil(tokens * length.generated))));
    }
    return part;
  };
  Part larger = part_of(count, shorter), smaller = shorter < 1 ? part_of(count, shorter / 2) : part_of(std::ceil(count / 2), 1);
  const double steps[2] = {steps_of(policy, static_cast<double>(larger.requests.size()), larger.rows, larger.generated),
                           steps_of(policy, static_cast<double>(smaller.requests.size()), smaller.rows, smaller.generated)};
  const Prediction of[2] = {simulated(ranks, links, kv, std::move(larger).with_ends()), simulated(ranks, links, kv, std::move(smaller).with_ends())};
  const double times = steps[0] > steps[1] ? std::max(0.0, all_steps - steps[0]) / (steps[0] - steps[1]) : 0;
  auto go_on = [&](double& value, double half) { value += times * std::max(0.0, value - half); };
  Prediction prediction = of[0];
  prediction.generated_tokens = workload.total_generated_tokens;
  go_on(prediction.time_s, of[1].time_s);
  go_on(prediction.steps, of[1].steps);
  go_on(prediction.disk_read_bytes, of[1].disk_read_bytes);
  go_on(prediction.disk_write_bytes, of[1].disk_write_bytes);
  for (size_t kind = 0; kind < kNumPlannedLanes; ++kind) go_on(prediction.busy.seconds[kind], of[1].busy.seconds[kind]);
  return prediction;
}

}  // namespace flexgen
