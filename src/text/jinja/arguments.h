#pragma once
// Arguments of filters, tests, methods and functions, found by place or by name, as Python binds them.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/run.h"

namespace flexgen::jinja {

/// The arguments of one call by their places; lives as long as the Args that it was made of.
class Bound {
 public:
  /// Throws for too many arguments, unknown names, and if one of the first `required` is missing.
  Bound(const Args& args, std::string_view function, std::initializer_list<const char*> names, size_t required = 0);

  /// Null if it was not given.
  const Value* operator[](size_t index) const { return values_[index]; }
  bool given(size_t index) const { return values_[index] != nullptr; }
  Value value(size_t index, Value otherwise = None()) const { return values_[index] ? *values_[index] : otherwise; }
  bool flag(size_t index, bool otherwise) const { return values_[index] ? truth(*values_[index]) : otherwise; }
  /// Throws if it is no whole number.
  int64_t integer(size_t index, int64_t otherwise) const;
  /// Throws if it is no text.
  std::string_view text(size_t index, std::string_view otherwise) const;
  /// The same, where None stands for left out.
  bool has(size_t index) const { return values_[index] && !values_[index]->none(); }

 private:
  std::string function_;
  std::vector<const char*> names_;
  std::vector<const Value*> values_;
};

/// Calls `callee`, if it can be called.
Value call_value(Run& run, const Value& callee, Args& args);

/// A function that needs nothing but its arguments.
using PlainFunction = Value (*)(Run& run, const Args& args);
Value make_function(const char* name, PlainFunction function);

/// Methods, filters and tests: what they are applied to, and arguments.
using Operation = Value (*)(Run& run, const Value& self, Args& args);
Value make_method(Value self, Operation method);

}  // namespace flexgen::jinja
