#pragma once
// The statements of a template. Immutable once parsed.

#include <optional>

#include "text/jinja/syntax.h"

namespace flexgen::jinja {

/// Text between the tags.
struct Data : Statement {
  Data(int at_line, std::string data) : Statement(at_line), text(std::move(data)) {}
  Flow act(Run& run) const override;
  const std::string text;
};

/// {{ expression }}
struct Print : Statement {
  Print(int at_line, ExpressionPtr printed) : Statement(at_line), expression(std::move(printed)) {}
  Flow act(Run& run) const override;
  const ExpressionPtr expression;
};

/// {% set target = expression %}
struct Set : Statement {
  Set(int at_line, Target set_target, ExpressionPtr set_value) : Statement(at_line), target(std::move(set_target)), expression(std::move(set_value)) {}
  Flow act(Run& run) const override;
  const Target target;
  const ExpressionPtr expression;
};

using Filters = std::vector<std::unique_ptr<const Applied>>;

/// What the block prints, through filters, becomes a value, or is printed.
struct FilteredBlock : Statement {
  FilteredBlock(int at_line, std::optional<Target> set_target, Filters block_filters, Block block_body)
      : Statement(at_line), target(std::move(set_target)), filters(std::move(block_filters)), body(std::move(block_body)) {}
  Flow act(Run& run) const override;
  const std::optional<Target> target;
  const Filters filters;
  const Block body;
};

/// {% if %}, with elif and else.
struct If : Statement {
  If(int at_line, std::vector<std::pair<ExpressionPtr, Block>> if_branches, Block if_none)
      : Statement(at_line), branches(std::move(if_branches)), otherwise(std::move(if_none)) {}
  Flow act(Run& run) const override;
  const std::vector<std::pair<ExpressionPtr, Block>> branches;
  const Block otherwise;
};

/// {% for target in items if test %}, with else.
struct For : Statement {
  struct Source {
    Target target;
    ExpressionPtr items, test;  ///< test may be null
  };
  For(int at_line, int loop_name, Source of, Block loop_body, Block if_empty)
      : Statement(at_line), loop(loop_name), source(std::move(of)), body(std::move(loop_body)), otherwise(std::move(if_empty)) {}
  Flow act(Run& run) const override;
  const int loop;  ///< the name `loop`
  const Source source;
  const Block body, otherwise;
};

/// What a macro or a call block takes and does.
struct Signature {
  std::string name;
  std::vector<int> parameters;
  std::vector<ExpressionPtr> defaults;  ///< of the last parameters
  Block body;
  int caller = -1, varargs = -1, kwargs = -1;  ///< these names, where the body reads them
};

/// {% macro name(parameters) %}
struct MacroStatement : Statement {
  MacroStatement(int at_line, int macro_name, Signature macro_signature) : Statement(at_line), name(macro_name), signature(std::move(macro_signature)) {}
  Flow act(Run& run) const override;
  const int name;
  const Signature signature;
};

/// {% call(parameters) macro() %}: the block is the macro's caller().
struct CallBlock : Statement {
  CallBlock(int at_line, std::unique_ptr<const Call> called, Signature caller) : Statement(at_line), call(std::move(called)), signature(std::move(caller)) {}
  Flow act(Run& run) const override;
  const std::unique_ptr<const Call> call;
  const Signature signature;
};

/// with, generation: a scope of its own, with variables that are set first.
struct With : Statement {
  With(int at_line, std::vector<std::pair<Target, ExpressionPtr>> set_first, Block with_body)
      : Statement(at_line), variables(std::move(set_first)), body(std::move(with_body)) {}
  Flow act(Run& run) const override;
  const std::vector<std::pair<Target, ExpressionPtr>> variables;
  const Block body;
};

/// {% break %} and {% continue %}
struct Jump : Statement {
  Jump(int at_line, Flow where) : Statement(at_line), flow(where) {}
  Flow act(Run&) const override { return flow; }
  const Flow flow;
};

}  // namespace flexgen::jinja
