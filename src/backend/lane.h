#pragma once
// Lane: the in-order queue of one resource (compute, disk read, disk write, ...), with its statistics and
// its trace. submit() may be called from any thread; work starts in order of submission.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend/event.h"
#include "backend/trace.h"
#include "io/async_disk.h"

namespace flexgen {

/// What a lane has done since it was made.
struct LaneStats {
  double busy_s = 0;  ///< time in which at least one piece of work was under way
  double bytes = 0;
  int64_t operations = 0;
  double expected_s = 0;  ///< what the work should have taken, if set_cost() said what that is
};

/// Bytes from RAM to a device's memory, or back.
struct Copy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t bytes = 0;
};

/// What a piece of compute costs, for cost models and simulations. Pure data.
struct ComputeAmount {
  double flops = 0;                  ///< of matrix products
  double rows = 0;                   ///< that go through them together
  double kv_read_bytes = 0;          ///< keys and values that attention reads
  double decode_kv_bytes = 0;        ///< of these, for single new tokens
  double decode_context = 0;         ///< positions that such a token reads, on average
  double chunk_attention_flops = 0;  ///< attention of prompt chunks
  double logits = 0;                 ///< that are folded into choices
};

/// One piece of work for a lane.
struct Work {
  std::vector<Event> after;                ///< starts when all of these are done; fails with the first that failed
  std::function<void()> run;               ///< compute lanes: runs in the lane's thread
  std::function<Event(double)> start;      ///< network lanes: begins a message, done when its event is; told when (simulations)
  std::vector<DiskTransfer> transfers;     ///< disk lanes: all must be done (their `done` is the lane's)
  std::vector<Copy> copies;                ///< copy lanes of a device: all in one direction
  double bytes = 0;                        ///< moved, for the statistics
  ComputeAmount amount;                    ///< compute lanes: what the work costs
  const char* name = "";                   ///< for the trace; a literal
  int64_t step = 0, layer = 0, batch = 0;  ///< for the trace
};

class Lane {
 public:
  Lane(std::string name, Trace* trace) : name_(std::move(name)), trace_(trace) {}
  virtual ~Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /// Queues the work and returns at once with the event of its completion.
  virtual Event submit(Work work) = 0;
  /// Blocks until everything submitted is over; throws the first error any of it ended with.
  void drain();
  LaneStats stats() const;
  /// From now on stats() also count what each piece of work should take, in seconds. Before the first submit().
  void set_cost(std::function<double(const Work&)> cost) { cost_ = std::move(cost); }
  const std::string& name() const { return name_; }

 protected:
  using Clock = std::chrono::steady_clock;
  /// Adds one finished piece of work that ran from `start` to `end`. Work may overlap work.
  void account(const Work& work, Clock::time_point start, Clock::time_point end);
  /// busy_s is the union of what lies between the two, whatever the order in which they are told.
  void begin_busy(Clock::time_point now);
  void end_busy(Clock::time_point now);
  /// Adds one piece of work that took `duration_s` of virtual time.
  void account_virtual(const Work& work, double duration_s);
  /// Every submit() counts itself in, and finishes its event through finish(), which counts it out.
  void count_in();
  void finish(const Event& event, std::exception_ptr error);
  /// That any of its work ended with so far; null: none.
  std::exception_ptr first_error() const;

 private:
  std::string name_;
  Trace* trace_;
  mutable std::mutex stats_mutex_;
  LaneStats stats_;
  std::function<double(const Work&)> cost_;
  int under_way_ = 0;
  Clock::time_point busy_since_{}, busy_until_{};
  std::condition_variable idle_;
  int64_t outstanding_ = 0;
  std::exception_ptr first_error_;
};

/// A lane with a thread that takes its work in order, each piece once everything in its `after` is done. After a piece that failed all later ones fail with its error.
class QueueLane : public Lane {
 public:
  Event submit(Work work) override;

 protected:
  QueueLane(std::string name, Trace* trace) : Lane(std::move(name), trace) {}
  /// In the thread: does or starts a piece of work whose `after` is done, and sees to it that finish() is called.
  virtual void perform(Work work, const Event& event) = 0;
  /// For the constructors and destructors of what derives from this, as the thread calls perform(). stop() ends when the queue is empty.
  void start();
  void stop();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Work, Event>> queue_;
  bool closing_ = false;
  std::thread thread_;
};

/// Runs closures in its thread, for compute.
class ThreadLane : public QueueLane {
 public:
  ThreadLane(std::string name, Trace* trace) : QueueLane(std::move(name), trace) { start(); }
  ~ThreadLane() override { stop(); }

 private:
  void perform(Work work, const Event& event) override;
};

/// Disk transfers: started in order, many in flight.
class DiskLane : public QueueLane {
 public:
  DiskLane(std::string name, Trace* trace, const AsyncDiskOptions& options);
  ~DiskLane() override { stop(); }
  std::string_view engine_name() const { return disk_->engine_name(); }

 private:
  void perform(Work work, const Event& event) override;

  std::unique_ptr<AsyncDisk> disk_;
};

}  // namespace flexgen
