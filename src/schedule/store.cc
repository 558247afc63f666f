#include "schedule/store.h"

namespace flexgen {

VisitInput VisitLease::input() const {
  VisitInput input;
  input.num_rows = plan->num_rows();
  input.positions = plan->positions;
  input.slots = slots;
  input.embed_rows = looked_up;
  input.logit_rows = plan->logit_rows;
  input.choices = choices;
  return input;
}

int64_t VisitLease::table_bytes() const {
  int64_t bytes = static_cast<int64_t>(pages.capacity() * sizeof(std::vector<std::byte*>) + slots.capacity() * sizeof(AttentionSlot));
  for (const std::vector<std::byte*>& of_slot : pages) bytes += static_cast<int64_t>(of_slot.capacity() * sizeof(std::byte*));
  return bytes;
}

}  // namespace flexgen
