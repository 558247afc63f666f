#pragma once
// The program's version.

namespace flexgen {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace flexgen
