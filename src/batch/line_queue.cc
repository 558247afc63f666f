#include "batch/line_queue.h"

#include "base/units.h"

namespace flexgen {
namespace {

/// Through the lines, counting their sequences.
class OrderWalk {
 public:
  explicit OrderWalk(const LineOrder& lines) : lines_(lines) {}
  int64_t passed() const { return passed_; }
  int64_t sequences_left() const { return lines_.num_sequences() - sequences_; }
  LineToDo next() {
    const LineToDo line = lines_[passed_++];
    sequences_ += line.num_sequences;
    return line;
  }

 private:
  const LineOrder& lines_;
  int64_t passed_ = 0, sequences_ = 0;
};

class OwnLines : public LineQueue {
 public:
  explicit OwnLines(const LineOrder& lines) : walk_(lines), count_(lines.size()) {}
  std::optional<LineToDo> next() override {
    if (walk_.passed() == count_) return std::nullopt;
    return walk_.next();
  }
  int64_t sequences_left() const override { return walk_.sequences_left(); }

 private:
  OrderWalk walk_;
  int64_t count_;
};

class SharedLines : public LineQueue {
 public:
  SharedLines(const LineOrder& lines, Port& port, int num_replicas) : walk_(lines), lines_(lines), port_(port), num_replicas_(num_replicas) { draw(); }
  ~SharedLines() override {
    try {
      drawn_.wait();  // nobody may write a ticket that is gone
    } catch (const std::exception&) {
    }
  }
  std::optional<LineToDo> next() override {
    if (over_) return std::nullopt;
    if (walk_.passed() == run_end_) {
      drawn_.wait();
      // Tickets only grow: what lies between was given to others.
      while (runs_ <= *ticket_ && run_end_ < lines_.size()) {
        while (walk_.passed() < run_end_) walk_.next();
        run_end_ = end_of_run(run_end_);
        ++runs_;
      }
      if (runs_ <= *ticket_) {
        over_ = true;
        return std::nullopt;
      }
      draw();
    }
    return walk_.next();
  }
  int64_t sequences_left() const override {
    if (over_) return 0;
    return std::max<int64_t>(1, ceil_div(walk_.sequences_left(), num_replicas_));
  }

 private:
  /// Lines that share go to one replica, which computes what they share once; of many that do, so few that at the end no replica is left with much.
  static constexpr int64_t kMostInARun = 8;
  int64_t end_of_run(int64_t first) const {
    int64_t end = first + 1;
    while (end < lines_.size() && end - first < kMostInARun && lines_[end].shared_tokens > 0) ++end;
    return end;
  }
  /// One run ahead, so that nobody waits for the counter's answer.
  void draw() { drawn_ = port_.draw(ticket_.get()); }

  OrderWalk walk_;  ///< lines up to here are given out, by whomever
  const LineOrder& lines_;
  Port& port_;
  int num_replicas_;
  std::unique_ptr<int64_t> ticket_ = std::make_unique<int64_t>(0);
  int64_t runs_ = 0, run_end_ = 0;  ///< runs up to here, and where the last of them ends
  Event drawn_;
  bool over_ = false;
};

}  // namespace

std::unique_ptr<LineQueue> own_lines(const LineOrder& lines) { return std::make_unique<OwnLines>(lines); }

std::unique_ptr<LineQueue> shared_lines(const LineOrder& lines, Port& port, int num_replicas) {
  return std::make_unique<SharedLines>(lines, port, num_replicas);
}

}  // namespace flexgen
