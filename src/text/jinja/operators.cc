#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/jinja/characters.h"
#include "text/jinja/format.h"

namespace flexgen::jinja {
namespace {

using Form = List::Form;

void check_defined(const Value& a, const Value& b) {
  if (a.undefined()) fail_undefined(a);
  if (b.undefined()) fail_undefined(b);
}

[[noreturn]] void fail_types(const char* sign, const Value& a, const Value& b) {
  check_defined(a, b);
  fail("unsupported operand type(s) for {}: '{}' and '{}'", sign, type_name(a), type_name(b));
}

[[noreturn]] void fail_range() { fail("a whole number does not fit 64 bits"); }

/// Whole numbers by `whole` (which says whether it overflowed), others by `other`.
template <typename Whole, typename Other>
Value arithmetic(const char* sign, const Value& a, const Value& b, Whole whole, Other other) {
  if (!a.is_number() || !b.is_number()) fail_types(sign, a, b);
  if (a.large() || b.large()) fail_range();
  const auto x = a.integer(), y = b.integer();
  if (!x || !y) return other(*a.number(), *b.number());
  int64_t result = 0;
  if (whole(*x, *y, &result)) fail_range();
  return result;
}

Value repeated(const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  Budget* budget = Budget::current();
  if (const Text* text = value.text()) {
    // Checked before it is made.
    if (!text->bytes.empty() && budget) budget->check_room(count > kMaxRunBytes ? kMaxRunBytes + 1 : count * std::ssize(text->bytes));
    GrowingText out;
    if (!text->bytes.empty())
      for (int64_t i = 0; i < count; ++i) out.add(text->bytes);
    return Value(out.take(), text->markup);
  }
  const List& list = *value.list();
  if (!list.items.empty() && budget)
    budget->check_room(count > kMaxRunBytes ? kMaxRunBytes + 1 : count * std::ssize(list.items) * static_cast<int64_t>(sizeof(Value)));
  std::vector<Value> items;
  if (!list.items.empty())
    for (int64_t i = 0; i < count; ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  return make_list(std::move(items), list.form);
}

bool repeats(const Value& value) {
  const List* list = value.list();
  return value.text() || (list && (list->form == Form::kList || list->form == Form::kTuple));
}

/// Python's floor division and its rest.
int64_t floor_quotient(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double floor_rest(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

}  // namespace

Value add(const Value& a, const Value& b) {
  const Text *x = a.text(), *y = b.text();
  if (x && y) {
    const bool markup = x->markup || y->markup;
    GrowingText out;
    out.add(markup && !x->markup ? escaped_html(x->bytes) : x->bytes).add(markup && !y->markup ? escaped_html(y->bytes) : y->bytes);
    return Value(out.take(), markup);
  }
  if (x && !b.undefined()) fail("can only concatenate str (not \"{}\") to str", type_name(b));
  const List *left = a.list(), *right = b.list();
  if (left && right && left->form == right->form && (left->form == Form::kList || left->form == Form::kTuple)) {
    std::vector<Value> items;
    items.reserve(left->items.size() + right->items.size());
    items.insert(items.end(), left->items.begin(), left->items.end());
    items.insert(items.end(), right->items.begin(), right->items.end());
    return make_list(std::move(items), left->form);
  }
  return arithmetic(
      "+", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_add_overflow(p, q, r); }, [](double p, double q) { return p + q; });
}

Value subtract(const Value& a, const Value& b) {
  return arithmetic(
      "-", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_sub_overflow(p, q, r); }, [](double p, double q) { return p - q; });
}

Value multiply(const Value& a, const Value& b) {
  if (repeats(a) && b.integer()) return repeated(a, *b.integer());
  if (repeats(b) && a.integer()) return repeated(b, *a.integer());
  return arithmetic(
      "*", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_mul_overflow(p, q, r); }, [](double p, double q) { return p * q; });
}

Value divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("/", a, b);
  if (*b.number() == 0) fail("division by zero");
  return *a.number() / *b.number();
}

Value floor_divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("//", a, b);
  if (*b.number() == 0) fail("division by zero");
  return arithmetic(
      "//", a, b,
      [](int64_t p, int64_t q, int64_t* r) {
        if (q == -1 && p == std::numeric_limits<int64_t>::min()) return true;
        *r = floor_quotient(p, q);
        return false;
      },
      [](double p, double q) { return std::floor(p / q); });
}

Value modulo(const Value& a, const Value& b) {
  if (const Text* text = a.text()) return Value(format_percent(text->bytes, b), text->markup);
  if (!a.is_number() || !b.is_number()) fail_types("%", a, b);
  if (*b.number() == 0) fail("division by zero");
  return arithmetic(
      "%", a, b,
      [](int64_t p, int64_t q, int64_t* r) {
        *r = q == -1 ? 0 : p - floor_quotient(p, q) * q;
        return false;
      },
      floor_rest);
}

Value power(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("** or pow()", a, b);
  const auto exponent = b.integer();
  if (*a.number() == 0 && *b.number() < 0) fail("0.0 cannot be raised to a negative power");
  if (*a.number() < 0 && !exponent && *b.number() != std::floor(*b.number())) fail("a negative number has no power that is not whole");
  if (!a.integer() || !exponent || *exponent < 0) return std::pow(*a.number(), *b.number());
  int64_t result = 1, base = *a.integer();
  for (int64_t left = *exponent; left > 0; left >>= 1) {
    if ((left & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_range();
    if (left > 1 && __builtin_mul_overflow(base, base, &base)) fail_range();
  }
  return result;
}

Value negate(const Value& value) {
  if (value.undefined()) fail_undefined(value);
  if (!value.is_number()) fail("bad operand type for unary -: '{}'", type_name(value));
  if (auto whole = value.integer()) return subtract(0, *whole);
  if (value.large()) fail_range();
  return -*value.number();
}

bool contains(const Value& container, const Value& item) {
  if (const Text* text = container.text()) {
    if (item.undefined()) fail_undefined(item);
    const Text* part = item.text();
    if (!part) fail("'in <string>' requires string as left operand, not {}", type_name(item));
    step_bytes(text->bytes.size());
    return find_text(text->bytes, part->bytes) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(item) != nullptr;
  if (container.undefined()) return false;
  const List* list = container.list();
  if (!list) fail("argument of type '{}' is not iterable", type_name(container));
  const std::vector<Value> taken = list->form == Form::kIterator ? items_of(container) : std::vector<Value>();
  const std::vector<Value>& items = list->form == Form::kIterator ? taken : list->items;
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equal(other, item); });
}

std::string escaped_html(std::string_view text) {
  GrowingText out;
  for (char c : text) {
    switch (c) {
      case '&': out.add("&amp;"); break;
      case '<': out.add("&lt;"); break;
      case '>': out.add("&gt;"); break;
      case '\'': out.add("&#39;"); break;
      case '"': out.add("&#34;"); break;
      default: out.add({&c, 1});
    }
  }
  return out.take();
}

}  // namespace flexgen::jinja
