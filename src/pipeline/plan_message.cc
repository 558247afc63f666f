#include "pipeline/plan_message.h"

#include "base/error.h"

namespace flexgen {

std::vector<std::byte> encode(const PlanMessage& message) {
  MessageWriter out;
  out.add(static_cast<uint8_t>(message.kind));
  if (message.kind != PlanMessage::Kind::kPlan) return out.take();
  const BatchPlan& plan = *message.plan;
  out.add(plan.step).add(plan.batch).add(plan.tokens).add(plan.positions).add(plan.logit_rows);
  out.add(static_cast<int64_t>(plan.slots.size()));
  for (const SlotRows& slot : plan.slots) {
    out.add(slot.first_row).add(slot.num_rows).add(slot.past).add(slot.dense_until).add(static_cast<int64_t>(slot.pages.size()));
    for (const SlotPages& pages : slot.pages) out.add(pages.first).add(pages.ids);
  }
  FLEXGEN_CHECK(message.wanted.size() == plan.logit_rows.size());
  // What a LogitReader asks of a row's parameters, and no more.
  for (const LogitReader::Row& row : message.wanted) {
    out.add(row.slot)
        .add(row.position)
        .add(row.target)
        .add(row.params.temperature)
        .add(row.params.top_p)
        .add(row.params.top_k)
        .add(row.params.min_p)
        .add(row.params.seed)
        .add(row.params.top_logprobs)
        .add(row.edited)
        .add(static_cast<int64_t>(row.edits.size()));
    out.add(row.logprob_ids).add(row.mask.valid() ? row.mask.get() : TokenMask());
    for (const LogitEdit& edit : row.edits) out.add(edit.token).add(edit.bias).add(edit.repetition).add(edit.penalty);
  }
  return out.take();
}

PlanMessage decode_plan(std::span<const std::byte> bytes) {
  MessageReader in(bytes);
  PlanMessage message;
  message.kind = static_cast<PlanMessage::Kind>(in.value<uint8_t>());
  if (message.kind != PlanMessage::Kind::kPlan) return message;
  message.plan = std::make_shared<BatchPlan>();
  BatchPlan& plan = *message.plan;
  plan.step = in.value<int64_t>();
  plan.batch = in.value<int64_t>();
  plan.tokens = in.values<int32_t>();
  plan.positions = in.values<int32_t>();
  plan.logit_rows = in.values<int32_t>();
  for (auto count = in.value<int64_t>(); count > 0; --count) {
    SlotRows& slot = plan.slots.emplace_back();
    for (int64_t* field : {&slot.first_row, &slot.num_rows, &slot.past, &slot.dense_until}) *field = in.value<int64_t>();
    for (auto states = in.value<int64_t>(); states > 0; --states) {
      const auto first = in.value<int64_t>();
      slot.pages.push_back({first, in.values<int32_t>()});
    }
  }
  for (size_t i = 0; i < plan.logit_rows.size(); ++i) {
    LogitReader::Row& row = message.wanted.emplace_back();
    row.slot = in.value<int32_t>();
    row.position = in.value<int64_t>();
    row.target = in.value<int32_t>();
    row.params.temperature = in.value<double>();
    row.params.top_p = in.value<double>();
    row.params.top_k = in.value<int64_t>();
    row.params.min_p = in.value<double>();
    row.params.seed = in.value<uint64_t>();
    row.params.top_logprobs = in.value<int64_t>();
    row.edited = in.value<bool>();
    const auto num_edits = in.value<int64_t>();
    row.logprob_ids = in.values<int32_t>();
    if (TokenMask mask = in.values<uint32_t>(); !mask.empty()) {
      std::promise<TokenMask> known;
      known.set_value(std::move(mask));
      row.mask = known.get_future().share();
    }
    for (int64_t edits = num_edits; edits > 0; --edits) {
      LogitEdit& edit = row.edits.emplace_back();
      edit.token = in.value<int32_t>();
      edit.bias = in.value<float>();
      edit.repetition = in.value<float>();
      edit.penalty = in.value<float>();
    }
  }
  return message;
}

std::vector<std::byte> encode(const std::vector<TokenLogprob>& results) {
  MessageWriter out;
  out.add(static_cast<int64_t>(results.size()));
  for (const TokenLogprob& result : results) {
    out.add(result.token).add(result.logprob).add(result.not_finite).add(result.none_left).add(static_cast<int64_t>(result.top.size()));
    for (auto [token, logprob] : result.top) out.add(token).add(logprob);
  }
  return out.take();
}

std::vector<TokenLogprob> decode_results(std::span<const std::byte> bytes) {
  MessageReader in(bytes);
  std::vector<TokenLogprob> results;
  for (auto count = in.value<int64_t>(); count > 0; --count) {
    TokenLogprob& result = results.emplace_back();
    result.token = in.value<int32_t>();
    result.logprob = in.value<float>();
    result.not_finite = in.value<int32_t>();
    result.none_left = in.value<bool>();
    for (auto top = in.value<int64_t>(); top > 0; --top) {
      const auto token = in.value<int32_t>();
      result.top.emplace_back(token, in.value<float>());
    }
  }
  return results;
}

}  // namespace flexgen
