#pragma once
// A template's syntax tree: expressions give values, statements print and set. Immutable once parsed: any thread may run one.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/arguments.h"
#include "text/jinja/run.h"

namespace flexgen::jinja {

/// What has a value. Errors in it name its line.
struct Expression {
  explicit Expression(int at_line) : line(at_line) {}
  virtual ~Expression() = default;
  /// Throws Failure; then run.line is where.
  Value evaluate(Run& run) const {
    const Deeper deeper(run);
    run.line = line;
    return value(run);
  }
  const int line;

 protected:
  virtual Value value(Run& run) const = 0;
};
using ExpressionPtr = std::unique_ptr<const Expression>;

/// What a statement does to the loop around it.
enum class Flow { kOn, kBreak, kContinue };

/// What is carried out, and may print or jump.
struct Statement {
  explicit Statement(int at_line) : line(at_line) {}
  virtual ~Statement() = default;
  Flow execute(Run& run) const {
    const Deeper deeper(run);
    run.line = line;
    return act(run);
  }
  const int line;

 protected:
  virtual Flow act(Run& run) const = 0;
};
using Block = std::vector<std::unique_ptr<const Statement>>;

/// Ends early at a break or a continue.
Flow run_block(Run& run, const Block& block);

/// What stands in the parentheses of a call, not yet computed.
struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr list, dict;  ///< behind * and **; may be null

  Args evaluate(Run& run) const;
};

/// A number, a text, none, true or false.
struct Constant : Expression {
  Constant(int at_line, Value constant) : Expression(at_line), constant_(std::move(constant)) {}
  Value value(Run&) const override { return constant_; }
  const Value constant_;
};

/// A variable, by its number in Syntax::names; undefined if nothing set it.
struct Name : Expression {
  Name(int at_line, int name_number) : Expression(at_line), number(name_number) {}
  Value value(Run& run) const override;
  const int number;
};

/// [a, b], or (a, b) as a tuple.
struct ListLiteral : Expression {
  ListLiteral(int at_line, List::Form list_form, std::vector<ExpressionPtr> list_items) : Expression(at_line), form(list_form), items(std::move(list_items)) {}
  Value value(Run& run) const override;
  const List::Form form;
  const std::vector<ExpressionPtr> items;
};

/// {a: b, c: d}
struct DictLiteral : Expression {
  DictLiteral(int at_line, std::vector<std::pair<ExpressionPtr, ExpressionPtr>> dict_items) : Expression(at_line), items(std::move(dict_items)) {}
  Value value(Run& run) const override;
  const std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};

/// then if test else otherwise
struct Choice : Expression {
  Choice(int at_line, ExpressionPtr if_test, ExpressionPtr if_true, ExpressionPtr if_false)
      : Expression(at_line), test(std::move(if_test)), then(std::move(if_true)), otherwise(std::move(if_false)) {}
  Value value(Run& run) const override;
  const ExpressionPtr test, then, otherwise;  ///< otherwise may be null
};

/// a and b and c; a or b or c
struct Logical : Expression {
  Logical(int at_line, bool or_else, std::vector<ExpressionPtr> parts) : Expression(at_line), is_or(or_else), items(std::move(parts)) {}
  Value value(Run& run) const override;
  const bool is_or;
  const std::vector<ExpressionPtr> items;
};

/// not x
struct Not : Expression {
  Not(int at_line, ExpressionPtr negated) : Expression(at_line), of(std::move(negated)) {}
  Value value(Run& run) const override { return !truth(of->evaluate(run)); }
  const ExpressionPtr of;
};

/// a < b <= c
struct Comparison : Expression {
  enum class Sign { kEqual, kNotEqual, kLess, kAtMost, kMore, kAtLeast, kIn, kNotIn };
  Comparison(int at_line, ExpressionPtr first_part, std::vector<std::pair<Sign, ExpressionPtr>> parts)
      : Expression(at_line), first(std::move(first_part)), rest(std::move(parts)) {}
  Value value(Run& run) const override;
  const ExpressionPtr first;
  const std::vector<std::pair<Sign, ExpressionPtr>> rest;
};

/// a + b - c, from the left: signs of one rank.
struct Arithmetic : Expression {
  using Operator = Value (*)(const Value&, const Value&);
  Arithmetic(int at_line, ExpressionPtr first_part, std::vector<std::pair<Operator, ExpressionPtr>> parts)
      : Expression(at_line), first(std::move(first_part)), rest(std::move(parts)) {}
  Value value(Run& run) const override;
  const ExpressionPtr first;
  const std::vector<std::pair<Operator, ExpressionPtr>> rest;
};

/// a ~ b ~ c
struct Concatenation : Expression {
  Concatenation(int at_line, std::vector<ExpressionPtr> parts) : Expression(at_line), items(std::move(parts)) {}
  Value value(Run& run) const override;
  const std::vector<ExpressionPtr> items;
};

/// +x and -x
struct Signed : Expression {
  Signed(int at_line, bool minus, ExpressionPtr operand) : Expression(at_line), negative(minus), of(std::move(operand)) {}
  Value value(Run& run) const override;
  const bool negative;
  const ExpressionPtr of;
};

/// x.name: an attribute, or else the item of that name.
struct AttributeOf : Expression {
  AttributeOf(int at_line, ExpressionPtr object, std::string attribute) : Expression(at_line), of(std::move(object)), name(std::move(attribute)) {}
  Value value(Run& run) const override;
  const ExpressionPtr of;
  const std::string name;
};

/// x[key]: an item, or else the attribute of that name.
struct ItemOf : Expression {
  ItemOf(int at_line, ExpressionPtr object, ExpressionPtr index) : Expression(at_line), of(std::move(object)), key(std::move(index)) {}
  Value value(Run& run) const override;
  const ExpressionPtr of, key;
};

/// x[start:stop:stride]
struct SliceOf : Expression {
  SliceOf(int at_line, ExpressionPtr object, ExpressionPtr from, ExpressionPtr to, ExpressionPtr by)
      : Expression(at_line), of(std::move(object)), start(std::move(from)), stop(std::move(to)), stride(std::move(by)) {}
  Value value(Run& run) const override;
  const ExpressionPtr of, start, stop, stride;  ///< bounds may be null
};

/// callee(arguments)
struct Call : Expression {
  Call(int at_line, ExpressionPtr function, Arguments call_arguments)
      : Expression(at_line), callee(std::move(function)), arguments(std::move(call_arguments)) {}
  Value value(Run& run) const override { return call(run, nullptr); }
  /// `caller`: what a call block gives; may be null.
  Value call(Run& run, const Value* caller) const;
  const ExpressionPtr callee;
  const Arguments arguments;
};

/// Filters and tests. An unknown one is an error when it is applied: a template may ask first whether there is one.
struct Applied : Expression {
  /// What is applied: the kind for messages ("filter", "test"), the name, the function or null.
  struct Operator {
    const char* kind;
    std::string name;
    Operation apply;
  };
  Applied(int at_line, Operator applied, ExpressionPtr operand, Arguments operation_arguments)
      : Expression(at_line), operation(std::move(applied)), of(std::move(operand)), arguments(std::move(operation_arguments)) {}
  Value value(Run& run) const override;
  Value apply_to(Run& run, const Value& self) const;
  const Operator operation;
  const ExpressionPtr of;  ///< null: of a filter block
  const Arguments arguments;
};

/// Where a value goes: a name, a namespace's attribute, or several of these.
struct Target {
  int name = -1;          ///< of the variable or the namespace
  std::string attribute;  ///< empty: the variable
  std::vector<Target> parts;
  bool is_tuple = false;

  void assign(Run& run, const Value& value) const;
};

}  // namespace flexgen::jinja
