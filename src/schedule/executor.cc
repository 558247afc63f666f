#include "schedule/executor.h"

#include <algorithm>
#include <cstring>

namespace flexgen {

Executor::Executor(const Model& model, const Policy& policy, Kernels& kernels, Lanes& lanes, WeightStore& weights,
                   CacheStore& cache, HiddenStore& hidden, std::span<std::byte> scratch)
    : model_(model),
      policy_(policy),
      kernels_(kernels),
      lanes_(lanes),
      weights_(weights),
      cache_(cache),
      hidden_(hidden),
      scratch_(scratch),
      schedule_(static_cast<int64_t>(model.layers().size()), policy.num_micro_batches, policy.num_groups),
      plans_(static_cast<size_t>(policy.num_micro_batches)) {}

void Executor::run(StepSource& source, const std::atomic<bool>& stop) {
  std::exception_ptr error;
  try {
    for (int64_t step = 0; !stop.load(std::memory_order_relaxed) && !source.finished(); ++step)
      run_step(source, step);
  } catch (...) {
    error = std::current_exception();
    source.failed(error);
  }
  for (Lane* lane : lanes_.all()) {
    try {
      lane->drain();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

void Executor::run_step(StepSource& source, int64_t step) {
  const int64_t num_layers = schedule_.num_layers(), begin = step * num_layers * schedule_.num_batches();
  const int64_t before = pass_;
  for (int64_t group = 0; group < schedule_.num_groups(); ++group)
    run_pass(source, begin + schedule_.group_first(group) * num_layers, begin + schedule_.group_end(group) * num_layers);
  if (pass_ > before) ++work_done_.steps;
}

void Executor::run_pass(StepSource& source, int64_t first_visit, int64_t end_visit) {
  const int64_t num_layers = schedule_.num_layers();
  int64_t active = 0;
  for (int64_t n = first_visit; n < end_visit; ++n) {
    Visit visit = schedule_[n];
    visit.pass = pass_;
    auto& plan = plans_[static_cast<size_t>(visit.batch)];
    if (visit.layer == 0) {
      plan = source.next(visit.step, visit.batch);
      if (plan) ++active;
    }
    if (visit.layer == 0 && active == 0) {
      if (visit.last_of_layer()) return;  // nobody has work: finished() is asked next
      continue;                           // nothing may be touched for a pass that may not take place
    }
    const LayerSpec& layer = model_.layers()[static_cast<size_t>(visit.layer)];
    if (plan && (layer.kind != LayerKind::kHead || !plan->logit_rows.empty())) {
      bool needed_later = visit.layer + 1 < num_layers &&
                          (!plan->logit_rows.empty() ||
                           model_.layers()[static_cast<size_t>(visit.layer + 1)].kind != LayerKind::kHead);
      // Only once every micro-batch is planned is it known whether one is alone.
      bool alone = visit.group_size() == 1;
      plan->done = last_done_ = forward(visit, plan, alone, needed_later);
      if (!needed_later) source.submitted(plan);
    }
    weights_.commit(visit, last_done_);
    cache_.prefetch(visit, plans_);
    weights_.prefetch(visit);
    hidden_.prefetch(visit, plans_, num_layers - 1);
  }
  ++pass_;
}

Event Executor::forward(const Visit& visit, const std::shared_ptr<BatchPlan>& plan, bool alone, bool needed_later) {
  const LayerSpec& layer = model_.layers()[static_cast<size_t>(visit.layer)];
  WeightLease weights = weights_.acquire(visit);
  CacheLease cache;
  if (layer.kind == LayerKind::kBlock) cache = cache_.acquire(visit, *plan);
  HiddenLease hidden = hidden_.acquire(visit, *plan, alone);

  Work work;
  work.name = layer.kind == LayerKind::kBlock ? "block" : layer.kind == LayerKind::kHead ? "head" : "embed";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  std::vector<const std::byte*> embed_rows;
  if (layer.kind == LayerKind::kEmbed) embed_rows = weights_.lookup(visit, plan->tokens, &work.after);
  for (const auto* events : {&weights.after, &cache.after, &hidden.after})
    work.after.insert(work.after.end(), events->begin(), events->end());

  VisitWork amount = model_.work(visit.layer, plan->num_rows(), cache.slots,
                                 static_cast<int64_t>(plan->logit_rows.size()), cache_.layout().geometry.dtype);
  work_done_.linear_flops += amount.linear_flops;
  work_done_.attention_flops += amount.attention_flops;
  work_done_.kv_read_bytes += amount.kv_read_bytes;
  work.amount = {amount.linear_flops, static_cast<double>(layer.kind == LayerKind::kHead ? static_cast<int64_t>(plan->logit_rows.size()) : plan->num_rows()),
                 amount.kv_read_bytes, amount.decode_kv_bytes, amount.decode_context, amount.chunk_attention_flops,
                 layer.kind == LayerKind::kHead ? static_cast<double>(layer.vocab_count) * static_cast<double>(plan->logit_rows.size()) : 0};
  ++work_done_.visits;
  if (visit.layer == 0) work_done_.rows += plan->num_rows();

  work.run = [this, visit, plan, weights = std::move(weights), cache = std::move(cache), hidden,
              embed_rows = std::move(embed_rows)] {
    std::byte* rows = reinterpret_cast<std::byte*>(hidden.rows);
    if (hidden.copy_in_bytes) std::memcpy(rows, hidden.resident, static_cast<size_t>(hidden.copy_in_bytes));
    VisitInput input;
    input.num_rows = plan->num_rows();
    input.positions = plan->positions;
    input.slots = cache.slots;
    input.embed_rows = embed_rows;
    input.logit_rows = plan->logit_rows;
    model_.forward(visit.layer, weights.views, input, cache_.layout().geometry, hidden.rows, scratch_.data(),
                   kernels_, plan->sink.get());
    if (hidden.copy_out_bytes) std::memcpy(hidden.resident, rows, static_cast<size_t>(hidden.copy_out_bytes));
  };
  Event done = lanes_.compute->submit(std::move(work));
  hidden_.commit(visit, *plan, alone, needed_later, done);
  if (layer.kind == LayerKind::kBlock) cache_.commit(visit, *plan, done);
  if (layer.kind == LayerKind::kEmbed) weights_.commit_lookup(visit.batch, done);
  return done;
}

}  // namespace flexgen
