#pragma once
// How many cores this process may use. Any thread.

#include <string>
#include <vector>

namespace flexgen {

/// Those of its affinity mask; at least one.
int usable_cores();

/// Their numbers, ascending; empty if they cannot be told.
std::vector<int> usable_core_numbers();

/// How many of its cores are one process's where each of `all` (it is among them) may run on these: a core is shared by all that may run on it. At least one.
int share_of_cores(const std::vector<int>& own, const std::vector<std::vector<int>>& all);

/// The same for all processes of a machine, containers included; empty if it cannot be told.
std::string machine_id();

}  // namespace flexgen
