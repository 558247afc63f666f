#include "serve/body_room.h"

#include <algorithm>
#include <chrono>

namespace flexgen {
namespace {

constexpr std::chrono::milliseconds kPoll{100};  // in which who waits notices that it need not

}  // namespace

std::optional<BodyRoom::Lease> BodyRoom::take(int64_t bytes, const std::function<bool()>& gives_up) {
  const int64_t wanted = std::min(bytes, bytes_);
  std::unique_lock lock(mutex_);
  const auto place = waiting_.insert(waiting_.end(), wanted);
  const auto fits = [&] { return place == waiting_.begin() && used_ + wanted <= bytes_; };
  bool given_up = false;
  while (!fits() && !given_up) {
    // Asked however often others come and go.
    changed_.wait_for(lock, kPoll);
    given_up = !fits() && gives_up();
  }
  waiting_.erase(place);
  if (!given_up) used_ += wanted;
  changed_.notify_all();  // the next may have room, too
  if (given_up) return std::nullopt;
  return Lease(*this, wanted);
}

bool BodyRoom::awaited() const {
  std::lock_guard guard(mutex_);
  return !waiting_.empty();
}

void BodyRoom::give_back(int64_t bytes) {
  std::lock_guard guard(mutex_);
  used_ -= bytes;
  changed_.notify_all();
}

}  // namespace flexgen
