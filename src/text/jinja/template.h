#pragma once
// Template: a Jinja template with the settings of transformers (trim_blocks, lstrip_blocks, loop controls, generation blocks; an immutable sandbox), without other
// templates. Immutable; any thread may render.

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/parser.h"

namespace flexgen::jinja {

/// What a template cannot do, and where.
class TemplateError : public Failure {
 public:
  TemplateError(int line, const std::string& message, bool raised) : Failure(message, raised), line_(line) {}
  int line() const { return line_; }  ///< from 1

 private:
  int line_;
};

class Template {
 public:
  /// Throws TemplateError.
  explicit Template(std::string_view source);

  /// The text, with these variables. `now`: what strftime_now tells. Throws TemplateError, also where budget.h's bounds end.
  /// `strict`: a name, an attribute or an item that is not there is an error, but for the tests defined and undefined and the filter default.
  std::string render(const std::vector<std::pair<std::string, Value>>& variables, std::time_t now, bool strict = false) const;
  /// Whether it uses a variable of this name, or sets one.
  bool mentions(std::string_view name) const;

 private:
  Syntax syntax_;
};

}  // namespace flexgen::jinja
