#pragma once
// Port: how one process (or, in tests, one thread) of a job reaches the others. A message goes from a rank to a rank on a channel; messages of one
// (from, to, channel) arrive in the order in which they were sent. Implementations: local_ports.h (inside one process), simulated_ports.h (virtual
// clocks), mpi/ (Open MPI; no_mpi/ where the library is missing). All functions may be called from any thread and return at once.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/event.h"

namespace flexgen {

/// Messages that must not queue behind each other, or that others wait for.
enum class Channel : int {
  kControl,   ///< agreements before and after a run
  kPlan,      ///< what each micro-batch does in a step, down the stages
  kHidden,    ///< rows of the residual stream, down the stages
  kResult,    ///< tokens and logprobs, from the last stage to the first
  kRecord,    ///< finished answers of replicas, to rank 0
  kProgress,  ///< how far a rank is, to rank 0
};
inline constexpr int kNumChannels = 6;

/// Where a message goes that is received: a buffer of exactly its size, or a vector that takes its size.
struct Inbox {
  Inbox(std::span<std::byte> exact) : exact(exact) {}
  Inbox(std::vector<std::byte>* any) : any(any) {}
  std::span<std::byte> exact;
  std::vector<std::byte>* any = nullptr;
};

class Port {
 public:
  virtual ~Port() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "rank 2 on node7 (process 123)", for messages.
  virtual std::string describe(int rank) const = 0;

  /// Done when `bytes` may be changed (the peer need not have them yet). `at_s`: simulations, when the bytes are there.
  virtual Event send(int peer, Channel channel, std::span<const std::byte> bytes, double at_s = 0) = 0;
  /// Takes the next message; done when it is in the inbox, which must live until then. A message of another size than an exact inbox fails it.
  virtual Event receive(int peer, Channel channel, Inbox inbox, double at_s = 0) = 0;

  /// Gives out 0, 1, 2, ... to all ranks, each number once. `ticket` must live until it is there.
  virtual Event draw(int64_t* ticket) = 0;

  /// Ends the job for everyone: all that is pending or comes later fails, here and at the peers, with Error{peer} saying `reason`. The first
  /// reason stands.
  virtual void abort(const std::string& reason) = 0;
};

/// Everyone's `mine`, by rank. Every rank must call it, in the same order as other agreements. Blocks.
std::vector<std::string> all_gather(Port& port, const std::string& mine);

/// Ranks [first, first + count) of a port as ranks of their own: the stages of one replica.
class SubPort : public Port {
 public:
  SubPort(Port& port, int first, int count);
  int rank() const override { return port_.rank() - first_; }
  int size() const override { return count_; }
  std::string describe(int rank) const override { return port_.describe(first_ + rank); }
  Event send(int peer, Channel channel, std::span<const std::byte> bytes, double at_s) override { return port_.send(first_ + peer, channel, bytes, at_s); }
  Event receive(int peer, Channel channel, Inbox inbox, double at_s) override { return port_.receive(first_ + peer, channel, inbox, at_s); }
  Event draw(int64_t* ticket) override { return port_.draw(ticket); }
  void abort(const std::string& reason) override { port_.abort(reason); }

 private:
  Port& port_;
  int first_, count_;
};

/// The place of a process in a pipeline of stages; without a port it is the only one.
struct StageLink {
  Port* port = nullptr;  ///< its ranks are the stages
  int stage() const { return port ? port->rank() : 0; }
  int num_stages() const { return port ? port->size() : 1; }
  bool is_first() const { return stage() == 0; }
  bool is_last() const { return stage() + 1 == num_stages(); }
};

}  // namespace flexgen
