#include "text/jinja/access.h"
#include "text/jinja/operators.h"
#include "text/jinja/syntax.h"

namespace flexgen::jinja {
namespace {

bool holds(Comparison::Sign sign, const Value& a, const Value& b) {
  using Sign = Comparison::Sign;
  switch (sign) {
    case Sign::kEqual: return equal(a, b);
    case Sign::kNotEqual: return !equal(a, b);
    case Sign::kLess: return less(a, b);
    case Sign::kMore: return less(b, a);
    case Sign::kAtMost: return less(a, b) || equal(a, b);
    case Sign::kAtLeast: return less(b, a) || equal(a, b);
    case Sign::kIn: return contains(b, a);
    case Sign::kNotIn: return !contains(b, a);
  }
  return false;
}

Value value_or_none(Run& run, const ExpressionPtr& expression) { return expression ? expression->evaluate(run) : Value(None()); }

/// What an attribute, an item or a name gave.
Value checked(const Run& run, Value value) {
  if (run.strict && value.undefined()) fail_undefined(value);
  return value;
}

/// Whether a filter or a test is for what may not be there.
bool takes_undefined(std::string_view name) { return name == "defined" || name == "undefined" || name == "default" || name == "d"; }

}  // namespace

Args Arguments::evaluate(Run& run) const {
  Args args;
  for (const auto& expression : positional) args.positional.push_back(expression->evaluate(run));
  for (const auto& [name, expression] : named) args.named.emplace_back(name, expression->evaluate(run));
  if (list) {
    std::vector<Value> items = items_of(list->evaluate(run));
    args.charge = std::make_unique<Charge>(items.size() * sizeof(Value));
    args.positional.insert(args.positional.end(), items.begin(), items.end());
  }
  if (dict) {
    const Value given = dict->evaluate(run);
    if (!given.dict()) fail("argument after ** must be a mapping, not {}", type_name(given));
    for (const auto& [key, value] : given.dict()->items()) {
      if (!key.text()) fail("keywords must be strings");
      args.named.emplace_back(key.text()->bytes, value);
    }
  }
  return args;
}

Value Name::value(Run& run) const {
  if (const Value* found = run.scope->find(number)) return *found;
  return checked(run, make_undefined("'{}' is undefined", run.name(number)));
}

Value ListLiteral::value(Run& run) const {
  std::vector<Value> values;
  for (const auto& item : items) values.push_back(item->evaluate(run));
  return make_list(std::move(values), form);
}

Value DictLiteral::value(Run& run) const {
  std::vector<Dict::Item> values;
  for (const auto& [key, item] : items) {
    Value name = key->evaluate(run);
    values.emplace_back(std::move(name), item->evaluate(run));
  }
  return make_dict(std::move(values));
}

Value Choice::value(Run& run) const {
  if (truth(test->evaluate(run))) return then->evaluate(run);
  if (otherwise) return otherwise->evaluate(run);
  return make_undefined("the inline if-expression on line {} evaluated to false and no else section was defined.", line);
}

Value Logical::value(Run& run) const {
  Value last;
  for (const auto& item : items) {
    last = item->evaluate(run);
    if (truth(last) == is_or) break;
  }
  return last;
}

Value Comparison::value(Run& run) const {
  Value left = first->evaluate(run);
  for (const auto& [sign, expression] : rest) {
    Value right = expression->evaluate(run);
    run.line = line;
    if (!holds(sign, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Arithmetic::value(Run& run) const {
  Value result = first->evaluate(run);
  for (const auto& [apply, expression] : rest) {
    const Value operand = expression->evaluate(run);
    run.line = line;
    result = apply(result, operand);
  }
  return result;
}

Value Concatenation::value(Run& run) const {
  GrowingText out;
  for (const auto& item : items) add_str(out, item->evaluate(run));
  return out.take();
}

Value Signed::value(Run& run) const {
  const Value operand = of->evaluate(run);
  run.line = line;
  const Value result = negate(operand);
  return negative ? result : negate(result);
}

Value AttributeOf::value(Run& run) const {
  const Value object = of->evaluate(run);
  run.line = line;
  return checked(run, get_attribute(object, name));
}

Value ItemOf::value(Run& run) const {
  const Value object = of->evaluate(run), index = key->evaluate(run);
  run.line = line;
  return checked(run, get_item(object, index));
}

Value SliceOf::value(Run& run) const {
  const Value object = of->evaluate(run), from = value_or_none(run, start), to = value_or_none(run, stop), by = value_or_none(run, stride);
  run.line = line;
  return get_slice(object, from, to, by);
}

Value Call::call(Run& run, const Value* caller) const {
  const Value function = callee->evaluate(run);
  Args args = arguments.evaluate(run);
  if (caller) args.named.emplace_back("caller", *caller);
  run.line = line;
  Value result = call_value(run, function, args);
  run.line = line;
  return result;
}

Value Applied::value(Run& run) const {
  if (!run.strict || !takes_undefined(operation.name)) return apply_to(run, of->evaluate(run));
  run.strict = false;
  const Value self = of->evaluate(run);
  run.strict = true;
  return apply_to(run, self);
}

Value Applied::apply_to(Run& run, const Value& self) const {
  Args args = arguments.evaluate(run);
  run.line = line;
  if (!operation.apply) fail("there is no {} named '{}'", operation.kind, operation.name);
  return operation.apply(run, self, args);
}

void Target::assign(Run& run, const Value& value) const {
  if (is_tuple) {
    const std::vector<Value> values = items_of(value);
    if (values.size() != parts.size()) fail("{} values to unpack into {} names", values.size(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) parts[i].assign(run, values[i]);
  } else if (attribute.empty()) {
    run.scope->set(name, value);
  } else {
    const Value* found = run.scope->find(name);
    auto* space = found ? dynamic_cast<Namespace*>(found->object()) : nullptr;
    if (!space) fail("cannot assign attribute on non-namespace object: '{}.{}'", run.name(name), attribute);
    space->set(attribute, value);
  }
}

}  // namespace flexgen::jinja
