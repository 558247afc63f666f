#pragma once
// LocalPorts: the ranks of a job inside one process, a thread each (tests), or the loopback of a process that is alone. Bytes are copied when they are sent.
// Thread-safe; the group must outlive its ports.

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "net/port.h"

namespace flexgen {

class LocalPorts {
 public:
  explicit LocalPorts(int size);
  int size() const { return static_cast<int>(ports_.size()); }
  Port& port(int rank) { return *ports_[static_cast<size_t>(rank)]; }

 private:
  class LocalPort;
  using Key = std::tuple<int, int, Channel>;  ///< from, to, channel
  struct Wanted {
    Inbox inbox;
    Event done;
  };
  struct Mailbox {
    std::deque<std::vector<std::byte>> messages;
    std::deque<Wanted> wanted;
  };
  Event send(int from, int to, Channel channel, std::span<const std::byte> bytes);
  Event receive(int from, int to, Channel channel, Inbox inbox);
  Event failed() const;  ///< with the lock held
  void abort(const std::string& reason);

  std::vector<std::unique_ptr<Port>> ports_;
  std::mutex mutex_;
  std::map<Key, Mailbox> mailboxes_;
  std::exception_ptr error_;
  int64_t next_ticket_ = 0;
};

}  // namespace flexgen
