#pragma once
// Values as text: Python's str() and repr(), and json.dumps(). Texts that would exceed the rendering's budget are refused while they grow. Pure functions.

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "text/jinja/value.h"

namespace flexgen::jinja {

/// A text that grows within the budget, and counts while it does.
class GrowingText {
 public:
  GrowingText() : budget_(Budget::current()) {}
  ~GrowingText() { give_back(); }
  GrowingText(const GrowingText&) = delete;
  GrowingText& operator=(const GrowingText&) = delete;
  GrowingText& add(std::string_view piece);
  std::string take() {
    give_back();
    return std::move(text_);
  }

 private:
  void give_back() {
    if (budget_) budget_->give_back(std::exchange(counted_, 0));
  }
  std::string text_;
  Budget* budget_;
  int64_t counted_ = 0;
};

std::string str(const Value& value);
/// The same, without copying a text.
void add_str(GrowingText& out, const Value& value);
std::string repr(const Value& value);
/// As repr() writes a float.
std::string float_text(double value);

/// json.dumps's arguments.
struct JsonForm {
  bool ascii_only = false, sort_keys = false;
  std::optional<std::string> indent;  ///< of one level; none: all on one line
  std::string between_items = ", ", behind_key = ": ";
};
std::string to_json(const Value& value, const JsonForm& form);

}  // namespace flexgen::jinja
