#pragma once
// Loop: the variable `loop` of a for loop. One thread.

#include <vector>

#include "text/jinja/run.h"

namespace flexgen::jinja {

class Loop : public Object {
 public:
  explicit Loop(std::vector<Value> items) : items_(std::move(items)) {}
  bool ended() const { return index_ == items_.size(); }
  void advance() { ++index_; }
  const Value& item() const { return items_[index_]; }

  const char* type_name() const override { return "LoopContext"; }
  std::optional<Value> attribute(std::string_view name) const override;
  std::string text() const override;

 private:
  class Cycle;
  std::vector<Value> items_;
  size_t index_ = 0;
};

/// The name of the loop variable.
inline constexpr const char* kLoopName = "loop";

}  // namespace flexgen::jinja
