#include "text/jinja/methods.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace flexgen::jinja {
namespace {

using Form = List::Form;

Value dict_get(Run&, const Value& self, Args& args) {
  const Bound bound(args, "get()", {"key", "default"}, 1);
  const Value* found = self.dict()->find(*bound[0]);
  return found ? *found : bound.value(1);
}

Value dict_items(Run&, const Value& self, Args& args) {
  const Bound none(args, "items()", {});
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict()->items()) items.push_back(make_list({key, value}, Form::kTuple));
  return make_list(std::move(items), Form::kItems);
}

Value dict_keys(Run&, const Value& self, Args& args) {
  const Bound none(args, "keys()", {});
  return make_list(items_of(self), Form::kKeys);
}

Value dict_values(Run&, const Value& self, Args& args) {
  const Bound none(args, "values()", {});
  std::vector<Value> items;
  for (const auto& item : self.dict()->items()) items.push_back(item.second);
  return make_list(std::move(items), Form::kValues);
}

Value copy(Run&, const Value& self, Args& args) {
  const Bound none(args, "copy()", {});
  return self;  // nothing can change either
}

Value list_index(Run&, const Value& self, Args& args) {
  const Bound bound(args, "index()", {"value"}, 1);
  const auto& items = self.list()->items;
  const auto found = std::find_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); });
  if (found == items.end()) fail("{} is not in list", repr(*bound[0]));
  return static_cast<int64_t>(found - items.begin());
}

Value list_count(Run&, const Value& self, Args& args) {
  const Bound bound(args, "count()", {"value"}, 1);
  const auto& items = self.list()->items;
  return static_cast<int64_t>(std::count_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); }));
}

Value float_is_integer(Run&, const Value& self, Args& args) {
  const Bound none(args, "is_integer()", {});
  return *self.number() == std::floor(*self.number());
}

Value refused(const char* name, const Value& value) { return make_undefined("access to attribute '{}' of '{}' object is unsafe.", name, type_name(value)); }

}  // namespace

Operation dict_method(std::string_view name) {
  if (name == "get") return dict_get;
  if (name == "items") return dict_items;
  if (name == "keys") return dict_keys;
  if (name == "values") return dict_values;
  if (name == "copy") return copy;
  return nullptr;
}

Operation list_method(std::string_view name, bool is_list) {
  if (name == "index") return list_index;
  if (name == "count") return list_count;
  if (name == "copy" && is_list) return copy;
  return nullptr;
}

std::optional<Value> method_of(const Value& value, std::string_view name) {
  Operation method = nullptr;
  if (value.text()) {
    method = text_method(name);
  } else if (value.dict()) {
    static constexpr std::array kChanging{"clear", "pop", "popitem", "setdefault", "update"};
    for (const char* changing : kChanging)
      if (name == changing) return refused(changing, value);
    method = dict_method(name);
  } else if (const List* list = value.list()) {
    static constexpr std::array kChanging{"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};
    for (const char* changing : kChanging)
      if (list->form == Form::kList && name == changing) return refused(changing, value);
    if (list->is_sequence()) method = list_method(name, list->form == Form::kList);
  } else if (value.is<double>() && name == "is_integer") {
    method = float_is_integer;
  }
  if (!method) return std::nullopt;
  return make_method(value, method);
}

}  // namespace flexgen::jinja
