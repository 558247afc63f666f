#pragma once
// What `format` says in a JSON schema, of those formats that can be honoured. Pure functions; any thread.

#include <cstdint>
#include <string>
#include <string_view>

namespace flexgen {

/// Texts of a format, as a pattern that lets through fewer than the format's own definition does, and none that are not of it.
struct StringFormat {
  std::string pattern;  ///< that the whole text matches; empty: any text is of the format
  int64_t least, most;  ///< characters of a text
};

/// The format of that name; null where it cannot be honoured.
const StringFormat* string_format(std::string_view name);

/// Their names, for messages: "date, time, ...".
std::string string_format_names();

}  // namespace flexgen
