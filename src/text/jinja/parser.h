#pragma once
// Parser: a template's tokens as a tree, by Jinja's grammar. Pure function.

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/statements.h"

namespace flexgen::jinja {

/// A parsed template.
struct Syntax {
  Block body;
  std::vector<std::string> names;  ///< of variables, by their numbers
};

/// Throws SyntaxError, also for what is not supported: other templates (include, import, extends), named blocks, loops that call themselves.
Syntax parse_template(std::string_view source);

}  // namespace flexgen::jinja
