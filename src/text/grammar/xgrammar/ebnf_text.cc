#include "text/grammar/xgrammar/ebnf_text.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "text/grammar/pattern.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

/// At a '\' within a literal or a class.
void check_ebnf_escape(std::string_view escape) {
  const char kind = escape.size() > 1 ? escape[1] : '\0';
  if (kind != 'x' && kind != 'u' && kind != 'U') return;
  const size_t end = std::min(escape.find_first_not_of("0123456789abcdefABCDEF", 2), escape.size());
  if (kind == 'x') {
    if (end > 4)
      fail_user("the escape {}{} of the grammar takes all hexadecimal digits that follow: write \\u and four digits, or \\U and eight",
                escape.substr(0, std::min<size_t>(end, 12)), end > 12 ? "..." : "");
    return;
  }
  const size_t digits = kind == 'u' ? 4 : 8;
  if (end < 2 + digits) return;  // xgrammar says so
  const auto code = static_cast<uint32_t>(std::stoul(std::string(escape.substr(2, digits)), nullptr, 16));
  if (code > 0x10ffff || is_surrogate(code))
    fail_user("the escape {} of the grammar is no character; one beyond \\uffff is \\U and eight hexadecimal digits", escape.substr(0, 2 + digits));
}

/// At a '{' of a grammar: the larger count of a repetition {n}, {n,} or {n,m}, kMostCopies at most; 0 if it is none.
int64_t largest_count(std::string_view repetition) {
  const std::string_view inside = repetition.substr(1, std::min(repetition.find('}'), repetition.size()) - 1);
  int64_t count = 0, most = 0;
  for (const char c : inside) {
    if (c == ',') count = 0;
    else if (c >= '0' && c <= '9') most = std::max(most, count = std::min(kMostCopies, 10 * count + (c - '0')));
    else if (c != ' ') return 0;
  }
  return most;
}

}  // namespace

std::string ebnf_text(std::string_view text) {
  std::string quoted = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') (quoted += '\\') += static_cast<char>(c);
    else if (c < 0x20 || c == 0x7f) quoted += fmt::format("\\u{:04x}", c);  // \x takes all hexadecimal digits that follow
    else quoted += static_cast<char>(c);
  }
  return quoted + '"';
}

void check_ebnf(std::string_view grammar) {
  if (const size_t nul = grammar.find('\0'); nul != std::string_view::npos)
    fail_user("byte {} of the grammar is a NUL byte, which none has; the character is written \\u0000, within a literal or a class", nul + 1);
  char end = '\0';  // of the literal, class or comment that it is in
  int64_t counts = 0;
  for (size_t i = 0; i < grammar.size(); ++i) {
    const char c = grammar[i];
    if (end == '\0' && c == '{' && (counts += largest_count(grammar.substr(i))) > kMostCounts)
      fail_user("the grammar's repetitions {{n,m}} have larger counts than {} together, each counted up to {}: it takes too long to compile", kMostCounts,
                kMostCopies);
    if (end == '\0') end = c == '"' ? '"' : c == '[' ? ']' : c == '#' ? '\n' : '\0';
    else if (c == end) end = '\0';
    else if (c == '\\' && end != '\n') check_ebnf_escape(grammar.substr(i++));
  }
}

}  // namespace flexgen
