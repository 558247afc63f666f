#pragma once
// What a slot does in a step, and when its micro-batch takes up the next sequence: for slots of tokens (Batcher), and for slots of lengths alone (the slot walk). Pure arithmetic, and templates
// over what a slot is.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/units.h"

namespace flexgen {

/// Pages that a sequence has in the end, those of its prefix included, if none goes back. The last generated token never enters the cache.
inline int64_t pages_of_sequence(int64_t prompt, int64_t max_tokens, int64_t page_tokens) {
  return ceil_div(std::max<int64_t>(1, prompt + std::max<int64_t>(max_tokens, 1) - 1), page_tokens);
}

/// How far a sequence has come, in tokens.
struct SlotProgress {
  int64_t prompt = 0;
  int64_t size = 0;     ///< that are known: the prompt and what was generated
  int64_t past = 0;     ///< of these, in the cache
  bool scored = false;  ///< the logprobs of its prompt are wanted
  bool samples = true;  ///< it generates, its prompt once computed

  /// One row, of a token that it generated: such go before prompts.
  bool generates() const { return size > prompt && size - past == 1; }
  /// Whether a token follows the row at this position that is to be chosen, or whose logprob is wanted.
  bool samples_at(int64_t position) const { return samples && position + 1 == size; }
  bool scores_at(int64_t position) const { return scored && position + 1 < prompt; }
  /// Of its next `rows` rows, those that want logits.
  int64_t logits_of(int64_t rows) const {
    const int64_t sampled = rows > 0 && samples_at(past + rows - 1) ? 1 : 0;
    return sampled + (scored ? std::max<int64_t>(0, std::min(past + rows, prompt - 1) - past) : 0);
  }
  /// Its next rows, as many as there is room for.
  int64_t rows_within(int64_t max_rows, int64_t max_logit_rows) const {
    int64_t rows = std::min(max_rows, size - past);
    // A row less wants one logit less at the most.
    for (int64_t excess = logits_of(rows) - max_logit_rows; rows > 0 && excess > 0; excess = logits_of(rows) - max_logit_rows) rows -= excess;
    return std::max<int64_t>(0, rows);
  }
};

/// When rows of a prefix were planned that others read.
struct PlannedAt {
  int64_t step = std::numeric_limits<int64_t>::max(), batch = -1;  ///< not yet
  bool is_known() const { return step < std::numeric_limits<int64_t>::max(); }
  /// Whether rows that are planned now may read them: they were planned in an earlier step, so that stores and loads know of each other, or earlier in the same plan, where keys and
  /// values of all rows are appended before any row attends.
  bool is_readable(int64_t now_step, int64_t now_batch) const { return step < now_step || (step == now_step && batch == now_batch); }
};

/// Free slots of a micro-batch take up sequences while there are some. Micro-batches share evenly what there is to do, also when it is less than the block: `num_sequences`, those under way and
/// those that wait. `start(slot, under_way)`, of so many under way in this micro-batch, says whether there was one, and pages for it.
template <class Slot, class Start>
void refill_slots(std::span<Slot> slots, int64_t num_sequences, int64_t num_batches, int64_t max_slots, Start start) {
  const int64_t most = std::min(ceil_div(num_sequences, num_batches), max_slots);
  int64_t under_way = std::count_if(slots.begin(), slots.end(), [](const Slot& slot) { return slot.active; });
  for (Slot& slot : slots) {
    if (slot.active) continue;
    if (under_way >= most || !start(slot, under_way)) return;
    ++under_way;
  }
}

/// Slots with a sequence, in the order in which these began (Slot::number).
template <class Slot>
void list_oldest_first(std::span<Slot> slots, std::vector<Slot*>* oldest_first) {
  oldest_first->clear();
  for (Slot& slot : slots)
    if (slot.active) oldest_first->push_back(&slot);
  std::sort(oldest_first->begin(), oldest_first->end(), [](const Slot* a, const Slot* b) { return a->number < b->number; });
}

/// The rows of a step. Sequences that generate go on first, one row each; prompts share what is left, the oldest first. Who waits for others' pages (`!may_go_on(slot)`) started after those
/// who write them, and may read them in the same plan. `take(slot, progress, rows)`: its next rows, one at least.
template <class Slot, class MayGoOn, class Take>
void deal_rows(const std::vector<Slot*>& oldest_first, int64_t max_rows, int64_t max_logit_rows, MayGoOn may_go_on, Take take) {
  for (bool generating : {true, false})
    for (Slot* slot : oldest_first) {
      if (max_rows == 0) return;
      const SlotProgress progress = slot->progress();
      if (progress.generates() != generating || !may_go_on(*slot)) continue;
      const int64_t rows = progress.rows_within(max_rows, max_logit_rows);
      if (rows == 0) continue;
      max_rows -= rows;
      max_logit_rows -= progress.logits_of(rows);
      take(*slot, progress, rows);
    }
}

}  // namespace flexgen
