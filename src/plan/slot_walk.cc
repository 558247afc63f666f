#include "plan/slot_walk.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/units.h"
#include "plan/policy_sizes.h"
#include "schedule/cache_store.h"
#include "schedule/prefix_ends.h"
#include "schedule/slot_rules.h"

namespace flexgen {
namespace {

/// So many times the effort is walked step by step: what a search has time for.
constexpr double kPatience = 10;

/// A sequence in a slot, in lengths.
struct Slot {
  bool active = false, scored = false, finished = false;
  int64_t prompt = 0, answer = 0, generated = 0, past = 0;  ///< answer: what it will have generated in the end
  int64_t prefix_pages = 0;                                 ///< before its own
  int64_t reserved = 0;                                     ///< own pages that it would have in the end
  size_t number = 0;                                        ///< of those that its micro-batch began: the oldest go first
  size_t sequence = 0;                                      ///< of the job's
  std::vector<WalkedPages> own;                             ///< a state
  SlotProgress progress() const { return {prompt, prompt + generated, past, scored, answer > 0}; }
};

struct MicroBatch {
  std::vector<Slot> slots;
  std::vector<WalkedPool> pools;  ///< a state
  int64_t unreserved = 0;
  std::vector<int32_t> shared;  ///< a sequence that it began: prefix tokens in common with the one that it began before
  int32_t shared_since = 0;     ///< the least that neighbours in the job's order share since then
};

/// The walker of a job whose slots stand for `scale` each.
class Walker {
 public:
  Walker(const Model& model, const Policy& policy, DType kv_dtype, std::vector<SequenceLength> sequences, int64_t scale)
      : model_(model), cache_(model, policy, kv_dtype), sequences_(std::move(sequences)), scale_(static_cast<double>(scale)),
        ends_(std::ssize(sequences_), [this](int64_t place) { return sequences_[static_cast<size_t>(place)].shared / page(); }) {
    max_rows_ = std::max<int64_t>(1, policy.max_rows / scale);
    max_logit_rows_ = std::max<int64_t>(1, policy.max_logit_rows / scale);
    batches_.resize(static_cast<size_t>(policy.num_micro_batches));
    for (MicroBatch& batch : batches_) {
      batch.slots.resize(static_cast<size_t>(std::max<int64_t>(1, policy.micro_batch_size / scale)));
      batch.unreserved = ceil_div(cache_.pages_per_micro_batch, scale);
      for (const CacheLayout::Group& group : cache_.groups) batch.pools.emplace_back(group, scale);
    }
    for (const CacheLayout::Group& group : cache_.groups) {
      const double pages = static_cast<double>(std::max<int64_t>(1, group.prefix_pages()));
      states_.push_back({static_cast<double>(group.num_layers * group.page_stride), static_cast<double>(group.prefix[2]) / pages,
                         static_cast<double>(group.prefix[1]) / pages, 0});
    }
  }

  bool done() const { return active_ == 0 && next_ == sequences_.size(); }
  StepLoad step() {
    StepLoad step;
    for (MicroBatch& batch : batches_) step.batches.push_back(advance(batch, &step.prompts));
    ++step_;
    const double before = rows_done_;
    for (const BatchLoad& batch : step.batches) rows_done_ += batch.rows;
    step.rows_done = rows_done_;
    const double rows = rows_done_ - before;
    steps_alike_ = !step.prompts && rows == rows_before_ && rows == scale_ * static_cast<double>(active_) ? steps_alike_ + 1 : 0;
    rows_before_ = rows;
    return step;
  }

  int64_t page() const { return cache_.tokens_per_page; }
  /// How many steps in a row, the last one among them, gave each sequence that there is the one row that it generates.
  int64_t steps_alike() const { return steps_alike_; }
  /// For how many times a page's steps this will go on, each with as much more to read than the one before.
  int64_t pages_alike() const {
    int64_t pages = std::numeric_limits<int64_t>::max();
    for (const MicroBatch& batch : batches_)
      for (const Slot& slot : batch.slots) {
        if (!slot.active) continue;
        pages = std::min(pages, slot.finished ? 0 : (slot.answer - slot.generated - 1) / page());
        for (const WalkedPages& own : slot.own) pages = std::min(pages, own.pages_alike(slot.past));
        // Of chosen positions there may be a least number.
        if (model_.config().attention_sparsity < 1) pages = std::min(pages, slot.past / page());
      }
    return pages;
  }
  /// Goes through so many.
  void move_on(int64_t pages) {
    const int64_t steps = pages * page();
    for (MicroBatch& batch : batches_)
      for (Slot& slot : batch.slots) {
        if (!slot.active) continue;
        slot.past += steps;
        slot.generated += steps;
        for (WalkedPages& own : slot.own) own.move_on(pages);
      }
    step_ += steps;
    rows_done_ += static_cast<double>(steps) * rows_before_;
    steps_alike_ = 0;
  }

 private:
  void refill(MicroBatch& batch) {
    const int64_t total = active_ + static_cast<int64_t>(sequences_.size() - next_);
    refill_slots(std::span(batch.slots), total, std::ssize(batches_), std::ssize(batch.slots), [&](Slot& slot, int64_t under_way) {
      if (next_ == sequences_.size()) return false;
      const SequenceLength& sequence = sequences_[next_];
      const int64_t prefix = cache_.prefix_pages() > 0 ? sequence.prefix / page() : 0, shared = std::min<int64_t>(prefix, sequence.shared / page()) * page();
      const int64_t pages = pages_of_sequence(sequence.prompt, sequence.max_tokens, page()) - prefix;
      // A share of a pool may be too small for one sequence where the whole is not.
      if (pages > batch.unreserved && under_way > 0) return false;
      slot = Slot{true, sequence.scored, false, std::max<int32_t>(1, sequence.prompt), sequence.generated, 0, shared, prefix, pages, batch.shared.size(), next_,
                  {}};
      const std::vector<int64_t> ends = prefix > 0 ? ends_.of(static_cast<int64_t>(next_), prefix) : std::vector<int64_t>();
      for (size_t i = 0; i < batch.pools.size(); ++i)
        slot.own.emplace_back(cache_.groups[i], page(), others_of(cache_.groups[i], shared / page(), prefix, ends), prefix + pages, batch.pools[i]);
      batch.unreserved -= pages;
      find_writer(next_, shared);
      for (MicroBatch& each : batches_) each.shared_since = std::min(each.shared_since, sequence.shared);
      batch.shared.push_back(std::exchange(batch.shared_since, std::numeric_limits<int32_t>::max()));
      ++next_;
      ++active_;
      return true;
    });
  }

  /// The pages of a sequence that are not its own in the layers of a state: of its prefix, whose first `known` pages others compute.
  std::vector<PageRange> others_of(const CacheLayout::Group& group, int64_t known, int64_t prefix, std::span<const int64_t> ends) const {
    if (!group.keeps_ends) return {{0, prefix}};
    return pages_of_others(known, kept_ranges(group.state, known, prefix, ends, page()));
  }

  /// A sequence leaves when its micro-batch comes to its next step, as in the batcher: until then it counts in what the micro-batches share evenly.
  void release_finished(MicroBatch& batch) {
    for (Slot& slot : batch.slots) {
      if (!slot.active || !slot.finished) continue;
      for (size_t i = 0; i < batch.pools.size(); ++i) slot.own[i].give_back(batch.pools[i]);
      batch.unreserved += slot.reserved;
      slot.active = false;
      --active_;
    }
  }

  /// Who writes the last of what the sequence shares: the nearest one before it that shares less with those before.
  void find_writer(size_t sequence, int64_t shared) {
    size_t writer = sequence;
    if (shared > 0 && sequence > 0)
      for (writer = sequence - 1; written_[writer].writer != writer && written_[writer].shared >= shared;) writer = written_[writer].writer;
    written_.push_back({writer, shared, {}});
  }
  bool can_read_prefix(const Slot& slot, int64_t batch) const {
    const size_t writer = written_[slot.sequence].writer;
    return writer == slot.sequence || written_[writer].planned.is_readable(step_, batch);
  }

  BatchLoad advance(MicroBatch& batch, bool* prompts) {
    const int64_t number = &batch - batches_.data();
    release_finished(batch);
    refill(batch);
    list_oldest_first(std::span(batch.slots), &order_);
    BatchLoad load;
    load.moves.resize(cache_.groups.size());
    for (size_t i = 0; i < batch.pools.size(); ++i) {
      for (Slot* slot : order_) slot->own[i].pass(slot->past, batch.pools[i]);
      states_[i].prefixes_read = distinct_prefix_pages(order_, number, i) / scale_;  // read once a visit, however many slots a slot stands for
    }
    attention_.clear();
    const Slot* before = nullptr;  // in the plan
    deal_rows(
        order_, max_rows_, max_logit_rows_, [&](const Slot& slot) { return can_read_prefix(slot, number); },
        [&](Slot& slot, const SlotProgress& progress, int64_t rows) {
          attention_.push_back({0, rows, slot.past, nullptr, slot.prompt, shared_positions(batch, before, slot)});
          before = &slot;
          load.rows += static_cast<double>(rows);
          load.logit_rows += static_cast<double>(progress.logits_of(rows));
          if (!progress.generates()) *prompts = true;
          move_pages(batch, slot, rows, &load);
          slot.past += rows;
          if (Written& own = written_[slot.sequence]; !own.planned.is_known() && slot.past >= slot.prefix_pages * page()) own.planned = {step_, number};
          if (slot.past < progress.size) return;
          if (slot.generated < slot.answer) ++slot.generated;
          slot.finished = slot.generated >= slot.answer;
        });
    if (load.rows == 0) return load;
    for (size_t i = 0; i < states_.size(); ++i) {
      const double prefixes = states_[i].prefixes_read;
      load.old_bytes += prefixes * states_[i].bytes_a_page;
      load.moves[i].old_disk += prefixes * states_[i].prefix_disk_share;
      load.moves[i].old_host += prefixes * states_[i].prefix_host_share;
    }
    const VisitWork work = model_.mean_block_work(static_cast<int64_t>(load.rows), attention_, cache_.dtype);
    load.block = {work.linear_flops, load.rows, work.kv_read_bytes, work.decode_kv_bytes, work.decode_context, work.chunk_attention_flops, 0};
    for (double* amount : {&load.rows, &load.logit_rows, &load.block.flops, &load.block.rows, &load.block.kv_read_bytes, &load.block.decode_kv_bytes,
                           &load.block.chunk_attention_flops, &load.old_bytes, &load.dirty_bytes})
      *amount *= scale_;
    for (PageMoves& moves : load.moves)
      for (auto pages : kPageMoves) moves.*pages *= scale_;
    return load;
  }

  /// Counts the pages that the slot's next rows read and write, of its own and of what they add to its prefix.
  void move_pages(MicroBatch& batch, Slot& slot, int64_t rows, BatchLoad* load) {
    for (size_t i = 0; i < batch.pools.size(); ++i) {
      const auto added = static_cast<double>(slot.own[i].of_others(slot.past / page(), ceil_div(slot.past + rows, page())));
      double old_pages = 0, dirty_pages = added;
      slot.own[i].advance(slot.past, rows, batch.pools[i], load->moves[i], &old_pages, &dirty_pages);
      load->moves[i].dirty_disk += added * states_[i].prefix_disk_share;
      load->moves[i].dirty_host += added * states_[i].prefix_host_share;
      load->old_bytes += old_pages * states_[i].bytes_a_page;
      load->dirty_bytes += dirty_pages * states_[i].bytes_a_page;
    }
  }

  /// What two sequences that the micro-batch began have in common in the cache, the older one first; in tokens.
  int64_t shared_prefix(const MicroBatch& batch, const Slot& older, const Slot& newer) const {
    const auto first = batch.shared.begin() + static_cast<ptrdiff_t>(older.number) + 1;
    const int64_t shared = *std::min_element(first, batch.shared.begin() + static_cast<ptrdiff_t>(newer.number) + 1);
    return std::min(shared / page(), std::min(older.prefix_pages, newer.prefix_pages)) * page();
  }
  /// AttentionSlot::shared as CacheLayout has it, of a slot after `before` in the plan, null for the first. What a slot stands for shares its whole prefix.
  int64_t shared_positions(const MicroBatch& batch, const Slot* before, const Slot& slot) const {
    if (cache_.tier != Tier::kCpu || slot.prefix_pages == 0) return 0;
    const int64_t most = std::min(slot.past / page(), slot.prefix_pages) * page();
    int64_t shared = 0;
    if (before && before->prefix_pages > 0) {
      const int64_t common = before->number < slot.number ? shared_prefix(batch, *before, slot) : shared_prefix(batch, slot, *before);
      shared = std::min({most, attention_.back().past / page() * page(), common});
    }
    return shared + static_cast<int64_t>(static_cast<double>(most - shared) * (1 - 1 / scale_));
  }

  /// Prefix pages with tokens from before that the slots see together, in layers with this state. `by_start`: those of this micro-batch, the oldest first.
  double distinct_prefix_pages(const std::vector<Slot*>& by_start, int64_t number, size_t state) const {
    if (cache_.prefix_pages() == 0) return 0;
    const MicroBatch& batch = batches_[static_cast<size_t>(number)];
    int64_t pages = 0, first_before = 0, end_before = 0;
    const Slot* before = nullptr;
    for (const Slot* slot : by_start) {
      if (slot->prefix_pages == 0 || !can_read_prefix(*slot, number)) continue;
      const int64_t first = std::min(slot->prefix_pages, cache_.groups[state].state.first_page(slot->past, page()));
      const int64_t end = std::min(slot->prefix_pages, ceil_div(slot->past, page()));
      pages += slot->own[state].of_others(first, end);
      if (before) pages -= std::max<int64_t>(0, std::min(shared_prefix(batch, *before, *slot) / page(), end_before) - std::max(first, first_before));
      before = slot;
      first_before = first;
      end_before = end;
    }
    return static_cast<double>(pages);
  }

  const Model& model_;
  CacheLayout cache_;
  std::vector<SequenceLength> sequences_;
  /// Of each of Model::states().
  struct OfState {
    double bytes_a_page = 0;  ///< in all layers together
    double prefix_disk_share = 0, prefix_host_share = 0;
    double prefixes_read = 0;  ///< pages that the visit under way reads
  };
  std::vector<OfState> states_;
  double scale_, rows_done_ = 0;
  double rows_before_ = 0;  ///< in the last step
  int64_t steps_alike_ = 0;
  std::vector<Slot*> order_;
  /// Of a sequence that began.
  struct Written {
    size_t writer = 0;  ///< of what it shares; itself if that is nothing
    int64_t shared = 0;
    PlannedAt planned;  ///< the rows of its prefix
  };
  std::vector<Written> written_;
  LaterEnds<std::function<int64_t(int64_t)>> ends_;
  int64_t step_ = 0;
  int64_t max_rows_ = 1, max_logit_rows_ = 1;
  std::vector<MicroBatch> batches_;
  std::vector<AttentionSlot> attention_;
  size_t next_ = 0;
  int64_t active_ = 0;
};

/// Whether what counts of both is `near`(x, y) all over.
template <class Near>
bool agree(const StepLoad& a, const StepLoad& b, const Near& near) {
  for (size_t i = 0; i < a.batches.size(); ++i) {
    const BatchLoad &x = a.batches[i], &y = b.batches[i];
    if (!near(x.rows, y.rows) || !near(x.block.kv_read_bytes, y.block.kv_read_bytes) || !near(x.logit_rows, y.logit_rows)) return false;
    for (size_t state = 0; state < x.moves.size(); ++state)
      if (!near(x.moves[state].old_disk, y.moves[state].old_disk) || !near(x.moves[state].old_host, y.moves[state].old_host)) return false;
  }
  return true;
}

bool alike(const StepLoad& a, const StepLoad& b) {
  return a.prompts == b.prompts && agree(a, b, [](double x, double y) { return std::abs(x - y) <= 0.06 * std::max(std::abs(x), std::abs(y)); });
}

/// Moves `mean` towards `step`: by 0 it stays, by 1 it is that, by more it goes beyond.
void move_towards(StepLoad& mean, const StepLoad& step, double weight) {
  auto mix = [weight](double& x, double y) { x += weight * (y - x); };
  for (size_t i = 0; i < mean.batches.size(); ++i) {
    BatchLoad& x = mean.batches[i];
    const BatchLoad& y = step.batches[i];
    mix(x.rows, y.rows);
    mix(x.logit_rows, y.logit_rows);
    mix(x.block.flops, y.block.flops);
    mix(x.block.rows, y.block.rows);
    mix(x.block.kv_read_bytes, y.block.kv_read_bytes);
    mix(x.block.decode_kv_bytes, y.block.decode_kv_bytes);
    mix(x.block.decode_context, y.block.decode_context);
    mix(x.block.chunk_attention_flops, y.block.chunk_attention_flops);
    mix(x.old_bytes, y.old_bytes);
    mix(x.dirty_bytes, y.dirty_bytes);
    for (size_t state = 0; state < x.moves.size(); ++state)
      for (auto pages : kPageMoves) mix(x.moves[state].*pages, y.moves[state].*pages);
  }
}

/// Makes `mean` the mean of its steps and those of `step`.
void join(StepLoad& mean, const StepLoad& step) {
  move_towards(mean, step, step.count / (mean.count + step.count));
  mean.count += step.count;
  mean.rows_done = step.rows_done;
}

/// The largest share by which what counts of them grew between the two.
double growth(const StepLoad& before, const StepLoad& after) {
  double most = 0;
  agree(before, after, [&](double x, double y) {
    most = std::max(most, std::abs(y - x) / std::max(1e-300, std::max(std::abs(x), std::abs(y))));
    return true;
  });
  return most;
}

/// Of answers that are so long that three blocks of them are far too many steps to walk: once two pages' steps in a row were alike, those until a sequence ends are what these say. Over the steps of
/// a page what is moved goes up and down, as pages fill and windows move on; from one page to the next it grows by the same, or not at all.
class LongAnswers {
 public:
  explicit LongAnswers(Walker& walker) : walker_(walker) {}

  /// Of the step that was walked last.
  template <class Add>
  void look(const StepLoad& step, Add add) {
    const int64_t at = walker_.steps_alike() % walker_.page();
    if (walker_.steps_alike() == 0) num_pages_ = 0;
    if (walker_.steps_alike() == 0 || at == 1 || walker_.page() == 1) mean_ = step;
    else join(mean_, step);
    if (at != 0 || walker_.steps_alike() == 0) return;
    before_ = std::exchange(last_, mean_);
    if (++num_pages_ < 2) return;
    const int64_t pages = walker_.pages_alike();
    if (pages > 0 && pages < std::numeric_limits<int64_t>::max()) go_through(pages, add);
  }

 private:
  static constexpr double kMostGrowth = 0.03;

  template <class Add>
  void go_through(int64_t pages, Add add) {
    double rows = 0;
    for (const BatchLoad& batch : last_.batches) rows += batch.rows;
    for (int64_t done = 0, count = 0; done < pages; done += count) {
      StepLoad now = before_, next = before_;
      move_towards(now, last_, static_cast<double>(done + 1));
      move_towards(next, last_, static_cast<double>(done + 2));
      count = std::clamp(static_cast<int64_t>(kMostGrowth / std::max(1e-9, growth(now, next))), int64_t{1}, pages - done);
      StepLoad some = before_;
      move_towards(some, last_, 1 + static_cast<double>(done) + static_cast<double>(count + 1) / 2);
      some.count = static_cast<double>(count * walker_.page());
      some.rows_done = last_.rows_done + rows * static_cast<double>((done + count) * walker_.page());
      add(std::move(some));
    }
    walker_.move_on(pages);
    num_pages_ = 0;
  }

  Walker& walker_;
  StepLoad mean_, last_, before_;  ///< of the steps of a page: of the one under way, the last one and the one before it
  int64_t num_pages_ = 0;          ///< that were alike
};

/// `count` sequences that stand for all: of equal distances in the order of their lengths, in the job's order; drawn where prompts share.
std::vector<SequenceLength> representatives(const std::vector<SequenceLength>& all, int64_t count) {
  const auto size = static_cast<int64_t>(all.size());
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<SequenceLength> chosen;
  if (count < size) {
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::tuple(all[a].generated, all[a].prompt, all[a].max_tokens) < std::tuple(all[b].generated, all[b].prompt, all[b].max_tokens);
    });
    const bool is_shared = std::any_of(all.begin(), all.end(), [](const SequenceLength& length) { return length.shared > 0; });
    for (int64_t i = 0; i < count; ++i)
      order[static_cast<size_t>(i)] = order[is_shared ? drawn_place(static_cast<double>(i), static_cast<double>(count), static_cast<double>(size))
                                                      : static_cast<size_t>((2 * i + 1) * size / (2 * count))];
    order.resize(static_cast<size_t>(count));
    std::sort(order.begin(), order.end());
  }
  for (int64_t i = 0; i < count && size > 0; ++i) chosen.push_back(all[order[static_cast<size_t>(i) % order.size()]]);
  return chosen;
}

}  // namespace

double rows_of(const Workload& workload, const Policy& policy) {
  return std::max(1.0, computed_prompt_tokens(workload, policy) + workload.total_generated_tokens - static_cast<double>(workload.num_sequences));
}

SlotWalk walk_slots(const Model& model, const Policy& policy, DType kv_dtype, const Workload& workload, double effort) {
  SlotWalk walk;
  const double steps_each = workload.mean_generated() + 2;
  // Three blocks show the start, the steady state and the end.
  const auto affordable = static_cast<int64_t>(effort / steps_each);
  const int64_t wanted = std::min(workload.num_sequences, std::max(3 * policy.block_size(), affordable));
  int64_t scale = 1;
  while (static_cast<double>(wanted) * steps_each / static_cast<double>(scale) > 2 * effort && policy.micro_batch_size / (2 * scale) >= 8 &&
         policy.max_rows / (2 * scale) >= 16)
    scale *= 2;
  std::vector<SequenceLength> sample = workload.sample;
  if (sample.empty() && workload.num_sequences > 0)
    sample = {{static_cast<int32_t>(std::max(1.0, workload.mean_prompt())), static_cast<int32_t>(std::ceil(workload.mean_max_tokens())),
               static_cast<int32_t>(std::ceil(workload.mean_generated())), workload.scores_prompts}};
  Walker walker(model, policy, kv_dtype, representatives(sample, std::max<int64_t>(1, wanted / scale)), scale);
  const auto add = [&](StepLoad&& step) {
    if (!walk.steps.empty() && alike(walk.steps.back(), step)) join(walk.steps.back(), step);
    else walk.steps.push_back(std::move(step));
  };
  const bool is_long = static_cast<double>(wanted) * steps_each / static_cast<double>(scale) > kPatience * effort;
  LongAnswers answers(walker);
  while (!walker.done()) {
    StepLoad step = walker.step();
    // The last sequences leave after the last step: no step of its own.
    if (std::all_of(step.batches.begin(), step.batches.end(), [](const BatchLoad& batch) { return batch.rows == 0; })) continue;
    if (!is_long) {
      add(std::move(step));
      continue;
    }
    add(StepLoad(step));
    answers.look(step, add);
  }
  if (!walk.steps.empty()) walk.rows = walk.steps.back().rows_done;
  walk.whole = wanted == workload.num_sequences && scale == 1 && workload.sample_stride == 1;
  return walk;
}

}  // namespace flexgen
