#pragma once
// Where flexgen keeps what it can make again: profiles of machines, dummy weights, turned matrices. Any thread.

#include <functional>
#include <string>

namespace flexgen {

/// FLEXGEN_CACHE_DIR; else flexgen in XDG_CACHE_HOME, if that is an absolute path, as its specification wants; else
/// .cache/flexgen in HOME. Empty where none of them says where. The directory may not exist yet.
std::string cache_directory();
/// The same from given variables; `variable(name)` is null for one that is not set.
std::string cache_directory(const std::function<const char*(const char*)>& variable);

}  // namespace flexgen
