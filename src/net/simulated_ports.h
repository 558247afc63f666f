#pragma once
// SimulatedPorts: the ranks of a job on virtual clocks, a thread and a clock each. A message takes the time that its link takes for its bytes, and the delay; the
// bytes of hidden rows are not moved. As every receive names its sender, the times do not depend on which thread runs when.

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "backend/virtual_clock.h"
#include "net/port.h"

namespace flexgen {

/// The link from one rank to another.
struct LinkSpeed {
  double bytes_per_s = 1.25e9;  ///< 10 Gbit/s
  double delay_s = 50e-6;       ///< until the first byte is there
  /// Messages of more bytes than this first ask whether the other side has room for them, which takes so much more.
  double large_bytes = 65536, large_delay_s = 0;

  double delay_of(double bytes) const { return delay_s + (bytes > large_bytes ? large_delay_s : 0); }
};

class SimulatedPorts {
 public:
  /// A link a rank: what it sends goes over that one.
  explicit SimulatedPorts(std::vector<LinkSpeed> links);
  ~SimulatedPorts();
  int size() const { return static_cast<int>(clocks_.size()); }
  Port& port(int rank) { return *ports_[static_cast<size_t>(rank)]; }
  /// Used by the thread of that rank alone.
  VirtualClock& clock(int rank) { return clocks_[static_cast<size_t>(rank)]; }
  const LinkSpeed& link(int rank) const { return links_[static_cast<size_t>(rank)]; }

 private:
  class SimulatedPort;
  using Key = std::tuple<int, int, Channel>;  ///< from, to, channel
  struct Message {
    std::vector<std::byte> bytes;
    double arrives_s = 0;
  };
  struct Wanted {
    Inbox inbox;
    double from_s;
    Event done;
  };
  struct Mailbox {
    std::deque<Message> messages;
    std::deque<Wanted> wanted;
  };
  /// With the lock held.
  static void deliver(Message message, const Wanted& wanted);

  std::vector<LinkSpeed> links_;
  std::deque<VirtualClock> clocks_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::mutex mutex_;
  std::map<Key, Mailbox> mailboxes_;
  std::map<std::pair<int, int>, double> free_at_s_;  ///< the links, for bulky messages
  std::exception_ptr error_;
};

}  // namespace flexgen
