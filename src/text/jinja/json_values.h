#pragma once
// JSON as values: in its order, whole numbers of any size kept whole, as Python's json module reads it. Pure functions.

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace flexgen::jinja {

/// Takes a JSON parser's events, one value after the other into what is open. Throws Failure for what is nested too deep or has too many values.
class ValueBuilder {
 public:
  explicit ValueBuilder(int64_t max_values) : left_(max_values) {}

  void scalar(Value value) { put(std::move(value)); }
  /// A number that is no 64-bit integer, as it is written.
  void number(double value, std::string_view digits);
  void number_as_written(std::string_view digits) { put(std::make_shared<const LargeInt>(LargeInt{std::string(digits)})); }
  void open(bool dict);
  void key(std::string name) { open_.back().key = std::move(name); }
  void close();
  const Value& peek() const { return result_; }
  /// The first name that came twice in one object, of which the later value counts; empty if none did.
  const std::string& twice() const { return twice_; }
  Value take() { return std::move(result_); }

 private:
  struct Open {
    bool dict;
    std::string key;
    std::vector<Value> items;
    std::vector<Dict::Item> pairs;
  };
  void put(Value value);
  std::vector<Open> open_;
  Value result_;
  std::string twice_;
  int64_t left_;
};

/// What a number of JSON becomes that no 64-bit integer is: a value to compute with, or one that is written as it was (1.50, or more digits than a double has).
enum class Digits { kOfValue, kAsWritten };

/// A whole text of JSON. Throws Failure. `twice`: as ValueBuilder::twice, where it is wanted.
Value parse_json_value(std::string_view json, int64_t max_values, std::string* twice = nullptr, Digits digits = Digits::kOfValue);

}  // namespace flexgen::jinja
