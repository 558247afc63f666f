#include "text/jinja/statements.h"

#include <algorithm>

#include "text/jinja/loop.h"

namespace flexgen::jinja {
namespace {

/// A macro, with the variables that were there when it was made. `signature` belongs to the template, which outlives the run.
class Macro : public Function {
 public:
  Macro(const Signature& signature, const std::shared_ptr<Scope>& scope) : signature_(signature), scope_(scope) {}
  const char* type_name() const override { return "Macro"; }
  std::optional<Value> attribute(std::string_view name) const override {
    if (name == "name") return Value(signature_.name);
    return std::nullopt;
  }
  std::string text() const override { return fmt::format("<Macro '{}'>", signature_.name); }

  Value call(Run& run, Args& args) override {
    const int line = run.line;
    const Inner inner(run, scope_.lock());
    set_parameters(run, args);
    Captured captured(run);
    run_block(run, signature_.body);
    run.line = line;
    return captured.take();
  }

 private:
  void set_parameters(Run& run, Args& args) const {
    const size_t count = signature_.parameters.size(), first_default = count - signature_.defaults.size();
    for (size_t i = 0; i < count; ++i) {
      const int parameter = signature_.parameters[i];
      const auto named = std::find_if(args.named.begin(), args.named.end(), [&](const auto& argument) { return argument.first == run.name(parameter); });
      if (i < args.positional.size()) {
        if (named != args.named.end()) fail("macro '{}' got multiple values for argument '{}'", signature_.name, named->first);
        run.scope->set(parameter, args.positional[i]);
      } else if (named != args.named.end()) {
        run.scope->set(parameter, named->second);
        args.named.erase(named);
      } else if (i >= first_default) {
        run.scope->set(parameter, signature_.defaults[i - first_default]->evaluate(run));
      } else {
        run.scope->set(parameter, make_undefined("parameter '{}' was not provided", run.name(parameter)));
      }
    }
    set_rest(run, args, count);
  }

  void set_rest(Run& run, Args& args, size_t count) const {
    if (signature_.caller >= 0) {
      const auto given = std::find_if(args.named.begin(), args.named.end(), [](const auto& argument) { return argument.first == "caller"; });
      run.scope->set(signature_.caller, given == args.named.end() ? make_undefined("No caller defined") : given->second);
      if (given != args.named.end()) args.named.erase(given);
    }
    if (signature_.kwargs >= 0) {
      std::vector<Dict::Item> rest;
      for (const auto& [name, value] : args.named) rest.emplace_back(name, value);
      run.scope->set(signature_.kwargs, make_dict(std::move(rest)));
    } else if (!args.named.empty()) {
      fail("macro '{}' takes no keyword argument '{}'", signature_.name, args.named.front().first);
    }
    std::vector<Value> rest;
    if (args.positional.size() > count) rest.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(count), args.positional.end());
    if (signature_.varargs >= 0) run.scope->set(signature_.varargs, make_list(std::move(rest), List::Form::kTuple));
    else if (!rest.empty()) fail("macro '{}' takes not more than {} argument(s)", signature_.name, count);
  }

  const Signature& signature_;
  std::weak_ptr<Scope> scope_;  ///< the run holds it: a macro lies in the scope that it was made in
};

Value make_macro(Run& run, const Signature& signature) {
  run.capture(run.scope);
  return std::shared_ptr<Object>(std::make_shared<Macro>(signature, run.scope));
}

}  // namespace

Flow run_block(Run& run, const Block& block) {
  for (const auto& statement : block) {
    const Flow flow = statement->execute(run);
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Flow Data::act(Run& run) const {
  run.out().add(text);
  return Flow::kOn;
}

Flow Print::act(Run& run) const {
  const Value value = expression->evaluate(run);
  run.line = line;
  add_str(run.out(), value);
  return Flow::kOn;
}

Flow Set::act(Run& run) const {
  const Value value = expression->evaluate(run);
  run.line = line;
  target.assign(run, value);
  return Flow::kOn;
}

Flow FilteredBlock::act(Run& run) const {
  Value value;
  {
    const Inner inner(run);
    Captured captured(run);
    const Flow flow = run_block(run, body);
    if (flow != Flow::kOn) return flow;
    value = captured.take();
    for (const auto& filter : filters) value = filter->apply_to(run, value);
  }
  run.line = line;
  if (target) target->assign(run, value);
  else add_str(run.out(), value);
  return Flow::kOn;
}

Flow If::act(Run& run) const {
  for (const auto& [test, body] : branches)
    if (truth(test->evaluate(run))) return run_block(run, body);
  return run_block(run, otherwise);
}

Flow For::act(Run& run) const {
  Value iterated = source.items->evaluate(run);
  run.line = line;
  std::vector<Value> values = items_of(iterated);
  if (source.test) {
    const Inner inner(run);
    std::erase_if(values, [&](const Value& item) {
      source.target.assign(run, item);
      return !truth(source.test->evaluate(run));
    });
  }
  if (values.empty()) {
    const Inner inner(run);
    return run_block(run, otherwise);
  }
  const Charge charge(values.size() * sizeof(Value));
  const auto state = std::make_shared<Loop>(std::move(values));
  for (; !state->ended(); state->advance()) {
    const Inner inner(run);
    run.scope->set(loop, std::static_pointer_cast<Object>(state));
    source.target.assign(run, state->item());
    const Flow flow = run_block(run, body);
    step(1);
    if (flow == Flow::kBreak) break;
  }
  return Flow::kOn;
}

Flow MacroStatement::act(Run& run) const {
  run.scope->set(name, make_macro(run, signature));
  return Flow::kOn;
}

Flow CallBlock::act(Run& run) const {
  const Value caller = make_macro(run, signature);
  add_str(run.out(), call->call(run, &caller));
  return Flow::kOn;
}

Flow With::act(Run& run) const {
  const Inner inner(run);
  for (const auto& [target, expression] : variables) target.assign(run, expression->evaluate(run));
  return run_block(run, body);
}

}  // namespace flexgen::jinja
