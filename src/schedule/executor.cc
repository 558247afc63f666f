#include "schedule/executor.h"

#include <algorithm>
#include <utility>

#include "model/scratch.h"
#include "schedule/expert_hits.h"
#include "schedule/pass_walk.h"

namespace flexgen {

Executor::Executor(const Model& model, const Policy& policy, Kernels& kernels, Lanes& lanes, Stores& stores, std::span<std::byte> scratch, Kernels* cpu_kernels)
    : model_(model), policy_(policy), kernels_(kernels), lanes_(lanes), stores_(stores), scratch_(scratch), cpu_kernels_(cpu_kernels),
      schedule_(static_cast<int64_t>(model.layers().size()), policy.num_micro_batches, policy.num_groups), choices_(model, policy.num_micro_batches),
      plans_(static_cast<size_t>(policy.num_micro_batches)), ahead_{plans_, schedule_.num_layers(), [this](const Visit& next) { return takes_place(next); }} {
  for (int64_t layer = 0; layer < schedule_.num_layers(); ++layer) weight_bytes_.push_back(model.weight_bytes(layer));
}

void Executor::run(StepSource& source, const std::atomic<bool>& stop) {
  std::exception_ptr error;
  try {
    for (int64_t step = 0; !stop.load(std::memory_order_relaxed) && !source.finished(); ++step) run_step(source, step);
  } catch (...) {
    error = std::current_exception();
    pending_.reset();
    source.failed(error);
  }
  for (const auto& [kind, lane] : lanes_.all()) {
    try {
      lane->drain();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

/// What walk_pass() drives: leases and lanes.
struct Executor::Pass {
  Executor& of;
  StepSource& source;
  std::shared_ptr<VisitLease> lease = nullptr;      ///< of the visit under way
  std::optional<Pending> held_back = std::nullopt;  ///< of it, too

  std::shared_ptr<BatchPlan>& plan_of(const Visit& visit) { return of.plans_[static_cast<size_t>(visit.batch)]; }

  bool plan(const Visit& visit) { return (plan_of(visit) = source.next(visit.step, visit.batch)) != nullptr; }
  bool is_planned(const Visit& visit) { return plan_of(visit) != nullptr; }
  void begin_pass(const Visit& visit) { of.begin_pass(visit); }
  bool chooses() { return of.choices_.chooses(); }
  bool knows_choices(const Visit& visit) { return of.choices_.knows(visit.layer); }
  void learn_choices(const Visit& visit) { of.learn_choices(visit); }
  bool is_chosen(const Visit& visit) { return of.choices_.is_wanted(visit.layer); }
  bool takes_place(const Visit& visit) { return of.takes_place(visit) == TakesPlace::kYes; }

  bool is_held_back() { return of.pending_.has_value(); }
  bool must_flush(const Visit& visit) { return of.pending_->lease->visit.batch == visit.batch || of.stores_.exchange->attention_count() < 2; }
  void flush() { of.flush(source); }
  void acquire(const Visit& visit) {
    of.run_ahead_.wait_for_room();
    lease = std::make_shared<VisitLease>(visit, plan_of(visit));
    lease->needed_later = of.is_needed_later(visit);
    // Only once every micro-batch is planned is it known whether one is alone.
    lease->alone = visit.group_size() == 1;
    for (Store* store : of.stores_.all) store->acquire(*lease);
  }
  void compute(const Visit& visit) {
    if (of.model_.layers()[static_cast<size_t>(visit.layer)].kind == LayerKind::kHead && of.policy_.on_gpu()) of.forward_head(lease);
    else of.forward_whole(lease);
  }
  void attend_beside(const Visit&) { held_back = of.forward_beside(lease); }
  void hold_back(const Visit&) { of.pending_ = std::exchange(held_back, std::nullopt); }
  void commit_attention(const Visit&) { of.commit(*lease, held_back ? held_back->attended : of.last_done_, true); }
  void finish(const Visit&) {
    if (!lease->needed_later) source.submitted(lease->plan);
  }
  void leave(const Visit& visit) { of.stores_.weights.leave(visit, of.last_done_); }
  void prefetch(const Visit& visit) {
    for (Store* store : of.stores_.loading) store->prefetch(visit, of.ahead_);
  }
};

void Executor::run_step(StepSource& source, int64_t step) {
  const int64_t num_layers = schedule_.num_layers(), begin = step * num_layers * schedule_.num_batches();
  const int64_t before = pass_;
  for (int64_t group = 0; group < schedule_.num_groups(); ++group) {
    Visit first = schedule_[begin + schedule_.group_first(group) * num_layers];
    first.pass = pass_;
    choices_.forget();
    Pass pass{*this, source};
    if (walk_pass(first, model_.layers(), policy_.attention_beside(), pass)) ++pass_;
  }
  if (pass_ > before) ++work_done_.steps;
}

void Executor::begin_pass(const Visit& visit) {
  int64_t rows = 0;
  for (int64_t batch = visit.group_first; batch < visit.group_end; ++batch)
    if (const auto& plan = plans_[static_cast<size_t>(batch)]) rows += plan->num_rows();
  choices_.begin_pass(policy_.chooses_experts(static_cast<double>(rows)));
  stores_.weights.begin_pass(visit.pass, choices_.chooses());
}

void Executor::learn_choices(const Visit& visit) {
  last_done_.wait();
  std::vector<int64_t> num_rows;
  for (int64_t batch = visit.group_first; batch < visit.group_end; ++batch) {
    const auto& plan = plans_[static_cast<size_t>(batch)];
    num_rows.push_back(plan ? plan->num_rows() : 0);
  }
  choices_.learn(visit.layer, visit.group_first, num_rows);
  stores_.weights.choose(visit.layer, choices_.rows_of_expert());
}

TakesPlace Executor::takes_place(const Visit& visit) const {
  const auto& plan = plans_[static_cast<size_t>(visit.batch)];
  const LayerKind kind = model_.layers()[static_cast<size_t>(visit.layer)].kind;
  if (!plan || (kind == LayerKind::kHead && plan->logit_rows.empty())) return TakesPlace::kNo;
  if (kind != LayerKind::kExperts || !choices_.chooses()) return TakesPlace::kYes;
  if (!choices_.knows(visit.layer)) return TakesPlace::kNotKnown;
  return choices_.is_wanted_by(visit.batch, visit.layer) ? TakesPlace::kYes : TakesPlace::kNo;
}

bool Executor::is_needed_later(Visit visit) const {
  // Where choices are not known yet, some unit of the block will be visited.
  while (++visit.layer < schedule_.num_layers())
    if (takes_place(visit) != TakesPlace::kNo) return true;
  return false;
}

Work Executor::work_of(VisitLease& lease) {
  const LayerKind kind = model_.layers()[static_cast<size_t>(lease.visit.layer)].kind;
  Work work;
  work.name = kind == LayerKind::kBlock     ? "block"
              : kind == LayerKind::kExperts ? "experts"
              : kind == LayerKind::kJoin    ? "join"
              : kind == LayerKind::kHead    ? "head"
                                            : "embed";
  work.step = lease.visit.step;
  work.layer = lease.visit.layer;
  work.batch = lease.visit.batch;
  work.after = std::move(lease.after);
  append(&work.after, lease.rows_after);
  if (!policy_.attention_beside()) append(&work.after, lease.attention_after);
  work.amount = amount_of(lease);
  return work;
}

void Executor::commit(VisitLease& lease, const Event& done, bool attention) {
  for (auto store = stores_.all.rbegin(); store != stores_.all.rend(); ++store)
    if ((*store)->is_for_attention() == attention) (*store)->commit(lease, done);
}

ComputeAmount Executor::amount_of(const VisitLease& lease) {
  const Visit& visit = lease.visit;
  const BatchPlan& plan = *lease.plan;
  const LayerSpec& layer = model_.layers()[static_cast<size_t>(visit.layer)];
  const bool is_head = layer.kind == LayerKind::kHead;
  const auto logit_rows = static_cast<int64_t>(plan.logit_rows.size());
  VisitWork work = model_.work(visit.layer, plan.num_rows(), lease.slots, logit_rows, stores_.cache.layout().dtype);
  double rows = product_rows(layer, static_cast<double>(is_head ? logit_rows : plan.num_rows()));
  double read_share = rows > 0 ? 1 : 0;
  if (layer.kind == LayerKind::kExperts) read_share = expert_hit_share(model_.config().mixture, static_cast<double>(plan.num_rows()));
  if (layer.kind == LayerKind::kExperts && choices_.chooses()) {  // not as expected, but as it is
    const ExpertChoices::Products products = choices_.products_of(visit.batch, visit.layer);
    work.linear_flops = layer.linear_flops_per_row / layer.row_share / static_cast<double>(layer.num_experts) * products.rows;
    rows = products.rows_each;
    read_share = products.rows / std::max(1.0, products.rows_each) / static_cast<double>(layer.num_experts);
  }
  work_done_.linear_flops += work.linear_flops;
  work_done_.attention_flops += work.attention_flops;
  work_done_.kv_read_bytes += work.kv_read_bytes;
  // What one micro-batch has read may be in a cache for the next.
  if (std::pair(visit.step, visit.layer) != read_) share_read_ = 0;
  read_ = {visit.step, visit.layer};
  work_done_.weight_read_bytes += std::max(0.0, read_share - share_read_) * weight_bytes_[static_cast<size_t>(visit.layer)];
  share_read_ = std::max(share_read_, read_share);
  if (policy_.attention_beside()) work_done_.beside_kv_read_bytes += work.kv_read_bytes;
  ++work_done_.visits;
  if (visit.layer == 0) work_done_.rows += plan.num_rows();
  return {work.linear_flops,
          rows,
          work.kv_read_bytes,
          work.decode_kv_bytes,
          work.decode_context,
          work.chunk_attention_flops,
          is_head ? static_cast<double>(layer.vocab_count * logit_rows) : 0};
}

void Executor::computed(VisitLease& lease, const Event& done) {
  last_done_ = lease.plan->done = done;
  run_ahead_.add(done, lease.table_bytes());
  commit(lease, done, false);
}

void Executor::copy_in(const VisitLease& lease) {
  const int64_t cols = model_.config().kept_row_floats(), bytes = cols * static_cast<int64_t>(sizeof(float));
  std::vector<const std::byte*> rows;
  for (int64_t at = 0; at < lease.copy_in_bytes; at += bytes) rows.push_back(lease.resident + at);
  if (!rows.empty()) kernels_.gather_rows(rows, DType::kF32, cols, false, lease.rows);
}

void Executor::copy_out(const VisitLease& lease) {
  const int64_t cols = model_.config().kept_row_floats(), bytes = cols * static_cast<int64_t>(sizeof(float));
  std::vector<const std::byte*> rows;
  for (int64_t at = 0; at < lease.copy_out_bytes; at += bytes) rows.push_back(reinterpret_cast<const std::byte*>(lease.rows) + at);
  if (!rows.empty()) kernels_.gather_rows(rows, DType::kF32, cols, false, reinterpret_cast<float*>(lease.resident));
}

void Executor::count_choices(const VisitLease& lease) {
  const Visit& visit = lease.visit;
  if ((policy_.max_choosing_rows == 0 && !counts_) || !model_.chooses_experts(visit.layer)) return;
  choices_.count(visit.batch, lease.choices);
  if (!counts_) return;
  const std::span<const int32_t> rows_of_expert = choices_.rows_of_expert(visit.batch);
  std::vector<int64_t>& all = (*counts_)[static_cast<size_t>(model_.layers()[static_cast<size_t>(visit.layer)].index)];
  for (size_t expert = 0; expert < rows_of_expert.size(); ++expert) all[expert] += rows_of_expert[expert];
}

void Executor::forward_whole(const std::shared_ptr<VisitLease>& lease) {
  Work work = work_of(*lease);
  work.run = [this, lease] {
    copy_in(*lease);
    model_.forward(lease->visit.layer, lease->weights, lease->input(), lease->geometry, lease->rows, scratch_.data(), kernels_, lease->plan->sink.get());
    count_choices(*lease);
    copy_out(*lease);
  };
  computed(*lease, lanes_.compute->submit(std::move(work)));
}

void Executor::forward_head(const std::shared_ptr<VisitLease>& lease) {
  Work work = work_of(*lease);
  const LayerSpec& layer = model_.layers()[static_cast<size_t>(lease->visit.layer)];
  const auto num_rows = static_cast<int64_t>(lease->plan->logit_rows.size());
  const ComputeAmount whole = work.amount;
  Event done, read;
  for (int64_t first = 0; first < num_rows; first += kLogitPanelRows) {
    const int64_t rows = std::min(kLogitPanelRows, num_rows - first);
    const double share = static_cast<double>(rows) / static_cast<double>(num_rows);
    const Exchange::Pair pair = stores_.exchange->start_logits();
    const bool largest_alone = lease->plan->sink->takes_largest(first, rows);
    Largest *const largest = stores_.exchange->largest_in(pair.device), *const host_largest = stores_.exchange->largest_in(pair.host);
    Work panel, copy, accept;
    for (Work* each : {&panel, &copy, &accept}) {
      each->name = "head";
      each->step = work.step;
      each->layer = work.layer;
      each->batch = work.batch;
    }
    panel.after = first == 0 ? std::move(work.after) : std::vector<Event>();
    panel.after.insert(panel.after.end(), pair.device_free.begin(), pair.device_free.end());
    panel.amount.flops = whole.flops * share;
    panel.amount.rows = static_cast<double>(rows);
    panel.run = [this, lease, first, rows, &layer, logits = reinterpret_cast<float*>(pair.device), largest, draws = lease->plan->sink->draws(first, rows)] {
      if (first == 0) copy_in(*lease);
      model_.forward_logits(lease->visit.layer, lease->weights, lease->input(), first, lease->rows, scratch_.data(), kernels_, logits);
      // Whether or not the logits go down, as whoever rounds otherwise might draw otherwise: neighbours must not change a token.
      kernels_.largest(logits, rows, layer.vocab_count, draws, layer.vocab_first, largest);
      if (first + kLogitPanelRows >= static_cast<int64_t>(lease->plan->logit_rows.size())) copy_out(*lease);
    };
    done = lanes_.compute->submit(std::move(panel));
    copy.after = pair.host_free;
    copy.after.push_back(done);
    copy.copies = {{reinterpret_cast<const std::byte*>(largest), reinterpret_cast<std::byte*>(host_largest), rows * static_cast<int64_t>(sizeof(Largest))}};
    if (!largest_alone) copy.copies.push_back({pair.device, pair.host, rows * layer.vocab_count * static_cast<int64_t>(sizeof(float))});
    copy.bytes = bytes_of(copy.copies);
    const Event copied = lanes_.d2h->submit(std::move(copy));
    accept.after = {copied};
    accept.amount.logits = largest_alone ? 0 : whole.logits * share;
    accept.run = [lease, first, rows, &layer, logits = largest_alone ? nullptr : reinterpret_cast<const float*>(pair.host), host_largest] {
      lease->plan->sink->accept(first, rows, layer.vocab_first, layer.vocab_count, logits, layer.vocab_count, host_largest);
    };
    read = lanes_.cpu->submit(std::move(accept));
    stores_.exchange->use_logits(pair, copied, read);
  }
  computed(*lease, done);
  lease->plan->done = read;  // the cpu lane is in order, and it waited for everything before it
}

Executor::Pending Executor::forward_beside(const std::shared_ptr<VisitLease>& lease) {
  Work work = work_of(*lease);
  const int64_t num_rows = lease->plan->num_rows(), block = model_.layers()[static_cast<size_t>(lease->visit.layer)].index;
  const HeadSizes heads = model_.config().heads_of(block);
  const Exchange::Pair pair = stores_.exchange->start_attention();
  const auto on_device = AttentionInputs::at(pair.device, heads, num_rows), on_host = AttentionInputs::at(pair.host, heads, num_rows);
  const int64_t input_bytes = AttentionInputs::bytes(heads, num_rows);
  std::byte* result = pair.host + input_bytes;
  const DType result_dtype = cpu_kernels_->act_dtype();
  const int64_t result_bytes = num_rows * row_bytes(result_dtype, heads.q_width());

  Work before, down, attend, up, after;
  for (Work* each : {&before, &down, &attend, &up, &after}) {
    each->name = "attention";
    each->step = work.step;
    each->layer = work.layer;
    each->batch = work.batch;
  }
  const ComputeAmount whole = work.amount;
  before.name = "block, up to attention";
  before.after = std::move(work.after);
  before.after.insert(before.after.end(), pair.device_free.begin(), pair.device_free.end());
  before.amount.rows = after.amount.rows = whole.rows;
  const double input_flops = whole.rows * model_.attention_input_flops_per_row(block);
  before.amount.flops = input_flops;
  before.run = [this, lease, on_device] {
    copy_in(*lease);
    model_.forward_before_attention(lease->visit.layer, lease->weights, lease->input(), lease->rows, scratch_.data(), kernels_, on_device);
  };
  down.after = pair.host_free;
  down.after.push_back(lanes_.compute->submit(std::move(before)));
  down.copies = {{pair.device, pair.host, input_bytes}};
  down.bytes = static_cast<double>(input_bytes);
  attend.after = std::move(lease->attention_after);
  attend.after.push_back(lanes_.d2h->submit(std::move(down)));
  attend.amount = whole;
  attend.amount.flops = 0;
  attend.run = [this, lease, on_host, result] { model_.attend(lease->visit.layer, lease->input(), lease->geometry, on_host, result, *cpu_kernels_); };
  const Event attended = lanes_.cpu->submit(std::move(attend));
  // Over q, which is not needed there any more.
  up.after = {attended};
  up.copies = {{result, pair.device, result_bytes}};
  up.bytes = static_cast<double>(result_bytes);
  const Event uploaded = lanes_.h2d_small->submit(std::move(up));

  after.name = "block, after attention";
  after.after = {uploaded};
  after.amount.flops = whole.flops - input_flops;
  after.run = [this, lease, attended_at = pair.device, result_dtype] {
    model_.forward_after_attention(lease->visit.layer, lease->weights, lease->input(), lease->rows, scratch_.data(), kernels_, attended_at, result_dtype);
    count_choices(*lease);
    copy_out(*lease);
  };
  return Pending{lease, pair, std::move(after), attended, uploaded};
}

void Executor::flush(StepSource& source) {
  if (!pending_) return;
  Pending pending = std::move(*pending_);
  pending_.reset();
  const Event done = lanes_.compute->submit(std::move(pending.work));
  computed(*pending.lease, done);
  stores_.exchange->use_attention(pending.pair, done, pending.uploaded);
  stores_.weights.leave(pending.lease->visit, done);
  if (!pending.lease->needed_later) source.submitted(pending.lease->plan);
}

}  // namespace flexgen
