#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/characters.h"

namespace flexgen::jinja {
namespace {

constexpr size_t kFewKeys = 8;

/// Keys that are equal in Python give the same text: 1, 1.0 and True.
void append_key(std::string& out, const Value& key) {
  if (const Text* text = key.text()) {
    out.append("t").append(std::to_string(text->bytes.size())).append(":").append(text->bytes);
  } else if (key.none()) {
    out += "n";
  } else if (auto integer = key.integer()) {
    out.append("i").append(std::to_string(*integer)).append(";");
  } else if (const double* number = key.get<double>()) {
    if (*number == std::floor(*number) && std::abs(*number) < 0x1p62) out.append("i").append(std::to_string(static_cast<int64_t>(*number))).append(";");
    else out.append("f").append(fmt::format("{}", *number)).append(";");
  } else if (const LargeInt* large = key.large()) {
    out.append("i").append(large->digits).append(";");
  } else if (const List* list = key.list(); list && list->form == List::Form::kTuple) {
    out += "(";
    for (const Value& item : list->items) append_key(out, item);
    out += ")";
  } else if (key.undefined()) {
    out += "u";
  } else if (const Object* object = key.object()) {
    out.append(fmt::format("o{};", static_cast<const void*>(object)));
  } else {
    fail("unhashable type: '{}'", type_name(key));
  }
}

int deepest(int depth) {
  if (depth > kMaxValueDepth) fail("lists and dicts are nested more than {} levels deep", kMaxValueDepth);
  return depth;
}

int list_depth(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return deepest(depth + 1);
}

int dict_depth(const std::vector<Dict::Item>& items) {
  int depth = 0;
  for (const auto& [key, value] : items) depth = std::max({depth, depth_of(key), depth_of(value)});
  return deepest(depth + 1);
}

bool equal_lists(const List& a, const List& b) {
  if (&a == &b) return true;
  if (a.form != b.form || a.items.size() != b.items.size() || a.form == List::Form::kIterator || a.form == List::Form::kValues) return false;
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.items().size() != b.items().size()) return false;
  for (const auto& [key, value] : a.items()) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other)) return false;
  }
  return true;
}

/// A number as it is compared: whole numbers stay whole.
bool less_numbers(const Value& a, const Value& b) {
  const auto whole_a = a.integer(), whole_b = b.integer();
  return whole_a && whole_b ? *whole_a < *whole_b : *a.number() < *b.number();
}

}  // namespace

thread_local Budget* Budget::current_ = nullptr;

std::string key_text(const Value& key) {
  std::string out;
  append_key(out, key);
  return out;
}

Text::Text(std::string text, bool is_markup) : bytes(std::move(text)), markup(is_markup), charge(sizeof(Text) + 32 + bytes.capacity()) {
  step_bytes(bytes.size());
}

List::List(Form list_form, std::vector<Value> list_items)
    : form(list_form), items(std::move(list_items)), depth(list_depth(items)), charge(sizeof(List) + 32 + items.capacity() * sizeof(Value)) {
  step(1 + static_cast<int64_t>(items.size() / 8));
}

Dict::Dict(std::vector<Item> items)
    : depth_(dict_depth(items)), charge_(sizeof(Dict) + 32 + items.size() * (sizeof(Item) + (items.size() > kFewKeys ? 96 : 0))) {
  step(1 + static_cast<int64_t>(items.size()));
  const bool few = items.size() <= kFewKeys && std::all_of(items.begin(), items.end(), [](const Item& item) { return item.first.text(); });
  items_.reserve(items.size());
  for (Item& item : items) {
    if (few) {
      auto found = std::find_if(items_.begin(), items_.end(), [&](const Item& other) { return other.first.text()->bytes == item.first.text()->bytes; });
      if (found == items_.end()) items_.push_back(std::move(item));
      else found->second = std::move(item.second);
      continue;
    }
    auto [place, fresh] = index_.emplace(key_text(item.first), items_.size());
    if (fresh) items_.push_back(std::move(item));
    else items_[place->second].second = std::move(item.second);
  }
}

const Value* Value::member(std::string_view key) const {
  const Value* found = dict() ? dict()->find(key) : nullptr;
  return found && !found->none() ? found : nullptr;
}

const Value* Dict::find(const Value& key) const {
  if (!index_.empty()) {
    auto found = index_.find(key_text(key));
    return found == index_.end() ? nullptr : &items_[found->second].second;
  }
  if (const Text* text = key.text()) return find(std::string_view(text->bytes));
  key_text(key);  // throws if it can't be one
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (!index_.empty()) return find(Value(key));
  for (const auto& [name, value] : items_)
    if (name.text()->bytes == key) return &value;
  return nullptr;
}

std::optional<int64_t> Value::integer() const {
  if (const int64_t* value = get<int64_t>()) return *value;
  if (const bool* value = get<bool>()) return *value ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (auto whole = integer()) return static_cast<double>(*whole);
  if (const double* value = get<double>()) return *value;
  if (const LargeInt* value = large()) return std::strtod(value->digits.c_str(), nullptr);
  return std::nullopt;
}

Value make_list(std::vector<Value> items, List::Form form) { return std::make_shared<const List>(form, std::move(items)); }
Value make_dict(std::vector<Dict::Item> items) { return std::make_shared<const Dict>(std::move(items)); }

void fail_undefined(const Value& value) { throw Failure(*value.get<Undefined>()->why); }

std::string type_name(const Value& value) {
  if (value.undefined()) return "Undefined";
  if (value.none()) return "NoneType";
  if (value.is<bool>()) return "bool";
  if (value.is<int64_t>() || value.large()) return "int";
  if (value.is<double>()) return "float";
  if (const Text* text = value.text()) return text->markup ? "Markup" : "str";
  if (value.dict()) return "dict";
  if (const Object* object = value.object()) return object->type_name();
  switch (value.list()->form) {
    case List::Form::kList: return "list";
    case List::Form::kTuple: return "tuple";
    case List::Form::kRange: return "range";
    case List::Form::kKeys: return "dict_keys";
    case List::Form::kValues: return "dict_values";
    case List::Form::kItems: return "dict_items";
    case List::Form::kIterator: return "generator";
  }
  return "object";
}

bool truth(const Value& value) {
  if (value.undefined() || value.none()) return false;
  if (auto number = value.number()) return *number != 0;
  if (const Text* text = value.text()) return !text->bytes.empty();
  if (const List* list = value.list()) return list->form == List::Form::kIterator || !list->items.empty();
  if (const Dict* dict = value.dict()) return !dict->items().empty();
  return true;
}

bool equal(const Value& a, const Value& b) {
  step(1);
  if (const LargeInt* x = a.large(), *y = b.large(); x && y) return x->digits == y->digits;
  if (a.is_number() && b.is_number()) {
    const auto whole_a = a.integer(), whole_b = b.integer();
    return whole_a && whole_b ? *whole_a == *whole_b : *a.number() == *b.number();
  }
  if (const Text* x = a.text(), *y = b.text(); x && y) {
    step_bytes(std::min(x->bytes.size(), y->bytes.size()));
    return x->bytes == y->bytes;
  }
  if (a.none() || a.undefined()) return a.data().index() == b.data().index();
  if (const List* x = a.list(), *y = b.list(); x && y) return equal_lists(*x, *y);
  if (const Dict* x = a.dict(), *y = b.dict(); x && y) return equal_dicts(*x, *y);
  return a.object() && a.object() == b.object();
}

bool less(const Value& a, const Value& b) {
  step(1);
  if (a.is_number() && b.is_number()) return less_numbers(a, b);
  if (const Text* x = a.text(), *y = b.text(); x && y) {
    step_bytes(std::min(x->bytes.size(), y->bytes.size()));
    return x->bytes < y->bytes;  // UTF-8 has the order of the characters
  }
  if (const List* x = a.list(), *y = b.list(); x && y && x->form == y->form && (x->form == List::Form::kList || x->form == List::Form::kTuple)) {
    for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i)
      if (!equal(x->items[i], y->items[i])) return less(x->items[i], y->items[i]);
    return x->items.size() < y->items.size();
  }
  if (a.undefined()) fail_undefined(a);
  if (b.undefined()) fail_undefined(b);
  fail("'{}' and '{}' cannot be ordered", type_name(a), type_name(b));
}

int depth_of(const Value& value) {
  if (const List* list = value.list()) return list->depth;
  if (const Dict* dict = value.dict()) return dict->depth();
  return 0;
}

std::vector<Value> items_of(const Value& value) {
  if (value.undefined()) return {};
  const auto check_copy = [](size_t count) {
    if (Budget* budget = Budget::current()) budget->check_room(static_cast<int64_t>(count * sizeof(Value)));
  };
  if (const List* list = value.list()) {
    check_copy(list->items.size());
    step(1 + static_cast<int64_t>(list->items.size() / 8));
    if (list->form != List::Form::kIterator) return list->items;
    const auto from = list->items.begin() + static_cast<std::ptrdiff_t>(list->used);
    list->used = list->items.size();
    return {from, list->items.end()};
  }
  std::vector<Value> items;
  if (const Dict* dict = value.dict()) {
    step(1 + static_cast<int64_t>(dict->items().size() / 8));
    check_copy(dict->items().size());
    for (const auto& item : dict->items()) items.push_back(item.first);
    return items;
  }
  if (const Text* text = value.text()) {
    check_copy(text->bytes.size());
    for (size_t at = 0; at < text->bytes.size();) {
      const size_t bytes = character_bytes(text->bytes, at);
      items.emplace_back(text->bytes.substr(at, bytes));
      at += bytes;
    }
    return items;
  }
  fail("'{}' object is not iterable", type_name(value));
}

int64_t length_of(const Value& value) {
  if (value.undefined()) return 0;
  if (const Text* text = value.text()) return count_characters(text->bytes);
  if (const List* list = value.list(); list && list->form != List::Form::kIterator) return static_cast<int64_t>(list->items.size());
  if (const Dict* dict = value.dict()) return static_cast<int64_t>(dict->items().size());
  fail("object of type '{}' has no len()", type_name(value));
}

}  // namespace flexgen::jinja
