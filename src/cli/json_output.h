#pragma once
// What --json gives, on stdout or in a file. One thread.

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace flexgen {

struct RunReport;

/// Writes `text` and a line end to `file`, or to stdout if that is empty. Throws Error{io} if it cannot.
void put_json(const std::string& text, const std::string& file);

/// Adds a run's figures: seconds, sequences, tokens, tokens a second, and what each lane did.
void add_report(const RunReport& report, nlohmann::ordered_json* json);

}  // namespace flexgen
