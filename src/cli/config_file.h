#pragma once
// Reads a --config file: flags as TOML. Pure, but for the file that it reads.

#include <cstdint>
#include <string>
#include <vector>

namespace flexgen {

/// One key of the file.
struct ConfigEntry {
  std::string command;              ///< of the table that it is in ([run-batch]); empty: in none
  std::string key;                  ///< "cpu-memory"
  std::vector<std::string> values;  ///< as they would be typed; several of an array, one otherwise
  int64_t line = 0;
};

/// In the file's order. Throws Error{user} that names file and line for what is no TOML, or no value of a flag; Error{io} if it cannot be read.
std::vector<ConfigEntry> read_config_file(const std::string& path);

}  // namespace flexgen
