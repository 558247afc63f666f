// Fuzz target: a template that is made of the input's bytes, piece by piece (so that most of them parse), or the bytes as they are. It may be refused
// or fail with a TemplateError; it may not crash, hang or grow without bound.

#include <cstdint>
#include <iterator>
#include <string>

#include "text/jinja/json_values.h"
#include "text/jinja/template.h"

namespace {

using namespace flexgen::jinja;

// clang-format off
const char* const kPieces[] = {
    "{{ ", " }}", "{% if ", "{% elif ", "{% else %}", "{% endif %}", "{% for x in ", "{% for k, v in ", "{% endfor %}", "{% set x = ", "{% set ns.a = ", "{% set y %}", "{% endset %}",
    "{% macro f(a, b=1) %}", "{% endmacro %}", "{% call f(1) %}", "{% endcall %}", "{% filter upper %}", "{% endfilter %}", "{% with a = 1 %}", "{% endwith %}", "{% break %}", "{% continue %}",
    "{% generation %}", "{% endgeneration %}", "{% raw %}", "{% endraw %}", " %}", " -%}", "{%- ", "{# ", " #}", "\n", "  ", "text", "é🙂",
    "messages", "tools", "x", "ns", "f", "loop", "loop.index", "loop.cycle", "caller()", "varargs", "kwargs", "range(", "namespace(a=", "dict(", "joiner()", "cycler(1, 2)", "strftime_now('%Y')",
    "raise_exception(", "1", "-1", "0", "2.5", "99999", "'a'", "'b c'", "''", "'%s %d'", "'{} {:>9}'", "none", "true", "[", "]", "{", "}", "(", ")", ", ", ": ", "=", ".", "[0]", "[::-1]", "[1:]",
    " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " == ", " < ", " in ", " not in ", " is ", " is not ", " and ", " or ", "not ", " if ", " else ", "defined", "string", "mapping", "odd",
    "|", "|length", "|tojson", "|tojson(indent=2)", "|list", "|join(',')", "|first", "|last", "|sort", "|unique", "|map('upper')", "|map(attribute='a')", "|select('odd')", "|selectattr('role')",
    "|default('x')", "|indent(3)", "|replace('a', 'aa')", "|int", "|float", "|round(2)", "|dictsort", "|items", "|batch(2)", "|truncate(9)", "|safe", "|e", "|reverse", "|sum", "|min", "|trim", "|title",
    ".items()", ".keys()", ".get('a')", ".split(", ".strip()", ".replace('a', 'b')", ".format(", ".join(", ".upper()", ".startswith('a')", ".a", ".role", ".content", ".find('a')", ".partition('a')",
    ".splitlines()", ".center(9)", ".zfill(5)", ".rsplit(none, 1)", ".title()", "*", "**"};
// clang-format on

std::string made_of(const uint8_t* data, size_t size) {
  std::string source;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] < std::size(kPieces)) source += kPieces[data[i]];
    else if (i + 1 < size) source += static_cast<char>(data[++i]);
  }
  return source;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const Value given = parse_json_value(
      R"({"messages": [{"role": "user", "content": "a b\n é", "a": 1}, {"role": "assistant", "content": [{"type": "text", "text": "b"}], "a": null}, {"role": "tool", "a": 2.5}],
          "tools": {"b": [1, 2, [3]], "a": "x", "items": 18446744073709551616}})",
      1000);
  std::vector<std::pair<std::string, Value>> variables;
  for (const auto& [name, value] : given.dict()->items()) variables.emplace_back(name.text()->bytes, value);
  const std::string source = (data[0] & 1) != 0 ? made_of(data + 1, size - 1) : std::string(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const std::string text = Template(source).render(variables, 1753272000);
    if (static_cast<int64_t>(text.size()) > kMaxRunBytes) __builtin_trap();
  } catch (const TemplateError& error) {
    if (error.line() < 1) __builtin_trap();
  }
  return 0;
}
