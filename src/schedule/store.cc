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

}  // namespace flexgen
