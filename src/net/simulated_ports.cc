#include "net/simulated_ports.h"

#include <algorithm>

#include "base/error.h"

namespace flexgen {

class SimulatedPorts::SimulatedPort : public Port {
 public:
  SimulatedPort(SimulatedPorts& group, int rank) : group_(group), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  std::string describe(int rank) const override { return fmt::format("rank {} (simulated)", rank); }

  Event send(int peer, Channel channel, std::span<const std::byte> bytes, double at_s) override {
    VirtualClock& clock = group_.clock(rank_);
    std::lock_guard lock(group_.mutex_);
    if (group_.error_) return failed();
    double begin_s = at_s > 0 ? at_s : clock.now_s;
    const LinkSpeed& link = group_.link(rank_);
    const double duration_s = static_cast<double>(bytes.size()) / link.bytes_per_s;
    const bool bulky = channel == Channel::kHidden;
    if (bulky) {  // small messages slip in between, and cost the link nothing to speak of
      double& free_at_s = group_.free_at_s_[{rank_, peer}];
      begin_s = std::max(begin_s, free_at_s);
      free_at_s = begin_s + duration_s;
    }
    Message message;
    if (!bulky) message.bytes.assign(bytes.begin(), bytes.end());
    message.arrives_s = begin_s + duration_s + link.delay_of(static_cast<double>(bytes.size()));
    Mailbox& box = group_.mailboxes_[{rank_, peer, channel}];
    if (box.wanted.empty()) {
      box.messages.push_back(std::move(message));
    } else {
      const Wanted wanted = std::move(box.wanted.front());
      box.wanted.pop_front();
      deliver(std::move(message), wanted);
    }
    return Event::at(clock, begin_s + duration_s);
  }

  Event receive(int peer, Channel channel, Inbox inbox, double at_s) override {
    VirtualClock& clock = group_.clock(rank_);
    std::lock_guard lock(group_.mutex_);
    if (group_.error_) return failed();
    const Wanted wanted{inbox, at_s > 0 ? at_s : clock.now_s, Event::pending(clock)};
    Mailbox& box = group_.mailboxes_[{peer, rank_, channel}];
    if (box.messages.empty()) {
      box.wanted.push_back(wanted);
    } else {
      deliver(std::move(box.messages.front()), wanted);
      box.messages.pop_front();
    }
    return wanted.done;
  }

  Event draw(int64_t*) override { fail_user("a simulation has no replicas"); }

  void abort(const std::string& reason) override {
    std::vector<Event> pending;
    {
      std::lock_guard lock(group_.mutex_);
      if (group_.error_) return;
      group_.error_ = std::make_exception_ptr(Error(ErrorKind::kPeer, reason));
      for (auto& [key, box] : group_.mailboxes_) {
        for (Wanted& wanted : box.wanted) pending.push_back(wanted.done);
        box.wanted.clear();
      }
    }
    for (const Event& event : pending) event.finish(group_.error_);
  }

 private:
  Event failed() const {
    Event event = Event::pending();
    event.finish(group_.error_);
    return event;
  }
  SimulatedPorts& group_;
  int rank_;
};

SimulatedPorts::SimulatedPorts(std::vector<LinkSpeed> links) : links_(std::move(links)), clocks_(links_.size()) {
  for (int rank = 0; rank < size(); ++rank) ports_.push_back(std::make_unique<SimulatedPort>(*this, rank));
}

SimulatedPorts::~SimulatedPorts() = default;

void SimulatedPorts::deliver(Message message, const Wanted& wanted) {
  const double at_s = std::max(wanted.from_s, message.arrives_s);
  if (wanted.inbox.any) *wanted.inbox.any = std::move(message.bytes);
  wanted.done.finish_at(at_s);
}

}  // namespace flexgen
