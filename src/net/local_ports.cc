#include "net/local_ports.h"

#include <algorithm>

#include "base/error.h"

namespace flexgen {
namespace {

/// Puts a message where it is wanted.
void deliver(const std::vector<std::byte>& message, const Inbox& inbox, const Event& done) {
  if (inbox.any) {
    *inbox.any = message;
  } else if (inbox.exact.size() != message.size()) {
    done.finish(
        std::make_exception_ptr(Error(ErrorKind::kPeer, fmt::format("a message of {} bytes came where {} were expected", message.size(), inbox.exact.size()))));
    return;
  } else {
    std::copy(message.begin(), message.end(), inbox.exact.begin());
  }
  done.finish();
}

}  // namespace

class LocalPorts::LocalPort : public Port {
 public:
  LocalPort(LocalPorts& group, int rank) : group_(group), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  std::string describe(int rank) const override { return fmt::format("rank {} (of this process)", rank); }
  Event send(int peer, Channel channel, std::span<const std::byte> bytes, double) override { return group_.send(rank_, peer, channel, bytes); }
  Event receive(int peer, Channel channel, Inbox inbox, double) override { return group_.receive(peer, rank_, channel, inbox); }
  Event draw(int64_t* ticket) override {
    std::lock_guard lock(group_.mutex_);
    if (group_.error_) return group_.failed();
    *ticket = group_.next_ticket_++;
    return {};
  }
  void abort(const std::string& reason) override { group_.abort(reason); }

 private:
  LocalPorts& group_;
  int rank_;
};

LocalPorts::LocalPorts(int size) {
  for (int rank = 0; rank < size; ++rank) ports_.push_back(std::make_unique<LocalPort>(*this, rank));
}

Event LocalPorts::failed() const {
  Event event = Event::pending();
  event.finish(error_);
  return event;
}

Event LocalPorts::send(int from, int to, Channel channel, std::span<const std::byte> bytes) {
  FLEXGEN_CHECK(to >= 0 && to < size(), "rank {}", to);
  std::vector<std::byte> message(bytes.begin(), bytes.end());
  std::unique_lock lock(mutex_);
  if (error_) return failed();
  Mailbox& box = mailboxes_[{from, to, channel}];
  if (box.wanted.empty()) {
    box.messages.push_back(std::move(message));
    return {};
  }
  Wanted wanted = std::move(box.wanted.front());
  box.wanted.pop_front();
  lock.unlock();
  deliver(message, wanted.inbox, wanted.done);
  return {};
}

Event LocalPorts::receive(int from, int to, Channel channel, Inbox inbox) {
  FLEXGEN_CHECK(from >= 0 && from < size(), "rank {}", from);
  Event done = Event::pending();
  std::unique_lock lock(mutex_);
  Mailbox& box = mailboxes_[{from, to, channel}];
  if (error_) return failed();
  if (box.messages.empty()) {
    box.wanted.push_back({inbox, done});
    return done;
  }
  std::vector<std::byte> message = std::move(box.messages.front());
  box.messages.pop_front();
  lock.unlock();
  deliver(message, inbox, done);
  return done;
}

void LocalPorts::abort(const std::string& reason) {
  std::vector<Event> pending;
  std::exception_ptr error;
  {
    std::lock_guard lock(mutex_);
    if (error_) return;
    error = error_ = std::make_exception_ptr(Error(ErrorKind::kPeer, reason));
    for (auto& [key, box] : mailboxes_) {
      for (Wanted& wanted : box.wanted) pending.push_back(std::move(wanted.done));
      box.wanted.clear();
    }
  }
  for (const Event& event : pending) event.finish(error);
}

}  // namespace flexgen
