#pragma once
// Lexer: a template as tokens, with Jinja's rules for blanks (trim_blocks, lstrip_blocks, the signs - and +). Pure function.

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/budget.h"

namespace flexgen::jinja {

/// A failure at a line of the template.
class SyntaxError : public Failure {
 public:
  SyntaxError(int line, const std::string& message) : Failure(message), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

/// A word of a template.
struct Token {
  enum class Kind { kData, kPrintBegin, kPrintEnd, kBlockBegin, kBlockEnd, kName, kText, kInt, kFloat, kOperator, kEnd };
  Kind kind;
  std::string text;  ///< data; a name; a text without quotes and escapes; a number without underscores; an operator
  int line;          ///< from 1

  bool is(Kind wanted, std::string_view wanted_text) const { return kind == wanted && text == wanted_text; }
  bool is_operator(std::string_view sign) const { return is(Kind::kOperator, sign); }
  bool is_name(std::string_view name) const { return is(Kind::kName, name); }
};

/// Ends with a kEnd. Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace flexgen::jinja
