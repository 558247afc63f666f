#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "text/jinja/access.h"
#include "text/jinja/characters.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/tests.h"

namespace flexgen::jinja {
namespace {

using Form = List::Form;

Value iterator(std::vector<Value> items) { return make_list(std::move(items), Form::kIterator); }

Value small_letters(const Value& value) { return value.text() ? Value(to_lower(value.text()->bytes)) : value; }

/// "address.city" or 0 of an item; an item that has none gives `otherwise`, if there is one.
Value attribute_of(const Value& item, const Value& path, const Value* otherwise) {
  if (path.none()) return item;
  Value value = item;
  if (!path.text()) return get_item(value, path);
  for (std::string_view part : split_text(path.text()->bytes, ".", -1, false)) {
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }) && part.size() < 10;
    value = get_item(value, number ? Value(std::atoi(std::string(part).c_str())) : Value(part));
    if (value.undefined() && otherwise) value = *otherwise;
  }
  return value;
}

Value length(Run&, const Value& self, Args& args) {
  const Bound none(args, "length", {});
  return length_of(self);
}

Value first(Run&, const Value& self, Args& args) {
  const Bound none(args, "first", {});
  if (const List* list = self.list(); list && list->form == Form::kIterator && list->used < list->items.size()) return list->items[list->used++];
  const std::vector<Value> items = items_of(self);
  return items.empty() ? make_undefined("No first item, sequence was empty.") : items.front();
}

Value last(Run&, const Value& self, Args& args) {
  const Bound none(args, "last", {});
  if (self.list() && self.list()->form == Form::kIterator) fail("'generator' object is not reversible");
  const std::vector<Value> items = items_of(self);
  return items.empty() ? make_undefined("No last item, sequence was empty.") : items.back();
}

Value list(Run&, const Value& self, Args& args) {
  const Bound none(args, "list", {});
  return make_list(items_of(self));
}

Value reverse(Run&, const Value& self, Args& args) {
  const Bound none(args, "reverse", {});
  if (self.text()) return get_slice(self, None(), None(), -1);
  if (self.undefined()) fail_undefined(self);
  if (self.list() && self.list()->form == Form::kIterator) fail("argument must be iterable");
  std::vector<Value> items = items_of(self);
  std::reverse(items.begin(), items.end());
  return iterator(std::move(items));
}

Value items(Run& run, const Value& self, Args& args) {
  const Bound none(args, "items", {});
  if (self.undefined()) return iterator({});
  if (!self.dict()) fail("Can only get item pairs from a mapping.");
  return iterator(items_of(dict_method("items")(run, self, args)));
}

Value join_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "join", {"d", "attribute"});
  const std::string between = bound.given(0) ? str(*bound[0]) : "";
  GrowingText out;
  bool is_first = true;
  for (const Value& item : items_of(self)) {
    if (!std::exchange(is_first, false)) out.add(between);
    add_str(out, attribute_of(item, bound.value(1), nullptr));
  }
  return out.take();
}

Value sum(Run&, const Value& self, Args& args) {
  const Bound bound(args, "sum", {"attribute", "start"});
  Value total = bound.value(1, 0);
  if (total.text()) fail("sum() can't sum strings");
  for (const Value& item : items_of(self)) total = add(total, attribute_of(item, bound.value(0), nullptr));
  return total;
}

Value dictsort(Run&, const Value& self, Args& args) {
  const Bound bound(args, "dictsort", {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound.text(1, "key");
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  if (self.undefined()) fail_undefined(self);
  if (!self.dict()) fail("'{}' object has no attribute 'items'", type_name(self));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : self.dict()->items()) {
    const Value& chosen = by == "key" ? key : value;
    keyed.emplace_back(bound.flag(0, false) ? chosen : small_letters(chosen), make_list({key, value}, Form::kTuple));
  }
  const bool reversed = bound.flag(2, false);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) { return reversed ? less(b.first, a.first) : less(a.first, b.first); });
  std::vector<Value> sorted;
  for (auto& pair : keyed) sorted.push_back(std::move(pair.second));
  return make_list(std::move(sorted));
}

Value sort(Run&, const Value& self, Args& args) {
  const Bound bound(args, "sort", {"reverse", "case_sensitive", "attribute"});
  const bool reversed = bound.flag(0, false), exact = bound.flag(1, false);
  std::vector<std::string_view> paths;
  if (bound.has(2) && bound[2]->text()) paths = split_text(bound[2]->text()->bytes, ",", -1, false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(self)) {
    std::vector<Value> keys;
    if (paths.empty()) keys.push_back(attribute_of(item, bound.value(2), nullptr));
    for (std::string_view path : paths) keys.push_back(attribute_of(item, path, nullptr));
    if (!exact)
      for (Value& key : keys) key = small_letters(key);
    keyed.emplace_back(make_list(std::move(keys)), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) { return reversed ? less(b.first, a.first) : less(a.first, b.first); });
  std::vector<Value> sorted;
  for (auto& pair : keyed) sorted.push_back(std::move(pair.second));
  return make_list(std::move(sorted));
}

Value unique(Run&, const Value& self, Args& args) {
  const Bound bound(args, "unique", {"case_sensitive", "attribute"});
  std::set<std::string> seen;
  std::vector<Value> kept;
  for (const Value& item : items_of(self)) {
    const Value key = attribute_of(item, bound.value(1), nullptr);
    if (seen.insert(key_text(bound.flag(0, false) ? key : small_letters(key))).second) kept.push_back(item);
  }
  return iterator(std::move(kept));
}

template <bool kMost>
Value extreme(Run&, const Value& self, Args& args) {
  const Bound bound(args, kMost ? "max" : "min", {"case_sensitive", "attribute"});
  const std::vector<Value> all = items_of(self);
  if (all.empty()) return make_undefined("No aggregated item, sequence was empty.");
  const auto key = [&](const Value& item) {
    const Value own = attribute_of(item, bound.value(1), nullptr);
    return bound.flag(0, false) ? own : small_letters(own);
  };
  const Value* best = &all.front();
  Value best_key = key(*best);
  for (const Value& item : all) {
    const Value own = key(item);
    if (kMost ? less(best_key, own) : less(own, best_key)) {
      best = &item;
      best_key = own;
    }
  }
  return *best;
}

/// What remains of the arguments behind the first few.
Args behind(const Args& args, size_t count) {
  Args rest;
  rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(std::min(count, args.positional.size())), args.positional.end());
  rest.named = args.named;
  return rest;
}

Value map(Run& run, const Value& self, Args& args) {
  std::vector<Value> results;
  if (!truth(self)) return iterator({});  // None too
  if (args.positional.empty()) {
    const Bound bound(args, "map", {"attribute", "default"}, 1);
    const Value* otherwise = bound.has(1) ? bound[1] : nullptr;
    for (const Value& item : items_of(self)) results.push_back(attribute_of(item, *bound[0], otherwise));
    return iterator(std::move(results));
  }
  const Text* name = args.positional[0].text();
  const Operation filter = name ? find_filter(name->bytes) : nullptr;
  if (!filter) fail("map: there is no filter named {}", repr(args.positional[0]));
  for (const Value& item : items_of(self)) {
    Args rest = behind(args, 1);
    const Deeper deeper(run);
    results.push_back(filter(run, item, rest));
  }
  return iterator(std::move(results));
}

/// select, reject, selectattr, rejectattr.
template <bool kWanted, bool kAttribute>
Value select(Run& run, const Value& self, Args& args) {
  if (!truth(self)) return iterator({});  // None too
  const size_t at = kAttribute ? 1 : 0;
  if (args.positional.size() < at) fail("Missing parameter for attribute name");
  Operation test = nullptr;
  if (args.positional.size() > at) {
    const Text* name = args.positional[at].text();
    test = name ? find_test(name->bytes) : nullptr;
    if (!test) fail("there is no test named {}", repr(args.positional[at]));
  }
  std::vector<Value> kept;
  for (const Value& item : items_of(self)) {
    const Value value = kAttribute ? attribute_of(item, args.positional[0], nullptr) : item;
    bool passes = false;
    if (test) {
      Args rest = behind(args, at + 1);
      const Deeper deeper(run);
      passes = truth(test(run, value, rest));
    } else {
      passes = truth(value);
    }
    if (passes == kWanted) kept.push_back(item);
  }
  return iterator(std::move(kept));
}

Value batch(Run&, const Value& self, Args& args) {
  const Bound bound(args, "batch", {"linecount", "fill_with"}, 1);
  const int64_t size = bound.integer(0, 1);
  if (size < 1) fail("batch: a line of {} items", size);
  std::vector<Value> lines, line;
  for (const Value& item : items_of(self)) {
    if (std::ssize(line) == size) lines.push_back(make_list(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    if (bound.has(1)) {
      if (Budget* budget = Budget::current()) budget->check_room(size > kMaxRunBytes ? kMaxRunBytes + 1 : size * static_cast<int64_t>(sizeof(Value)));
      while (std::ssize(line) < size) line.push_back(*bound[1]);
    }
    lines.push_back(make_list(std::move(line)));
  }
  return iterator(std::move(lines));
}

Value attr(Run&, const Value& self, Args& args) {
  const Bound bound(args, "attr", {"name"}, 1);
  if (self.undefined()) fail_undefined(self);
  const std::string_view name = bound.text(0, "");
  const auto found = self.object() ? self.object()->attribute(name) : method_of(self, name);
  return found ? *found : make_undefined("'{} object' has no attribute '{}'", type_name(self), name);
}

}  // namespace

Operation item_filter(std::string_view name) {
  // clang-format off
  static const std::map<std::string_view, Operation, std::less<>> kFilters = {
      {"length", length}, {"count", length}, {"first", first}, {"last", last}, {"list", list}, {"reverse", reverse}, {"items", items}, {"join", join_filter}, {"sum", sum},
      {"dictsort", dictsort}, {"sort", sort}, {"unique", unique}, {"min", extreme<false>}, {"max", extreme<true>}, {"map", map}, {"batch", batch}, {"attr", attr},
      {"select", select<true, false>}, {"reject", select<false, false>}, {"selectattr", select<true, true>}, {"rejectattr", select<false, true>}};
  // clang-format on
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace flexgen::jinja
