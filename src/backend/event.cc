#include "backend/event.h"

#include "base/error.h"

namespace flexgen {

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
  return state_->done;
}

void Event::wait() const {
  if (!state_) return;
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->done; });
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
