#include "text/jinja/tests.h"

#include <functional>
#include <map>

#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace flexgen::jinja {
namespace {

/// A test of the value alone.
template <bool (*kTest)(const Value&)>
Value alone(Run&, const Value& self, Args& args) {
  const Bound none(args, "the test", {});
  return kTest(self);
}

/// A test against another value.
template <bool (*kTest)(const Value&, const Value&)>
Value against(Run&, const Value& self, Args& args) {
  const Bound bound(args, "the test", {"other"}, 1);
  return kTest(self, *bound[0]);
}

bool is_defined(const Value& value) { return !value.undefined(); }
bool is_undefined(const Value& value) { return value.undefined(); }
bool is_none(const Value& value) { return value.none(); }
bool is_boolean(const Value& value) { return value.is<bool>(); }
bool is_true(const Value& value) { return value.is<bool>() && truth(value); }
bool is_false(const Value& value) { return value.is<bool>() && !truth(value); }
bool is_integer(const Value& value) { return value.is<int64_t>() || value.large(); }
bool is_float(const Value& value) { return value.is<double>(); }
bool is_number(const Value& value) { return value.is_number(); }
bool is_text(const Value& value) { return value.text() != nullptr; }
bool is_mapping(const Value& value) { return value.dict() != nullptr; }
bool is_escaped(const Value& value) { return value.text() && value.text()->markup; }
bool is_iterable(const Value& value) { return value.undefined() || value.text() || value.list() || value.dict(); }
bool is_sequence(const Value& value) { return value.undefined() || value.text() || value.dict() || (value.list() && value.list()->is_sequence()); }
bool is_callable(const Value& value) { return value.undefined() || dynamic_cast<const Function*>(value.object()); }
bool is_known_filter(const Value& value) { return value.text() && find_filter(value.text()->bytes); }
bool is_known_test(const Value& value) { return value.text() && find_test(value.text()->bytes); }
bool is_odd(const Value& value) { return equal(modulo(value, 2), 1); }
bool is_even(const Value& value) { return equal(modulo(value, 2), 0); }

bool is_not_equal(const Value& a, const Value& b) { return !equal(a, b); }
bool is_less(const Value& a, const Value& b) { return less(a, b); }
bool is_greater(const Value& a, const Value& b) { return less(b, a); }
bool is_at_most(const Value& a, const Value& b) { return less(a, b) || equal(a, b); }
bool is_at_least(const Value& a, const Value& b) { return less(b, a) || equal(a, b); }
bool is_in(const Value& item, const Value& container) { return contains(container, item); }
bool is_divisible(const Value& value, const Value& by) { return equal(modulo(value, by), 0); }

/// `is` of Python: of numbers and texts the same value in the same type.
bool is_same(const Value& a, const Value& b) {
  if (a.data().index() != b.data().index()) return false;
  if (a.list()) return a.list() == b.list();
  if (a.dict()) return a.dict() == b.dict();
  return equal(a, b);
}

template <bool kUpper>
Value has_case(Run& run, const Value& self, Args& args) {
  return text_method(kUpper ? "isupper" : "islower")(run, str(self), args);
}

}  // namespace

Operation find_test(std::string_view name) {
  // clang-format off
  static const std::map<std::string_view, Operation, std::less<>> kTests = {
      {"defined", alone<is_defined>}, {"undefined", alone<is_undefined>}, {"none", alone<is_none>}, {"boolean", alone<is_boolean>}, {"true", alone<is_true>}, {"false", alone<is_false>},
      {"integer", alone<is_integer>}, {"float", alone<is_float>}, {"number", alone<is_number>}, {"string", alone<is_text>}, {"mapping", alone<is_mapping>}, {"escaped", alone<is_escaped>},
      {"iterable", alone<is_iterable>}, {"sequence", alone<is_sequence>}, {"callable", alone<is_callable>}, {"filter", alone<is_known_filter>}, {"test", alone<is_known_test>},
      {"odd", alone<is_odd>}, {"even", alone<is_even>}, {"lower", has_case<false>}, {"upper", has_case<true>}, {"divisibleby", against<is_divisible>}, {"sameas", against<is_same>},
      {"in", against<is_in>}, {"eq", against<equal>}, {"equalto", against<equal>}, {"==", against<equal>}, {"ne", against<is_not_equal>}, {"!=", against<is_not_equal>},
      {"lt", against<is_less>}, {"lessthan", against<is_less>}, {"<", against<is_less>}, {"le", against<is_at_most>}, {"<=", against<is_at_most>},
      {"gt", against<is_greater>}, {"greaterthan", against<is_greater>}, {">", against<is_greater>}, {"ge", against<is_at_least>}, {">=", against<is_at_least>}};
  // clang-format on
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace flexgen::jinja
