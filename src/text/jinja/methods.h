#pragma once
// Methods of Python's types. Those that would change a list or a dict are refused, as Jinja's immutable sandbox does.

#include <optional>
#include <string_view>

#include "text/jinja/arguments.h"

namespace flexgen::jinja {

/// The method, bound to the value; none if its type has none of the name. Undefined for one that is refused.
std::optional<Value> method_of(const Value& value, std::string_view name);

/// Each kind's own; null if there is none.
Operation text_method(std::string_view name);
Operation dict_method(std::string_view name);
Operation list_method(std::string_view name, bool is_list);

/// str.split() and rsplit(): without a separator at blanks. `most` < 0: no limit.
std::vector<std::string_view> split_text(std::string_view text, std::optional<std::string_view> separator, int64_t most, bool from_right);
/// str.replace(). `most` < 0: all.
std::string replaced(std::string_view text, std::string_view old, std::string_view by, int64_t most);
/// str.splitlines().
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace flexgen::jinja
