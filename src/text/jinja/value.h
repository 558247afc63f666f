#pragma once
// Value: what a template computes with, as Python has it. Texts, lists and dicts never change once they are made (Jinja's immutable sandbox), so they
// hold no circles; a namespace can change, and whoever renders lets go of its content at the end. Values may be read from any thread, but for iterators.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/budget.h"

namespace flexgen::jinja {

class Value;
class Dict;

/// A name that nothing has, an attribute that is not there. `why` is the message for whoever uses it.
struct Undefined {
  std::shared_ptr<const std::string> why;
};
/// Python's None.
struct None {};

/// Valid UTF-8. `markup`: came from the filters safe or escape; what is added to it is escaped.
struct Text {
  explicit Text(std::string text, bool is_markup = false);
  std::string bytes;
  bool markup;
  Charge charge;
};

/// A number of JSON as it is written, a whole one that 64 bits cannot hold or any of which the digits are kept (Digits): it can be written, compared, and no more.
struct LargeInt {
  std::string digits;
};

/// List, tuple, and what Python's iterators and views are.
struct List {
  enum class Form { kList, kTuple, kRange, kKeys, kValues, kItems, kIterator };
  List(Form list_form, std::vector<Value> list_items);
  bool is_sequence() const { return form == Form::kList || form == Form::kTuple || form == Form::kRange; }
  Form form;
  std::vector<Value> items;
  mutable size_t used = 0;                  ///< of an iterator's items: those that were taken
  int64_t start = 0, stop = 0, stride = 1;  ///< of a range
  int depth;
  Charge charge;
};

/// What has an identity: namespaces, functions, the loop variable.
class Object {
 public:
  virtual ~Object() = default;
  virtual const char* type_name() const = 0;
  /// The attribute's value; none if it has no such attribute.
  virtual std::optional<Value> attribute(std::string_view name) const = 0;
  /// What is printed for it.
  virtual std::string text() const = 0;
};

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const LargeInt>, std::shared_ptr<const List>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() : data_(None()) {}
  Value(Undefined undefined) : data_(std::move(undefined)) {}
  Value(None) : data_(None()) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(int value) : data_(static_cast<int64_t>(value)) {}
  Value(double value) : data_(value) {}
  Value(std::string text, bool markup = false) : data_(std::make_shared<const Text>(std::move(text), markup)) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(std::shared_ptr<const LargeInt> number) : data_(std::move(number)) {}
  Value(std::shared_ptr<const List> list) : data_(std::move(list)) {}
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  template <typename T>
  Value(T*) = delete;

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <typename T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }

  bool undefined() const { return is<Undefined>(); }
  bool none() const { return is<None>(); }
  const Text* text() const { return pointer<Text>(); }
  const List* list() const { return pointer<List>(); }
  const Dict* dict() const { return pointer<Dict>(); }
  const LargeInt* large() const { return pointer<LargeInt>(); }
  /// Of a dict what it has under this key, if that is not none; else null, as of what is no dict.
  const Value* member(std::string_view key) const;
  Object* object() const {
    const auto* found = get<std::shared_ptr<Object>>();
    return found ? found->get() : nullptr;
  }
  /// Of an int or a bool.
  std::optional<int64_t> integer() const;
  /// Of any number.
  std::optional<double> number() const;
  bool is_number() const { return is<int64_t>() || is<double>() || is<bool>() || large(); }
  const Data& data() const { return data_; }

 private:
  template <typename T>
  const T* pointer() const {
    const auto* found = get<std::shared_ptr<const T>>();
    return found ? found->get() : nullptr;
  }
  Data data_;
};

/// In the order in which keys came.
class Dict {
 public:
  using Item = std::pair<Value, Value>;
  /// Later values of a key take the place of earlier ones. Throws for a key that cannot be one (a list).
  explicit Dict(std::vector<Item> items);
  const std::vector<Item>& items() const { return items_; }
  /// Null if there is none. Throws for what cannot be a key.
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  int depth() const { return depth_; }

 private:
  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> index_;  ///< of dicts with more than a few keys, and of those with keys that are no texts
  int depth_;
  Charge charge_;
};

Value make_list(std::vector<Value> items, List::Form form = List::Form::kList);
Value make_dict(std::vector<Dict::Item> items);
template <typename... Args>
Value make_undefined(fmt::format_string<Args...> why, Args&&... args) {
  return Undefined{std::make_shared<const std::string>(fmt::format(why, std::forward<Args>(args)...))};
}
/// Throws what an undefined value says of itself.
[[noreturn]] void fail_undefined(const Value& value);

/// Python's name of the type, "str".
std::string type_name(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
/// Throws where Python cannot order them.
bool less(const Value& a, const Value& b);
int depth_of(const Value& value);
/// The same for values that are one key of a dict. Throws for what cannot be a key.
std::string key_text(const Value& key);
/// What a loop goes through: items, keys, characters. Takes an iterator's items. Throws for what is none.
std::vector<Value> items_of(const Value& value);
/// len(). Throws for what has none.
int64_t length_of(const Value& value);

}  // namespace flexgen::jinja
