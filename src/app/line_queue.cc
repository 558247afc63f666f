#include "app/line_queue.h"

#include "base/units.h"

namespace flexgen {
namespace {

int64_t sequences_of(const BatchInput& input, const LineSet& todo) {
  LineWalk walk(input, todo);
  while (walk.next()) {
  }
  return walk.sequences();
}

class OwnLines : public LineQueue {
 public:
  OwnLines(const BatchInput& input, const LineSet& todo) : walk_(input, todo), sequences_(sequences_of(input, todo)) {}
  std::optional<int64_t> next() override { return walk_.next(); }
  int64_t sequences_left() const override { return sequences_ - walk_.sequences(); }

 private:
  LineWalk walk_;
  int64_t sequences_;
};

class SharedLines : public LineQueue {
 public:
  SharedLines(const BatchInput& input, const LineSet& todo, Port& port, int num_replicas)
      : walk_(input, todo), count_(todo.count()), sequences_(sequences_of(input, todo)), port_(port), num_replicas_(num_replicas) {
    draw();
  }
  ~SharedLines() override {
    try {
      drawn_.wait();  // nobody may write a ticket that is gone
    } catch (const std::exception&) {
    }
  }
  std::optional<int64_t> next() override {
    if (over_) return std::nullopt;
    drawn_.wait();
    const int64_t ticket = *ticket_;
    if (ticket >= count_) {
      over_ = true;
      return std::nullopt;
    }
    draw();
    // Tickets only grow: what lies between was given to others.
    while (walk_.passed() < ticket) walk_.next();
    return walk_.next();
  }
  int64_t sequences_left() const override {
    if (over_) return 0;
    return std::max<int64_t>(1, ceil_div(sequences_ - walk_.sequences(), num_replicas_));
  }

 private:
  /// One line ahead, so that nobody waits for the counter's answer.
  void draw() { drawn_ = port_.draw(ticket_.get()); }

  LineWalk walk_;  ///< lines up to here are given out, by whomever
  int64_t count_, sequences_;
  Port& port_;
  int num_replicas_;
  std::unique_ptr<int64_t> ticket_ = std::make_unique<int64_t>(0);
  Event drawn_;
  bool over_ = false;
};

}  // namespace

std::unique_ptr<LineQueue> own_lines(const BatchInput& input, const LineSet& todo) { return std::make_unique<OwnLines>(input, todo); }

std::unique_ptr<LineQueue> shared_lines(const BatchInput& input, const LineSet& todo, Port& port, int num_replicas) {
  return std::make_unique<SharedLines>(input, todo, port, num_replicas);
}

}  // namespace flexgen
