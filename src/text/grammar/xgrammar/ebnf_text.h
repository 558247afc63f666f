#pragma once
// Texts in xgrammar's grammars. Pure functions; any thread.

#include <string>
#include <string_view>

namespace flexgen {

/// The text (UTF-8) as a literal of a grammar.
std::string ebnf_text(std::string_view text);

/// Throws Error{user} that names the first escape in the grammar's literals and classes that is taken for another character than it looks like (\x with more than two digits), or for none;
/// or a NUL byte, which xgrammar takes for the grammar's end; or where counts of repetitions are more than kMostCounts (pattern.h).
void check_ebnf(std::string_view grammar);

}  // namespace flexgen
