#include "backend/event.h"

#include <algorithm>

#include "base/error.h"

namespace flexgen {

Event Event::at(VirtualClock& clock, double time_s) {
  Event event = pending();
  event.state_->done = true;
  event.state_->clock = &clock;
  event.state_->time_s = time_s;
  return event;
}

Event Event::pending(VirtualClock& clock) {
  Event event = pending();
  event.state_->clock = &clock;
  return event;
}

void Event::finish_at(double time_s) const {
  {
    std::lock_guard lock(state_->mutex);
    state_->time_s = time_s;
  }
  finish();
}

double Event::virtual_time_s() const {
  if (!state_) return 0;
  std::unique_lock lock(state_->mutex);
  if (state_->clock) state_->changed.wait(lock, [&] { return state_->done; });
  return state_->time_s;
}

Event Event::pending() {
  Event event;
  event.state_ = std::make_shared<State>();
  return event;
}

void Event::finish(std::exception_ptr error) const {
  FLEXGEN_CHECK(state_ != nullptr);
  std::vector<std::function<void()>> callbacks;
  {
    std::lock_guard lock(state_->mutex);
    FLEXGEN_CHECK(!state_->done);
    state_->done = true;
    state_->error = std::move(error);
    callbacks.swap(state_->callbacks);
    state_->changed.notify_all();
  }
  for (auto& callback : callbacks) callback();
}

bool Event::done() const {
  if (!state_) return true;
  std::lock_guard lock(state_->mutex);
  if (state_->clock) return state_->done && state_->time_s <= state_->clock->now_s;
  return state_->done;
}

void Event::wait() const {
  if (!state_) return;
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->done; });
  if (state_->clock) state_->clock->now_s = std::max(state_->clock->now_s, state_->time_s);
  if (state_->error) std::rethrow_exception(state_->error);
}

std::exception_ptr Event::error() const {
  if (!state_) return nullptr;
  std::lock_guard lock(state_->mutex);
  return state_->error;
}

void Event::on_done(std::function<void()> callback) const {
  if (state_) {
    std::unique_lock lock(state_->mutex);
    if (!state_->done) {
      state_->callbacks.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

}  // namespace flexgen
