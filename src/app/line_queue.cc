#include "app/line_queue.h"

#include "base/units.h"

namespace flexgen {
namespace {

class OwnLines : public LineQueue {
 public:
  OwnLines(const BatchInput& input, std::vector<size_t> todo) : input_(input), todo_(std::move(todo)) {
    for (size_t line : todo_) left_ += input_.lines()[line].num_sequences;
  }
  std::optional<size_t> next() override {
    if (at_ == todo_.size()) return std::nullopt;
    left_ -= input_.lines()[todo_[at_]].num_sequences;
    return todo_[at_++];
  }
  int64_t sequences_left() const override { return left_; }

 private:
  const BatchInput& input_;
  std::vector<size_t> todo_;
  size_t at_ = 0;
  int64_t left_ = 0;
};

class SharedLines : public LineQueue {
 public:
  SharedLines(const BatchInput& input, std::vector<size_t> todo, Port& port, int num_replicas)
      : todo_(std::move(todo)), port_(port), num_replicas_(num_replicas) {
    sequences_.push_back(0);
    for (size_t line : todo_) sequences_.push_back(sequences_.back() + input.lines()[line].num_sequences);
    draw();
  }
  ~SharedLines() override {
    try {
      drawn_.wait();  // nobody may write a ticket that is gone
    } catch (const std::exception&) {
    }
  }
  std::optional<size_t> next() override {
    if (over_) return std::nullopt;
    drawn_.wait();
    const int64_t ticket = *ticket_;
    if (ticket >= static_cast<int64_t>(todo_.size())) {
      over_ = true;
      return std::nullopt;
    }
    given_ = ticket + 1;
    draw();
    return todo_[static_cast<size_t>(ticket)];
  }
  int64_t sequences_left() const override {
    if (over_) return 0;
    return std::max<int64_t>(1, ceil_div(sequences_.back() - sequences_[static_cast<size_t>(given_)], num_replicas_));
  }

 private:
  /// One line ahead, so that nobody waits for the counter's answer.
  void draw() { drawn_ = port_.draw(ticket_.get()); }

  std::vector<size_t> todo_;
  std::vector<int64_t> sequences_;  ///< of the lines before
  Port& port_;
  int num_replicas_;
  std::unique_ptr<int64_t> ticket_ = std::make_unique<int64_t>(0);
  Event drawn_;
  int64_t given_ = 0;  ///< lines up to here are given out, by whomever
  bool over_ = false;
};

}  // namespace

std::unique_ptr<LineQueue> own_lines(const BatchInput& input, std::vector<size_t> todo) { return std::make_unique<OwnLines>(input, std::move(todo)); }

std::unique_ptr<LineQueue> shared_lines(const BatchInput& input, std::vector<size_t> todo, Port& port, int num_replicas) {
  return std::make_unique<SharedLines>(input, std::move(todo), port, num_replicas);
}

}  // namespace flexgen
