#include "text/jinja/access.h"

#include <algorithm>

#include "text/jinja/characters.h"
#include "text/jinja/methods.h"

namespace flexgen::jinja {
namespace {

using Form = List::Form;

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

}  // namespace flexgen::jinja
