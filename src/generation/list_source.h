#pragma once
// ListSource: requests from a list; NoSink: answers that nobody wants. For tests and simulations. One thread.

#include <utility>
#include <vector>

#include "generation/batcher.h"

namespace flexgen {

class ListSource : public RequestSource {
 public:
  explicit ListSource(std::vector<Request> requests) : requests_(std::move(requests)) {}
  std::optional<Request> next() override {
    if (at_ == requests_.size()) return std::nullopt;
    return requests_[at_++];
  }
  int64_t remaining() const override { return static_cast<int64_t>(requests_.size() - at_); }

 private:
  std::vector<Request> requests_;
  size_t at_ = 0;
};

/// Drops all answers.
class NoSink : public CompletionSink {
 public:
  void accept(Completion) override {}
};

}  // namespace flexgen
