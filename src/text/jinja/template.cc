#include "text/jinja/template.h"

#include <algorithm>

#include "text/jinja/functions.h"
#include "text/jinja/lexer.h"

namespace flexgen::jinja {

Template::Template(std::string_view source) {
  try {
    syntax_ = parse_template(source);
  } catch (const SyntaxError& error) {
    throw TemplateError(error.line(), error.what(), false);
  }
}

std::string Template::render(const std::vector<std::pair<std::string, Value>>& variables, std::time_t now, bool strict) const {
  Budget budget;
  Run run(syntax_.names, now);
  run.strict = strict;
  try {
    const auto outermost = std::make_shared<Scope>(nullptr);
    for (size_t i = 0; i < syntax_.names.size(); ++i) {
      const auto given = std::find_if(variables.begin(), variables.end(), [&](const auto& variable) { return variable.first == syntax_.names[i]; });
      if (given != variables.end()) outermost->set(static_cast<int>(i), given->second);
      else if (auto function = global_function(syntax_.names[i])) outermost->set(static_cast<int>(i), *function);
    }
    run.scope = std::make_shared<Scope>(outermost);
    Captured out(run);
    run_block(run, syntax_.body);
    return out.take();
  } catch (const TemplateError&) {
    throw;
  } catch (const Failure& failure) {
    throw TemplateError(run.line, failure.what(), failure.raised());
  }
}

bool Template::mentions(std::string_view name) const { return std::find(syntax_.names.begin(), syntax_.names.end(), name) != syntax_.names.end(); }

}  // namespace flexgen::jinja
