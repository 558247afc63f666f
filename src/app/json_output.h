#pragma once
// What --json gives, on stdout or in a file. One thread.

#include <string>

namespace flexgen {

/// Writes `text` and a line end to `file`, or to stdout if that is empty. Throws Error{io} if it cannot.
void put_json(const std::string& text, const std::string& file);

}  // namespace flexgen
