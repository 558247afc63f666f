#include "pipeline/stage_plan.h"

#include <algorithm>
#include <ctime>
#include <optional>

#include "base/error.h"
#include "base/units.h"
#include "net/message.h"
#include "pipeline/predict_pipeline.h"
#include "pipeline/stage_split.h"
#include "plan/expert_loading.h"
#include "plan/placed_kinds.h"
#include "plan/policy_sizes.h"
#include "schedule/weight_layout.h"

namespace flexgen {
namespace {

/// Another block than the first rule's must be faster by so much: predictions are no better.
constexpr double kWorthwhile = 0.99;

/// Every stage does `work` or none goes on: Error{user} on all of them, with the text of the first that could not.
template <typename Work>
void all_or_none(Port& port, Work work) {
  std::string error;
  try {
    work();
  } catch (const Error& exception) {
    error = exception.what();
    if (error.empty()) error = "failed";
  }
  const std::vector<std::string> errors = all_gather(port, error);
  for (int rank = 0; rank < port.size(); ++rank)
    if (!errors[static_cast<size_t>(rank)].empty()) fail_user("{}: {}", port.describe(rank), errors[static_cast<size_t>(rank)]);
}

void write(MessageWriter& out, const BlockShape& shape) {
  out.add(shape.micro_batch_size)
      .add(shape.num_micro_batches)
      .add(shape.max_rows)
      .add(shape.max_logit_rows)
      .add(shape.pages_per_micro_batch)
      .add(shape.num_groups)
      .add(shape.prefix_pages)
      .add(shape.prefix_ends);
}

BlockShape read_block(MessageReader& in) {
  BlockShape shape;
  for (int64_t* field : {&shape.micro_batch_size, &shape.num_micro_batches, &shape.max_rows, &shape.max_logit_rows, &shape.pages_per_micro_batch,
                         &shape.num_groups, &shape.prefix_pages, &shape.prefix_ends})
    *field = in.value<int64_t>();
  return shape;
}

void write(MessageWriter& out, const Policy& policy) {
  write(out, policy.block());
  out.add(policy.max_choosing_rows)
      .add(policy.hottest_first)
      .add(static_cast<int64_t>(policy.buffers))
      .add(static_cast<int64_t>(policy.weight_buffers))
      .add(static_cast<uint8_t>(policy.compute_tier))
      .add(static_cast<uint8_t>(policy.attention_tier));
  for (const PlacedKind& kind : kPlacedKinds) {
    const Fractions& shares = policy.*kind.shares;
    out.add(shares.gpu).add(shares.cpu).add(shares.disk);
  }
}

Policy read_policy(MessageReader& in) {
  Policy policy;
  policy.set_block(read_block(in));
  policy.max_choosing_rows = in.value<int64_t>();
  policy.hottest_first = in.value<bool>();
  policy.buffers = static_cast<int>(in.value<int64_t>());
  policy.weight_buffers = static_cast<int>(in.value<int64_t>());
  policy.compute_tier = static_cast<Tier>(in.value<uint8_t>());
  policy.attention_tier = static_cast<Tier>(in.value<uint8_t>());
  for (const PlacedKind& kind : kPlacedKinds) {
    Fractions& shares = policy.*kind.shares;
    for (double* part : {&shares.gpu, &shares.cpu, &shares.disk}) *part = in.value<double>();
  }
  return policy;
}

class StagePlanner {
 public:
  explicit StagePlanner(const StagePlanInput& input) : in_(input), port_(*input.link.port) {}

  Plan run() {
    const clock_t begin = std::clock();
    std::vector<BlockShape> shapes{agreed()};
    // The first stage knows the lengths, so it says which blocks are tried.
    if (in_.search) shapes = told(block_candidates(in_.model, in_.workload, in_.precision.kv, in_.request, shapes.front(), in_.link.num_stages()));
    std::vector<std::optional<Policy>> own;
    for (const BlockShape& shape : shapes) own.push_back(placed(shape, own.empty()));
    MessageWriter message;
    message.add(to_json(in_.hardware)).add(in_.model.blocks_before()).add(in_.model.num_blocks());
    for (const auto& policy : own) {
      message.add(policy.has_value());
      if (policy) write(message, *policy);
    }
    const std::vector<std::string> all = all_gather(port_, message.text());
    size_t best = 0;
    if (in_.link.is_first()) best = judged(all, shapes.size());
    MessageWriter choice;
    choice.add(static_cast<int64_t>(best));
    const std::string chosen = all_gather(port_, choice.text()).front();
    plan_.policy = *own[static_cast<size_t>(MessageReader(chosen).value<int64_t>())];
    plan_.planning_s = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    return std::move(plan_);
  }

 private:
  /// The first rule's block of the stage that can do the least.
  BlockShape agreed() {
    PolicyRequest request = in_.request;
    request.num_stages = in_.link.num_stages();
    Policy policy;
    all_or_none(port_, [&] { policy = choose_policy(in_.model, in_.workload, in_.budgets, request, in_.precision.kv); });
    BlockShape wish = policy.block();
    // Where nothing streams, a group more costs nothing, and the ranks wait less for each other.
    if (WeightSums::of(in_.model, policy).num_streamed_layers == 0) wish.num_groups = policy.num_micro_batches;
    MessageWriter own;
    write(own, wish);
    std::vector<BlockShape> wishes;
    for (const std::string& text : all_gather(port_, own.text())) {
      MessageReader in(text);
      wishes.push_back(read_block(in));
    }
    const BlockShape agreed = agreed_block(wishes);
    return all_can(agreed) ? agreed : smallest_block(wishes);
  }

  bool all_can(const BlockShape& shape) {
    MessageWriter own;
    own.add(placed(shape, false).has_value());
    const std::vector<std::string> all = all_gather(port_, own.text());
    return std::all_of(all.begin(), all.end(), [](const std::string& text) { return MessageReader(text).value<bool>(); });
  }

  /// The first stage's list, on all.
  std::vector<BlockShape> told(const std::vector<BlockShape>& shapes) {
    MessageWriter message;
    message.add(static_cast<int64_t>(shapes.size()));
    for (const BlockShape& shape : shapes) write(message, shape);
    const std::string first = all_gather(port_, message.text()).front();
    MessageReader in(first);
    std::vector<BlockShape> result;
    for (auto count = in.value<int64_t>(); count > 0; --count) result.push_back(read_block(in));
    return result;
  }

  /// This stage's placement of a block. All must be able to do the agreed one; of the others, nothing if this stage cannot.
  std::optional<Policy> placed(const BlockShape& shape, bool agreed) {
    PolicyRequest request = in_.request;
    request.num_stages = in_.link.num_stages();
    request.block = shape;
    std::optional<Policy> policy;
    auto choose = [&] {
      policy = choose_policy(in_.model, in_.workload, in_.budgets, request, in_.precision.kv);
      if (!in_.search || request.max_choosing_rows) return;
      // Where the rule loads all experts, there may be no room for the checksums of those that are not chosen.
      if (policy->max_choosing_rows > 0) policy->max_choosing_rows = choosing_rows(in_.model, in_.hardware, in_.precision, *policy);
    };
    if (agreed) {
      all_or_none(port_, choose);
      return policy;
    }
    try {
      choose();
    } catch (const Error&) {  // it does not fit
    }
    return policy;
  }

  /// Which block is the fastest; the plan gets its prediction. First stage.
  size_t judged(const std::vector<std::string>& all, size_t num_shapes) {
    std::vector<std::unique_ptr<Model>> models;
    std::vector<HardwareProfile> profiles;
    std::vector<std::vector<std::optional<Policy>>> policies(num_shapes);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      MessageReader in(all[rank]);
      profiles.push_back(profile_from_json(in.text(), port_.describe(static_cast<int>(rank))));
      const auto first = in.value<int64_t>(), count = in.value<int64_t>();
      models.push_back(std::make_unique<Model>(in_.whole));
      models.back()->keep_blocks(first, count);
      for (auto& of_shape : policies) of_shape.push_back(in.value<bool>() ? std::optional(read_policy(in)) : std::nullopt);
    }
    size_t best = 0;
    for (size_t shape = 0; shape < num_shapes; ++shape) {
      if (std::any_of(policies[shape].begin(), policies[shape].end(), [](const auto& policy) { return !policy; })) {
        ++plan_.num_too_large;
        continue;
      }
      std::vector<SimulatedRank> ranks;
      for (size_t rank = 0; rank < all.size(); ++rank) ranks.push_back({models[rank].get(), *policies[shape][rank], {}, &profiles[rank], in_.precision});
      const Prediction prediction = predict_pipeline(ranks, in_.links, in_.precision.kv, in_.workload);
      plan_.candidates.push_back({ranks.front().policy, prediction.time_s});
      if (shape > 0 && prediction.time_s >= kWorthwhile * plan_.prediction.time_s) continue;
      plan_.prediction = prediction;
      best = shape;
    }
    return best;
  }

  const StagePlanInput& in_;
  Port& port_;
  Plan plan_;
};

}  // namespace

std::vector<BlockShape> block_candidates(const Model& model, const Workload& workload, DType kv, const PolicyRequest& request, const BlockShape& agreed,
                                         int64_t num_stages) {
  const int64_t slots = agreed.micro_batch_size * agreed.num_micro_batches, rows = agreed.max_rows * agreed.num_micro_batches;
  std::vector<int64_t> counts{agreed.num_micro_batches};
  if (!request.num_micro_batches)
    for (int64_t times : {1, 2, 3, 4}) counts.push_back(times * num_stages);
  std::vector<BlockShape> shapes{agreed};
  const auto add = [&](BlockShape shape, int64_t count) {
    for (int64_t groups : {num_stages, count}) {
      shape.num_groups = groups;
      if (std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(shape);
    }
  };
  // A block without prefixes may have been agreed on because one stage had no room for another: those with them are tried too.
  std::vector<Workload> sized;
  if (agreed.prefix_pages == 0) sized.push_back(workload.without_sharing());
  if (agreed.prefix_pages > 0 || workload.total_shared_tokens > 0) sized.push_back(workload);
  for (int64_t count : counts) {
    if (count == agreed.num_micro_batches) {
      add(agreed, count);
      continue;
    }
    const int64_t size = request.micro_batch_size.value_or(std::max<int64_t>(1, ceil_div(slots, count)));
    // Micro-batches that never have a sequence.
    if (count > num_stages && (count - 1) * size >= workload.num_sequences) continue;
    const int64_t most_rows = request.max_rows.value_or(std::max(round_up(ceil_div(rows, count), 16), round_up(size, 16)));
    for (const Workload& of : sized) add(policy_of_sizes(model, of, kv, size, count, 1, most_rows).block(), count);
  }
  return shapes;
}

Plan plan_stages(const StagePlanInput& input) { return StagePlanner(input).run(); }

}  // namespace flexgen
