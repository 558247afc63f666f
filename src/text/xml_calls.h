#pragma once
// Calls of tools that are written as XML, each argument between marks of its own: the marks of each form, and one reader for all. The function's schema says what a value's text is.
// Pure functions; any thread.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/call_form.h"
#include "text/call_text.h"
#include "text/jinja/value.h"

namespace flexgen {

/// What stands where in a form's calls.
struct XmlMarks {
  CallForm form;
  std::string_view begin, end;  ///< around one call, or several
  std::string_view call,
      call_end;  ///< before a function's name, and behind its arguments; empty: the name stands behind `begin` at once, and its arguments before `end`
  std::string_view name_end;      ///< behind the function's name
  std::string_view key, key_end;  ///< around an argument's name
  std::string_view value;         ///< before its value; empty: that follows at once
  std::string_view value_end;     ///< behind it
  std::string_view quote = "";    ///< around both names
  bool strips_lines = true;       ///< a line end at each end of a value is no part of it
};

/// Null for a form that is none of XML.
const XmlMarks* xml_marks(CallForm form);

/// Of which types the values of a parameter may be, as a set of bits.
using ValueTypes = uint8_t;
inline constexpr ValueTypes kNullType = 1, kBooleanType = 2, kIntegerType = 4, kNumberType = 8, kTextType = 16, kListType = 32, kObjectType = 64;

/// What the values of a parameter may be.
struct ParameterKind {
  ValueTypes types = 0;  ///< none: any
  std::vector<std::shared_ptr<const std::set<std::string, std::less<>>>> texts =
      {};  ///< texts that are listed as values: texts, whatever else they would be read as
};

/// Of functions' parameters, by their names (text/grammar/parameter_types.h). What is not in it may be of any type.
struct ParameterTypes {
  std::map<std::string, std::map<std::string, ParameterKind, std::less<>>, std::less<>> functions;
};

/// What an argument's text says: where only texts may come, that text as it is; else what it is as JSON or as a literal of Python's, if that may come and the text is none of those listed, and the text if it is neither.
/// Where texts cannot come other types are taken, too: a value that is not of its type is for the function to refuse.
jinja::Value typed_value(std::string_view text, const ParameterKind& kind);

/// Throws jinja::Failure for calls that are broken. `types` null: none are known. `held`: they follow a grammar, so what does not begin with the form's own mark is none.
call_text::Found xml_calls(std::string_view text, const XmlMarks& marks, const ParameterTypes* types, bool held);

}  // namespace flexgen
