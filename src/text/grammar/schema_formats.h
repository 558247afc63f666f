#pragma once
// What `format` says in a JSON schema, of those formats that can be honoured. Pure functions; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

/// Texts of a format, as a pattern that lets through fewer than the format's own definition does, and none that are not of it.
struct FormatTexts {
  std::string pattern;  ///< that the whole text matches; empty: any text is of the format
  int64_t least, most;  ///< characters of a text
};

/// What a format is.
struct StringFormat {
  std::vector<FormatTexts> texts;  ///< the first is what is meant; the others are fewer, for what stands beside the format
  std::string all = "";            ///< a pattern of texts that are of it, more than are written where nothing else is said; empty: those of the first
};

/// The format of that name; null where it cannot be honoured.
const StringFormat* string_format(std::string_view name);

/// Texts that are of the format, have so many characters, and match `pattern` (as a schema has it, empty for none); nothing where none are known.
std::optional<FormatTexts> format_texts(const StringFormat& format, const std::string& pattern, int64_t least, int64_t most);

/// Their names, for messages: "date, time, ...".
std::string string_format_names();

}  // namespace flexgen
