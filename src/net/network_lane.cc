#include "net/network_lane.h"

namespace flexgen {

void NetworkLane::perform(Work work, const Event& event) {
  const auto begin = Clock::now();
  const bool counted = direction_ == Direction::kSend;
  if (counted) begin_busy(begin);
  Event message;
  std::exception_ptr error;
  try {
    message = work.start(0);
  } catch (...) {
    error = std::current_exception();
  }
  work.start = nullptr;
  message.on_done([this, work = std::move(work), event, message, error, counted, begin] {
    const auto end = Clock::now();
    if (counted) end_busy(end);
    account(work, begin, end);
    finish(event, error ? error : message.error());
  });
}

}  // namespace flexgen
