#pragma once
// Log lines for the user, on stderr: progress, warnings, what a run decided. Thread-safe (spdlog).
// Use spdlog's own free functions (spdlog::info, spdlog::warn) after setup_logging().

#include <spdlog/spdlog.h>

#include <string>

namespace flexgen {

/// Sends spdlog's default logger to stderr with the pattern of the command line: with the time, if stderr is no terminal. `level`: the least that is shown, "debug", "info",
/// "warning" or "error"; above "info" tables and progress go too (base/report.h). From main; may be called again.
void setup_logging(const std::string& level = "info");

/// "2024-05-31 09:30:00 ", local time: what lines begin with where stderr is no terminal.
std::string time_stamp();

}  // namespace flexgen
