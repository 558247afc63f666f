#include "generation/batcher.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>

#include "base/error.h"
#include "base/units.h"
#include "generation/shared_prefixes.h"

namespace flexgen {
namespace {

/// Of an open source: for so long a micro-batch's start waits for grammars, as most are compiled sooner.
constexpr std::chrono::milliseconds kGrammarPatience{20}, kGrammarPoll{10};
/// Of those that give way, so many wait for their grammars beside what goes on; of others as many as the source gives, or they would hold up those behind them that need not wait.
constexpr int64_t kMostGivingWay = 256;

std::vector<PrefixPages::OfWindow> windows_of(const CacheLayout& cache) {
  std::vector<PrefixPages::OfWindow> windows;
  for (const CacheLayout::Group& group : cache.groups)
    if (group.keeps_ends) windows.push_back({group.state, {group.prefix.begin(), group.prefix.end()}});
  return windows;
}

}  // namespace

Batcher::Batcher(const Model& model, const Policy& policy, const CacheLayout& cache, const Tokenizer* tokenizer, std::span<float> logit_store,
                 RequestSource& source, CompletionSink& sink)
    : model_(model), policy_(policy), cache_(cache), tokenizer_(tokenizer), source_(source), sink_(sink),
      prefixes_({cache.prefix_shares.begin(), cache.prefix_shares.end()}, cache.tokens_per_page, windows_of(cache)), row_limit_(policy.max_rows),
      slot_limit_(policy.micro_batch_size) {
  for (int64_t windows = 0; const CacheLayout::Group& group : cache.groups) window_of_.push_back(group.keeps_ends ? windows++ : -1);
  size_t share = logit_store.size() / static_cast<size_t>(policy.num_micro_batches);
  for (int64_t i = 0; i < policy.num_micro_batches; ++i) {
    MicroBatch batch{std::vector<Slot>(static_cast<size_t>(policy.micro_batch_size)),
                     {},
                     cache.pages_per_micro_batch,
                     logit_store.subspan(static_cast<size_t>(i) * share, share),
                     nullptr,
                     {},
                     nullptr};
    for (const CacheLayout::Group& group : cache.groups) batch.pools.emplace_back(std::vector<int64_t>(group.own.begin(), group.own.end()));
    batches_.push_back(std::move(batch));
  }
}

void Batcher::set_limits(int64_t max_rows, int64_t max_slots) {
  row_limit_ = std::clamp<int64_t>(max_rows, 1, policy_.max_rows);
  slot_limit_ = std::clamp<int64_t>(max_slots, 1, policy_.micro_batch_size);
}

std::optional<double> Batcher::answer_share() const {
  const int64_t most = counters_.answer_max_tokens;
  if (counters_.sequences < std::max(kEnoughAnswers, policy_.block_size()) || most == 0) return std::nullopt;
  return std::min(1.0, static_cast<double>(counters_.answer_tokens) / static_cast<double>(most));
}

bool Batcher::idle() const {
  if (active_ > 0 || waiting_ || aside_.size() + aside_giving_way_.size() > 0 || source_.remaining() > 0) return false;
  return std::all_of(batches_.begin(), batches_.end(), [](const MicroBatch& batch) { return !batch.plan; });
}

bool Batcher::finished() {
  if (!idle()) return false;
  if (!source_.is_open()) return idle();  // what came in the meantime is the last
  source_.wait();
  return idle() && !source_.is_open();
}

void Batcher::settle() {
  for (MicroBatch& batch : batches_)
    if (batch.plan && batch.plan->done.done() && !batch.plan->done.error()) take_results(batch);
}

std::shared_ptr<BatchPlan> Batcher::next(int64_t step, int64_t batch_index) {
  MicroBatch& batch = batches_[static_cast<size_t>(batch_index)];
  if (batch.plan) {
    batch.plan->done.wait();
    take_results(batch);
  }
  drop_cancelled(batch);
  refill(batch);

  auto plan = std::make_shared<BatchPlan>();
  plan->step = step;
  plan->batch = batch_index;
  std::vector<LogitReader::Row> wanted;
  batch.planned_slots.clear();
  std::vector<Slot*> oldest_first;
  list_oldest_first(std::span(batch.slots), &oldest_first);
  deal_rows(
      oldest_first, row_limit_, policy_.max_logit_rows, [&](const Slot& slot) { return can_read_prefix(slot, step, batch_index); },
      [&](Slot& slot, const SlotProgress& progress, int64_t num_rows) {
        const auto index = static_cast<int32_t>(&slot - batch.slots.data());
        SlotRows rows{plan->num_rows(), num_rows, slot.past, {}, slot.request.sparse_prompt ? 0 : slot.prompt_size()};
        for (int64_t at = slot.past; at < slot.past + num_rows; ++at) {
          if (progress.samples_at(at) || progress.scores_at(at)) {
            plan->logit_rows.push_back(static_cast<int32_t>(plan->num_rows()));
            wanted.push_back(logit_row(slot, index, at, progress.scores_at(at)));
          }
          plan->tokens.push_back(slot.tokens[static_cast<size_t>(at)]);
          plan->positions.push_back(static_cast<int32_t>(at));
        }
        rows.pages = pages_of(batch, slot, num_rows);
        share_filled(slot, num_rows, step, batch_index);
        plan->slots.push_back(std::move(rows));
        batch.planned_slots.push_back(index);
      });
  if (plan->num_rows() == 0) return nullptr;
  if (!wanted.empty()) {
    const bool head_here = model_.layers().back().kind == LayerKind::kHead;
    batch.reader = head_here ? std::make_shared<LogitReader>(std::move(wanted), model_.config().vocab_size, batch.logit_store)
                             : std::make_shared<LogitReader>(std::move(wanted));
    plan->sink = batch.reader;
  }
  batch.plan = plan;
  return plan;
}

LogitReader::Row Batcher::logit_row(Slot& slot, int32_t index, int64_t at, bool scored) {
  const SamplingParams& params = slot.request.params;
  LogitReader::Row row{index, at + 1, scored ? slot.tokens[static_cast<size_t>(at + 1)] : -1, params, params.edits_logits() || params.grammar, {}, {}, {}};
  if (scored) {
    row.params.top_logprobs = params.top_prompt_logprobs();
    return row;
  }
  row.logprob_ids = params.logprob_token_ids;
  if (slot.follower) row.mask = masks_->next(slot.follower, {slot.tokens.begin() + slot.prompt_size(), slot.tokens.end()});
  if (params.edits_logits()) row.edits = slot.edits.next(std::span(slot.tokens).subspan(slot.request.prompt.size()));
  return row;
}

void Batcher::take_results(MicroBatch& batch) {
  std::shared_ptr<BatchPlan> plan = std::exchange(batch.plan, nullptr);
  for (size_t i = 0; i < plan->slots.size(); ++i) {
    Slot& slot = batch.slots[static_cast<size_t>(batch.planned_slots[i])];
    int64_t prompt_rows = std::min(slot.past + plan->slots[i].num_rows, slot.prompt_size()) - std::min(slot.past, slot.prompt_size());
    counters_.prompt_tokens += prompt_rows;
    slot.past += plan->slots[i].num_rows;
    for (size_t state = 0; state < slot.own.size(); ++state) slot.own[state].pass(slot.past, batch.pools[state]);
  }
  if (batch.reader) {
    for (size_t i = 0; i < batch.reader->rows().size(); ++i) {
      const LogitReader::Row& row = batch.reader->rows()[i];
      Slot& slot = batch.slots[static_cast<size_t>(row.slot)];
      if (!slot.active) continue;  // ended by an earlier row
      const TokenLogprob& result = batch.reader->results()[i];
      if (result.not_finite >= 0 || result.none_left) {
        slot.completion.prompt_tokens = slot.prompt_size();
        slot.completion.failed_position = row.position;
        slot.completion.not_finite_entry = result.not_finite;
        if (slot.follower && result.none_left) slot.completion.grammar_failure = slot.follower->failure;
        finish(batch, slot, result.none_left ? FinishReason::kDeadEnd : FinishReason::kNotFinite);
        continue;
      }
      if (row.target >= 0) slot.completion.prompt_logprobs.push_back(result);
      else take_token(batch, slot, result);
    }
    batch.reader.reset();
  }
  for (Slot& slot : batch.slots)
    if (slot.active && slot.request.params.max_tokens == 0 && slot.past == slot.size()) finish(batch, slot, FinishReason::kLength);
}

void Batcher::take_token(MicroBatch& batch, Slot& slot, const TokenLogprob& result) {
  const SamplingParams& params = slot.request.params;
  Completion& completion = slot.completion;
  slot.tokens.push_back(result.token);
  completion.tokens.push_back(result.token);
  ++counters_.generated_tokens;
  if (params.top_logprobs >= 0) completion.logprobs.push_back(result);

  const auto holds = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), result.token) != ids.end(); };
  const bool eos = !params.ignore_eos && holds(model_.config().eos), stops = eos || holds(params.stop_token_ids);
  const bool string_found = slot.text && (stops ? slot.text->add_last(result.token) : slot.text->add(result.token));
  if (stops || string_found) {
    if (string_found) completion.stop_string = slot.text->found();
    else if (!eos) completion.stop_token = result.token;
    finish(batch, slot, FinishReason::kStop);
    return;
  }
  const auto generated = static_cast<int64_t>(completion.tokens.size());
  if (slot.request.ends_after > 0 && generated >= slot.request.ends_after) finish(batch, slot, FinishReason::kStop);
  else if (generated >= params.max_tokens) finish(batch, slot, FinishReason::kLength);
  else if (slot.text && sink_.follows_text()) sink_.follow(completion, slot.text->settled());
}

void Batcher::finish(MicroBatch& batch, Slot& slot, FinishReason reason) {
  if (slot.text) slot.completion.text = slot.text->take();
  slot.completion.reason = reason;
  slot.active = false;
  --active_;
  if (reason != FinishReason::kCancelled) {
    ++counters_.sequences;
    counters_.answer_tokens += static_cast<int64_t>(slot.completion.tokens.size());
    counters_.answer_max_tokens += slot.request.params.max_tokens;
  }
  prefixes_.give_back(slot.prefix);
  for (size_t state = 0; state < slot.own.size(); ++state) slot.own[state].give_back(batch.pools[state]);
  batch.unreserved += slot.reserved;
  Completion completion = std::move(slot.completion);
  slot = Slot{};
  sink_.accept(std::move(completion));
}

void Batcher::drop_cancelled_drawn() {
  std::vector<int64_t> keys;
  const auto cancelled = [&](const Drawn& drawn) {
    if (!source_.is_cancelled(drawn.request.key)) return false;
    keys.push_back(drawn.request.key);
    return true;
  };
  if (waiting_ && cancelled(*waiting_)) waiting_.reset();
  for (Aside* aside : {&aside_, &aside_giving_way_})
    for (std::deque<Drawn>* all : {&aside->compiled, &aside->compiling}) std::erase_if(*all, cancelled);
  for (const int64_t key : keys) sink_.accept({.key = key, .reason = FinishReason::kCancelled});
}

void Batcher::drop_cancelled(MicroBatch& batch) {
  drop_cancelled_drawn();
  for (Slot& slot : batch.slots) {
    if (!slot.active || !source_.is_cancelled(slot.request.key)) continue;
    if (prefixes_.is_awaited(slot.prefix)) continue;
    finish(batch, slot, FinishReason::kCancelled);
  }
}

int64_t Batcher::pages_for(const Request& request) const {
  return pages_of_sequence(std::ssize(request.prompt), request.params.max_tokens, cache_.tokens_per_page);
}

void Batcher::refill(MicroBatch& batch) {
  const int64_t total = active_ + source_.remaining() + (waiting_ ? 1 : 0) + aside_.size() + aside_giving_way_.size();
  look_aside();
  patient_until_ = std::chrono::steady_clock::now() + kGrammarPatience;
  refill_slots(std::span(batch.slots), total, std::ssize(batches_), slot_limit_, [&](Slot& slot, int64_t) {
    if (!find_next()) return false;
    const int64_t pages = pages_for(waiting_->request);
    FLEXGEN_CHECK(pages <= cache_.pages_per_micro_batch, "sequence of {} pages in a pool of {}", pages, cache_.pages_per_micro_batch);
    return start(batch, slot);
  });
}

std::optional<Batcher::Drawn> Batcher::drawn(std::optional<Request> request) {
  if (!request) return std::nullopt;
  Drawn drawn{std::move(*request), nullptr};
  const SamplingParams& params = drawn.request.params;
  if (params.grammar && params.max_tokens > 0) {
    FLEXGEN_CHECK(tokenizer_ && !model_.config().eos.empty(), "a grammar without a tokenizer or an end token");
    if (!masks_) masks_ = std::make_unique<GrammarMasks>(*tokenizer_, model_.config().vocab_size, model_.config().eos);
    drawn.follower = masks_->begin(params.grammar);
  }
  return drawn;
}

void Batcher::look_aside() {
  for (Aside* aside : {&aside_, &aside_giving_way_}) {
    const auto ready = std::stable_partition(aside->compiling.begin(), aside->compiling.end(), [](const Drawn& each) { return !each.follower->is_ready(); });
    std::move(ready, aside->compiling.end(), std::back_inserter(aside->compiled));
    aside->compiling.erase(ready, aside->compiling.end());
  }
}

bool Batcher::take_compiled(Aside& aside) {
  if (aside.compiled.empty()) return false;
  waiting_ = std::move(aside.compiled.front());
  aside.compiled.pop_front();
  return true;
}

bool Batcher::find_next() {
  while (!waiting_) {
    if (take_compiled(aside_)) break;
    std::optional<Drawn> next = drawn(source_.next_before_others());
    if (!next && take_compiled(aside_giving_way_)) break;
    if (!next && aside_giving_way_.size() < kMostGivingWay) next = drawn(source_.next());
    if (next) {
      const auto patience =
          std::max(std::chrono::milliseconds(0), std::chrono::duration_cast<std::chrono::milliseconds>(patient_until_ - std::chrono::steady_clock::now()));
      // A batch that is all there has no other callers to be kept waiting: there it is compiled while the prompt is computed.
      if (!next->follower || !source_.is_open() || next->follower->is_ready(patience)) waiting_ = std::move(next);
      else (source_.gives_way(next->request.key) ? aside_giving_way_ : aside_).compiling.push_back(std::move(*next));
      continue;
    }
    // Where nothing is under way, after a short sleep: more may come, and the run may be stopped.
    const Aside& waited_for = aside_.compiling.empty() ? aside_giving_way_ : aside_;
    if (active_ > 0 || waited_for.compiling.empty() || !waited_for.compiling.front().follower->is_ready(kGrammarPoll)) return false;
    look_aside();
  }
  return true;
}

int64_t Batcher::prefix_pages_for(const Request& request) const {
  if (!request.may_share()) return 0;
  const int64_t page = cache_.tokens_per_page;
  return std::min(request.shared_tokens / page, shareable_pages(std::ssize(request.prompt), page));
}

std::vector<SlotPages> Batcher::pages_of(MicroBatch& batch, Slot& slot, int64_t num_rows) {
  std::vector<SlotPages> all;
  for (size_t i = 0; i < slot.own.size(); ++i) {
    const CacheLayout::Group& group = cache_.groups[i];
    HeldPages<PagePool>& mine = slot.own[i];
    const int64_t first = group.state.first_page(slot.past, cache_.tokens_per_page), end = group.state.end_page(slot.past + num_rows, cache_.tokens_per_page);
    mine.reach(slot.past + num_rows, batch.pools[i]);
    SlotPages& seen = all.emplace_back(SlotPages{first, {}});
    seen.ids.reserve(static_cast<size_t>(end - first));
    for (int64_t page = first; page < end; ++page) {
      if (mine.has(page)) {
        seen.ids.push_back(mine.pages()[static_cast<size_t>(mine.index_of(page))]);
        continue;
      }
      FLEXGEN_CHECK(page < std::ssize(slot.prefix.pages), "page {} of [{}, {})", page, first, end);
      const int32_t shared = slot.prefix.pages[static_cast<size_t>(page)];
      const int32_t place = window_of_[i] < 0 ? shared : prefixes_.place_of(shared, static_cast<size_t>(window_of_[i]));
      FLEXGEN_CHECK(place >= 0, "page {} of [{}, {}) is not kept", page, first, end);
      seen.ids.push_back(static_cast<int32_t>(group.num_pages()) + place);
    }
  }
  return all;
}

bool Batcher::can_read_prefix(const Slot& slot, int64_t step, int64_t batch) const {
  return slot.prefix.known == 0 || prefixes_.is_readable(slot.prefix.pages[static_cast<size_t>(slot.prefix.known) - 1], step, batch);
}

void Batcher::share_filled(const Slot& slot, int64_t num_rows, int64_t step, int64_t batch) {
  const int64_t page = cache_.tokens_per_page;
  const int64_t filled = std::min((slot.past + num_rows) / page, std::ssize(slot.prefix.pages));
  for (int64_t i = std::max(slot.prefix.known, slot.past / page); i < filled; ++i)
    prefixes_.set_planned(slot.prefix.pages[static_cast<size_t>(i)], step, batch);
}

bool Batcher::start(MicroBatch& batch, Slot& slot) {
  FLEXGEN_CHECK(!waiting_->request.prompt.empty());
  const int64_t pages = pages_for(waiting_->request), shareable = prefix_pages_for(waiting_->request);
  if (pages - shareable > batch.unreserved) return false;  // before the prefix makes room for itself
  std::vector<int64_t> ends;
  for (int64_t end : waiting_->request.shared_ends) ends.push_back(std::min(end / cache_.tokens_per_page, shareable));
  PrefixPath prefix = prefixes_.take(waiting_->request.prompt, shareable, ends);
  const int64_t own = pages - std::ssize(prefix.pages);
  if (own > batch.unreserved) {
    prefixes_.give_back(prefix);
    return false;
  }
  slot.request = std::move(waiting_->request);
  slot.follower = std::move(waiting_->follower);
  waiting_.reset();
  source_.began(slot.request.key);
  slot.active = true;
  ++active_;
  slot.number = num_started_++;
  slot.reserved = own;
  batch.unreserved -= own;
  for (size_t i = 0; i < cache_.groups.size(); ++i) {
    std::vector<PageRange> others{{0, std::ssize(prefix.pages)}};
    if (window_of_[i] >= 0) others = pages_of_others(prefix.known, prefix.kept[static_cast<size_t>(window_of_[i])]);
    slot.own.emplace_back(cache_.groups[i].state, cache_.tokens_per_page, std::move(others), pages, batch.pools[i]);
  }
  slot.tokens = slot.request.prompt;
  slot.past = slot.completion.cached_tokens = prefix.known * cache_.tokens_per_page;
  slot.prefix = std::move(prefix);
  counters_.prompt_tokens += slot.past;
  counters_.shared_prompt_tokens += slot.past;
  slot.completion.key = slot.request.key;
  const SamplingParams& params = slot.request.params;
  if (params.scores_prompt()) slot.completion.prompt_logprobs.push_back({slot.request.prompt.front(), std::numeric_limits<float>::quiet_NaN(), {}});
  if (tokenizer_) slot.text = std::make_unique<AnswerText>(*tokenizer_, params, slot.request.prompt);
  if (params.edits_logits()) slot.edits = LogitEdits(slot.request, model_.config().eos, model_.config().vocab_size);
  return true;
}

}  // namespace flexgen
