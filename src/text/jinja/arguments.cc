#include "text/jinja/arguments.h"

#include <algorithm>

namespace flexgen::jinja {
namespace {

class Plain : public Function {
 public:
  Plain(const char* name, PlainFunction function) : name_(name), function_(function) {}
  std::string text() const override { return fmt::format("<function {}>", name_); }
  Value call(Run& run, Args& args) override { return function_(run, args); }

 private:
  const char* name_;
  PlainFunction function_;
};

class Method : public Function {
 public:
  Method(Value self, Operation operation) : self_(std::move(self)), operation_(operation) {}
  const char* type_name() const override { return "builtin_function_or_method"; }
  Value call(Run& run, Args& args) override { return operation_(run, self_, args); }

 private:
  Value self_;
  Operation operation_;
};

}  // namespace

Bound::Bound(const Args& args, std::string_view function, std::initializer_list<const char*> names, size_t required)
    : function_(function), names_(names), values_(names_.size(), nullptr) {
  if (args.positional.size() > values_.size()) fail("{} takes at most {} arguments, not {}", function_, values_.size(), args.positional.size());
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto found = std::find_if(names_.begin(), names_.end(), [&name = name](const char* own) { return name == own; });
    if (found == names_.end()) fail("{} takes no argument '{}'", function_, name);
    const auto index = static_cast<size_t>(found - names_.begin());
    if (values_[index]) fail("{} is given the argument '{}' twice", function_, name);
    values_[index] = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!values_[i]) fail("{} misses the argument '{}'", function_, names_[i]);
}

int64_t Bound::integer(size_t index, int64_t otherwise) const {
  if (!values_[index]) return otherwise;
  if (values_[index]->undefined()) fail_undefined(*values_[index]);
  const auto value = values_[index]->integer();
  if (!value) fail("{}: the argument '{}' is a '{}', not a whole number", function_, names_[index], type_name(*values_[index]));
  return *value;
}

std::string_view Bound::text(size_t index, std::string_view otherwise) const {
  if (!values_[index]) return otherwise;
  const Text* text = values_[index]->text();
  if (!text) fail("{}: the argument '{}' is a '{}', not a text", function_, names_[index], type_name(*values_[index]));
  return text->bytes;
}

Value call_value(Run& run, const Value& callee, Args& args) {
  if (callee.undefined()) fail_undefined(callee);
  auto* function = dynamic_cast<Function*>(callee.object());
  if (!function) fail("'{}' object is not callable", type_name(callee));
  const Deeper deeper(run);
  return function->call(run, args);
}

Value make_function(const char* name, PlainFunction function) { return std::shared_ptr<Object>(std::make_shared<Plain>(name, function)); }
Value make_method(Value self, Operation method) { return std::shared_ptr<Object>(std::make_shared<Method>(std::move(self), method)); }

}  // namespace flexgen::jinja
