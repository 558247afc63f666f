#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/jinja/characters.h"
#include "text/jinja/format.h"
#include "text/jinja/methods.h"

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
  if (!list.items.empty() && budget) budget->check_room(count > kMaxRunBytes ? kMaxRunBytes + 1 : count * std::ssize(list.items) * static_cast<int64_t>(sizeof(Value)));
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

/// The place of an index that may count from the end; none if there is no such place.
std::optional<size_t> place_of(int64_t index, int64_t size) {
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  return static_cast<size_t>(index);
}

std::optional<Value> item_of(const Value& value, const Value& key) {
  if (const Dict* dict = value.dict()) {
    const Value* found = nullptr;
    try {
      found = dict->find(key);
    } catch (const Failure&) {  // an unhashable key: Jinja finds nothing
    }
    return found ? std::optional<Value>(*found) : std::nullopt;
  }
  const auto index = key.integer();
  if (!index) return std::nullopt;
  if (const List* list = value.list(); list && list->is_sequence()) {
    const auto place = place_of(*index, std::ssize(list->items));
    return place ? std::optional<Value>(list->items[*place]) : std::nullopt;
  }
  if (const Text* text = value.text()) {
    step_bytes(text->bytes.size());
    const auto place = place_of(*index, count_characters(text->bytes));
    if (!place) return std::nullopt;
    const size_t at = byte_of_character(text->bytes, static_cast<int64_t>(*place));
    return Value(text->bytes.substr(at, character_bytes(text->bytes, at)));
  }
  return std::nullopt;
}

std::optional<Value> attribute_of(const Value& value, std::string_view name) {
  if (name.starts_with('_')) {
    if (!name.starts_with("__") || value.object() || (value.dict() && value.dict()->find(name))) return std::nullopt;
    return make_undefined("access to attribute '{}' of '{}' object is unsafe.", name, type_name(value));
  }
  if (const Object* object = value.object()) return object->attribute(name);
  return method_of(value, name);
}

Value missing(const Value& value, const Value& key) {
  if (const Text* name = key.text()) return make_undefined("'{} object' has no attribute '{}'", type_name(value), name->bytes);
  return make_undefined("{} object has no element {}", type_name(value), repr(key));
}

int64_t bound_of(const Value& value, int64_t otherwise) {
  if (value.none()) return otherwise;
  if (value.undefined()) fail_undefined(value);
  const auto bound = value.integer();
  if (!bound) fail("slice indices must be integers or None, not '{}'", type_name(value));
  return *bound;
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
  return arithmetic("+", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_add_overflow(p, q, r); }, [](double p, double q) { return p + q; });
}

Value subtract(const Value& a, const Value& b) {
  return arithmetic("-", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_sub_overflow(p, q, r); }, [](double p, double q) { return p - q; });
}

Value multiply(const Value& a, const Value& b) {
  if (repeats(a) && b.integer()) return repeated(a, *b.integer());
  if (repeats(b) && a.integer()) return repeated(b, *a.integer());
  return arithmetic("*", a, b, [](int64_t p, int64_t q, int64_t* r) { return __builtin_mul_overflow(p, q, r); }, [](double p, double q) { return p * q; });
}

Value divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("/", a, b);
  if (*b.number() == 0) fail("division by zero");
  return *a.number() / *b.number();
}

Value floor_divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("//", a, b);
  if (*b.number() == 0) fail("division by zero");
  return arithmetic("//", a, b,
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
  return arithmetic("%", a, b,
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
    return text->bytes.find(part->bytes) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(item) != nullptr;
  if (container.undefined()) return false;
  const List* list = container.list();
  if (!list) fail("argument of type '{}' is not iterable", type_name(container));
  const std::vector<Value> taken = list->form == Form::kIterator ? items_of(container) : std::vector<Value>();
  const std::vector<Value>& items = list->form == Form::kIterator ? taken : list->items;
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equal(other, item); });
}

Value get_attribute(const Value& value, std::string_view name) {
  if (value.undefined()) fail_undefined(value);
  if (auto found = attribute_of(value, name)) return *found;
  if (const Dict* dict = value.dict())
    if (const Value* found = dict->find(name)) return *found;
  return make_undefined("'{}{}' has no attribute '{}'", type_name(value), value.none() ? "" : " object", name);
}

Value get_item(const Value& value, const Value& key) {
  if (value.undefined()) fail_undefined(value);
  if (auto found = item_of(value, key)) return *found;
  if (const Text* name = key.text())
    if (auto found = attribute_of(value, name->bytes)) return *found;
  return missing(value, key);
}

Value get_slice(const Value& value, const Value& start, const Value& stop, const Value& stride_value) {
  if (value.undefined()) fail_undefined(value);
  const List* list = value.list();
  const Text* text = value.text();
  if (!text && !(list && list->is_sequence())) fail("'{}' object is not subscriptable by a slice", type_name(value));
  const int64_t stride = bound_of(stride_value, 1);
  if (stride == 0) fail("slice step cannot be zero");
  if (text) step_bytes(text->bytes.size());
  const int64_t size = text ? count_characters(text->bytes) : std::ssize(list->items);
  const auto clamped = [&](int64_t bound) {
    if (bound < 0) bound = std::max<int64_t>(bound, -size - 1) + size;
    return stride > 0 ? std::clamp<int64_t>(bound, 0, size) : std::clamp<int64_t>(bound, -1, size - 1);
  };
  const int64_t from = start.none() ? (stride > 0 ? 0 : size - 1) : clamped(bound_of(start, 0));
  const int64_t to = stop.none() ? (stride > 0 ? size : -1) : clamped(bound_of(stop, 0));
  if (text && stride == 1) {
    if (from >= to) return Value(std::string(), text->markup);
    const size_t begin = byte_of_character(text->bytes, from);
    return Value(text->bytes.substr(begin, byte_of_character(std::string_view(text->bytes).substr(begin), to - from)), text->markup);
  }
  std::vector<size_t> places;  // of characters, where each begins
  if (text) {
    if (Budget* budget = Budget::current()) budget->check_room(size * static_cast<int64_t>(sizeof(size_t)));
    for (size_t at = 0; at < text->bytes.size(); at += character_bytes(text->bytes, at)) places.push_back(at);
  }
  std::vector<Value> items;
  std::string characters;
  for (int64_t i = from; stride > 0 ? i < to : i > to; i += stride) {
    const auto place = static_cast<size_t>(i);
    if (text) characters += text->bytes.substr(places[place], character_bytes(text->bytes, places[place]));
    else items.push_back(list->items[place]);
    if (stride > 0 ? i > size - stride : i < -stride) break;  // the next is past the end, and may be past 64 bits
  }
  if (text) return Value(std::move(characters), text->markup);
  return make_list(std::move(items), list->form == Form::kRange ? Form::kTuple : list->form);
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
