#pragma once
// Log lines for the user, on stderr: progress, warnings, what a run decided. Thread-safe (spdlog).
// Use spdlog's own free functions (spdlog::info, spdlog::warn) after setup_logging().

#include <spdlog/spdlog.h>

namespace flexgen {

/// Sends spdlog's default logger to stderr with the pattern of the command line. Call once, from main.
void setup_logging(bool verbose);

}  // namespace flexgen
