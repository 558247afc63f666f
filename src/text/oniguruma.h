#pragma once
// Patterns of tokenizer.json are Oniguruma's, in Ruby's syntax, as PyPI tokenizers compiles them (https://github.com/kkos/oniguruma, doc/RE); ours are PCRE2's.
// Pure function; any thread.

#include <string>

namespace flexgen {

/// The same pattern for PCRE2 with UTF, UCP and MULTILINE, in time linear in its length. What is written alike and means alike stays as it is. Translated are
/// sets within sets and their intersections (`[a[^b]]`, `[a-z&&[^aeiou]]`), intervals that another quantifier repeats (`\p{N}{1,3}+` takes all digits) or that
/// begin with a comma, `(?m)` (a dot that matches line ends), \h (hexadecimal digits), \v, \uHHHH, \w and \b as Unicode's words, POSIX brackets, scripts, and
/// properties by their long names. What PCRE2 does not have either is left for it to refuse. \s stays as it is too, which is fast, and takes U+180E, which has
/// been no space since Unicode 6.3; with `exact_spaces` it does not. Throws Error{user} naming `where` for sets that do not end or are more than 100 deep.
std::string pcre_of_oniguruma(const std::string& pattern, const std::string& where, bool exact_spaces = false);

}  // namespace flexgen
